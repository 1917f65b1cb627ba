"""Run a program of the command line: errors in one line, and exit codes.

How a program speaks to its user:

- It prints what was asked for, and what to do next, to standard output: tables, the folder of the run, the checkpoint
  to go on from.
- It warns (``warnings``, ``rank_zero_warn``) on standard error when it goes on although something may not be as wanted.
- It logs (``logging``, ``rank_zero_info``) what it is doing, such as a division, and what Lightning reports.
- Training keeps all of this in its log file, too; see :mod:`divconq_pl.app.console`.
- It reads the command line, and refuses what can be told from it alone, before it imports anything that takes seconds.
- It ends with one line ``error: ...`` on standard error, and an exit code, when it cannot go on.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path
from traceback import walk_tb
from typing import Any, NoReturn

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from divconq_pl.app.console import log_warnings
from divconq_pl.app.explanation import (
    explain,
    find_own_folder,
    is_out_of_shared_memory,
    list_causes,
    list_lightning_errors,
)
from divconq_pl.app.going_on import close_folders
from divconq_pl.data.decoding import printable
from divconq_pl.errors import InputError

DISK_AT_FAULT, INPUT_AT_FAULT, INTERRUPTED = 1, 2, 130

_OF_INPUT = (InputError, HydraException, OmegaConfBaseException)
_OF_DISKS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ESTALE)


def run_command(main: Callable[[DictConfig], Any], config_dir: Path, config_name: str) -> None:
    """Run a program with Hydra, and turn what is wrong with the input into one line and exit code 2.

    That covers everything this package refuses; whatever is raised before the program itself begins or while it builds
    what is configured; and files that cannot be read or written where the user wants them. A disk, or shared memory,
    that is full or fails gives one line and exit code 1, Ctrl-C and SIGTERM give 130; any other exception keeps its
    traceback and gives 1.

    Args:
        main: the program, which takes the configuration.
        config_dir: the folder of its configuration.
        config_name: the primary configuration in it.
    """
    for argument in sys.argv[1:]:
        if (shown := printable(argument)) != argument:
            end_with_error(f"'{shown}' is not UTF-8, as a command has to be; rename that file or folder")
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # or Hydra would print and exit before we see the error
    OmegaConf.register_new_resolver("choices", lambda *, _root_: _list_choices(_root_), replace=True)

    def refuse(error: Exception) -> None:
        if (code := choose_exit_code(error, main)) is not None:
            end_with_error(explain(error, sys.argv[1:], config_dir, config_name), code)

    def run(cfg: DictConfig) -> Any:
        try:
            return main(cfg)
        except Exception as error:
            if HydraConfig.get().mode != RunMode.MULTIRUN:  # in which others go on
                refuse(error)  # here, or Hydra would first write a line of its own
            raise

    completing = "COMP_LINE" in os.environ and "-sc" in sys.argv
    if completing and (own := find_own_folder(os.environ["COMP_LINE"].split())):
        sys.argv += ["--config-dir", own]  # the shell asks about a line without handing on what is in it
    try:
        with log_warnings():
            hydra.main(version_base="1.3", config_path=str(config_dir.resolve()), config_name=config_name)(run)()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except BrokenPipeError:  # whoever reads the output, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except SystemExit as stop:
        # The Trainer gives 1 for Ctrl-C, and 0 for SIGTERM, whose exception is known by its name: its module is slow.
        if type(stop).__name__ == "SIGTERMException" or isinstance(stop.__context__, KeyboardInterrupt):
            sys.exit(INTERRUPTED)
        raise
    except Exception as error:
        if completing:
            sys.exit(INPUT_AT_FAULT)  # a line that is not finished is no mistake to be told of
        refuse(error)
        raise
    finally:
        close_folders()


def _list_choices(config: DictConfig) -> str:
    """List for ``--help`` what each group of a program has; folders inside a group hold what its choices share."""
    groups = sorted(group for group in config.hydra.runtime.choices if "/" not in group)
    loader = GlobalHydra.instance().config_loader()  # which knows the user's own, too
    return "\n".join(f"{group}: {', '.join(sorted(loader.get_group_options(group)))}" for group in groups)


def end_with_error(message: str, code: int = INPUT_AT_FAULT) -> NoReturn:
    """Write an error in one line and end the program.

    Args:
        message: one sentence.
        code: the exit code.
    """
    sys.stderr.write(f"error: {message}\n")
    sys.exit(code)


def choose_exit_code(error: Exception, main: Callable[[DictConfig], Any]) -> int | None:
    """Choose the exit code of an error of the input or of a disk; None for any other, a fault of the program."""
    of_input: tuple[type[Exception], ...] = (*_OF_INPUT, *list_lightning_errors())
    begun = any(frame.f_code is main.__code__ for frame, _ in walk_tb(error.__traceback__))
    if isinstance(error, of_input) or not begun:
        return INPUT_AT_FAULT
    causes = list_causes(error)
    if any(map(is_out_of_shared_memory, causes)):
        return DISK_AT_FAULT
    if not all(isinstance(cause, (OSError, *of_input)) for cause in causes):
        return None  # what a program does at its end, such as to save a checkpoint, may fail after its own failure
    if any(isinstance(cause, of_input) for cause in causes):
        return INPUT_AT_FAULT
    if any(isinstance(cause, OSError) and cause.errno in _OF_DISKS for cause in causes):
        return DISK_AT_FAULT
    return INPUT_AT_FAULT if any(getattr(cause, "filename", None) is not None for cause in causes) else None
