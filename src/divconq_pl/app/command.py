"""What the command-line programs share: run folders that are never overwritten, errors in one line, exit codes."""

from __future__ import annotations

import difflib
import errno
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from traceback import walk_tb
from typing import Any, NoReturn

import pytorch_lightning as pl
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException, MissingConfigException
from hydra.experimental.callback import Callback
from lightning_fabric.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from pytorch_lightning.utilities.exceptions import SIGTERMException

from divconq_pl.app.results import average_over_seeds, collect_runs, how_chosen, print_results
from divconq_pl.errors import InputError

CONFIG_KEY = "divconq_pl_config"
"""Where a checkpoint keeps the configuration of its run."""

DISK_AT_FAULT, INPUT_AT_FAULT, INTERRUPTED = 1, 2, 130

_OF_INPUT = (InputError, HydraException, OmegaConfBaseException, MisconfigurationException)
_OF_DISKS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ESTALE)


def run_command(main: Callable[[], Any], config_dir: Path, config_name: str) -> None:
    """Run a Hydra program, and turn what is wrong with the input into one line and exit code 2.

    That is what this package refuses; whatever comes up before the program itself begins or while it builds what is
    configured; and files that cannot be read or written where the user wants them. A disk that is full or fails gives
    one line and exit code 1, Ctrl-C and SIGTERM give 130; all else keeps its traceback and gives 1.

    Args:
        main: the decorated entry point.
        config_dir: the folder of its configuration.
        config_name: the primary configuration in it.
    """
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # or Hydra would print and exit before we see the error
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except SystemExit as stop:
        # The Trainer gives 1 for Ctrl-C, and 0 for SIGTERM.
        if isinstance(stop, SIGTERMException) or isinstance(stop.__context__, KeyboardInterrupt):
            sys.exit(INTERRUPTED)
        raise
    except Exception as error:
        code = _exit_code(error, main)
        if code is None:
            raise
        _stop(explain(error, sys.argv[1:], config_dir, config_name), code)


def _exit_code(error: Exception, main: Callable[[], Any]) -> int | None:
    """Tell whether an error is of the input or of a disk; None if it is neither, and of the program then."""
    began = getattr(main, "__wrapped__", main).__code__
    if isinstance(error, _OF_INPUT) or all(frame.f_code is not began for frame, _ in walk_tb(error.__traceback__)):
        return INPUT_AT_FAULT
    chain = _chain(error)
    if not all(isinstance(link, (OSError, *_OF_INPUT)) for link in chain):
        return None  # what a program does at its end, such as to save a checkpoint, may fail after its own failure
    if any(isinstance(link, _OF_INPUT) for link in chain):
        return INPUT_AT_FAULT
    if any(isinstance(link, OSError) and link.errno in _OF_DISKS for link in chain):
        return DISK_AT_FAULT
    return INPUT_AT_FAULT if any(getattr(link, "filename", None) is not None for link in chain) else None


def _chain(error: BaseException) -> list[BaseException]:
    """Return an error and all that led to it, the first of them last."""
    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(cause)
    return chain


def explain(error: BaseException, arguments: list[str], config_dir: Path, config_name: str) -> str:
    """Say in one line what is wrong with the input, and what exists instead.

    Args:
        error: what Hydra, Lightning or this package raised.
        arguments: the command line's arguments.
        config_dir: the folder of the configuration.
        config_name: the primary configuration in it.
    """
    chain = _chain(error)
    for link in chain:
        if isinstance(link, (InputError, MisconfigurationException)):
            return _one_line(link)
        if isinstance(link, MissingConfigException) and link.options:
            group, _, wrong = str(link.missing_cfg_file).rpartition("/")
            return f"there is no {group}={wrong}; {_existing(wrong, link.options, group)}"
        if isinstance(link, MissingMandatoryValue):
            missed = _where_to_set(str(link.full_key), config_dir)
            return f"{missed} is not given; add {missed}=... to the command"
    if isinstance(error, OSError):
        causes = [link.__cause__ for link in chain]
        named = [link for link in chain if isinstance(link, OSError) and link.filename and link not in causes]
        return f"{named[-1].filename!r} {named[-1].strerror}" if named else f"the disk fails: {_one_line(error)}"
    text = _one_line(error)
    if key := re.match(r"Could not override '([\w./@-]+)'|.*[Kk]ey '([\w.]+)' is not in struct", text):
        wrong = key[1] or key[2]
        try:
            return f"there is no {wrong!r}; {_known_keys(wrong, arguments, config_dir, config_name)}"
        except HydraException:  # some other argument is wrong, too
            return f"there is no {wrong!r}"
    return text


def _known_keys(wrong: str, arguments: list[str], config_dir: Path, config_name: str) -> str:
    """List what exists where a key was not found."""
    groups = _groups(config_dir)
    choices = [a for a in arguments if a.partition("=")[0] in groups and re.fullmatch(r"\w+=\w+", a)]
    with initialize_config_dir(str(config_dir.resolve()), version_base="1.3"):
        config = compose(config_name, choices)
    parent, _, name = wrong.rpartition(".")
    while parent and not isinstance(OmegaConf.select(config, parent), DictConfig):
        parent, _, name = parent.rpartition(".")
    node = OmegaConf.select(config, parent) if parent else config
    keys = [str(key) for key in node if not str(key).startswith("_")] if node else []
    return _existing(name, keys, parent, joint=".")


def _groups(config_dir: Path) -> list[str]:
    return sorted(path.name for path in config_dir.iterdir() if path.is_dir())


def _where_to_set(key: str, config_dir: Path) -> str:
    """Return the key that stands for a value in all of its places: dataset.root for data.dataset.root."""
    parts, groups = key.split("."), _groups(config_dir)
    return ".".join(parts[max((i for i, part in enumerate(parts[:-1]) if part in groups), default=0) :])


def _existing(wrong: str, names: Sequence[str], parent: str, joint: str = "=") -> str:
    """List names, the one first that is most like the wrong one."""
    near = difflib.get_close_matches(wrong, names, 1)
    hint = f"did you mean {joint.join(filter(None, (parent, near[0])))!r}? " if near else ""
    return f"{hint}{parent or 'the configuration'} has: {', '.join(sorted(names)) or 'nothing to set'}"


def _one_line(error: BaseException | str) -> str:
    text = str(error)
    if text.startswith("Caught ") and "Original Traceback" in text:  # from a worker that loads images, by torch
        text = text.rpartition(f"{type(error).__qualname__}: ")[2]
    return " ".join(text.split())


def _stop(message: str, code: int = INPUT_AT_FAULT) -> NoReturn:
    sys.stderr.write(f"error: {message}\n")
    sys.exit(code)


class RunFolders(Callback):
    """Refuse a run folder that holds something already, and compare the runs of a sweep at its end."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check the folder of a single run before anything is written."""
        _check_new("hydra.run.dir", config.hydra.run.dir)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check the folder of a sweep before anything is written."""
        _check_new("hydra.sweep.dir", config.hydra.sweep.dir)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Print a table of all runs, averaged over seeds."""
        runs = collect_runs(config.hydra.sweep.dir)
        if runs:
            title = f"Results of {config.hydra.sweep.dir}"
            print_results(average_over_seeds(runs), title=", ".join(filter(None, (title, how_chosen(runs)))))


def _check_new(name: str, folder: str) -> None:
    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
        occupied = [entry for entry in path.iterdir() if entry.name != ".hydra" and entry.suffix != ".log"]
        if not occupied:
            (path / ".writable").touch()
            (path / ".writable").unlink()
    except OSError as error:
        _stop(f"the run folder {folder!r} cannot be written ({error.strerror}); choose another {name}=...")
    if occupied:
        _stop(f"the run folder {folder!r} is not empty, and nothing is overwritten; choose another {name}=...")


class KeepConfig(pl.Callback):
    """Keep the configuration of a run in its checkpoints, so that one file is enough to evaluate it.

    Args:
        config: the configuration of the run.
    """

    def __init__(self, config: DictConfig) -> None:
        self._config = OmegaConf.to_container(config, resolve=True)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the configuration to a checkpoint."""
        checkpoint[CONFIG_KEY] = self._config
