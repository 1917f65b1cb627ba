"""What was stopped goes on: the whole command to type, and what of a sweep is there already."""

from __future__ import annotations

import json
import math
import shlex
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, read_write

from divconq_pl.app.console import say
from divconq_pl.app.results import RESULTS_FILE, read_results, split_numbers
from divconq_pl.errors import InputError
from divconq_pl.inference.finding import list_checkpoints

SWEEP_FILE = "multirun.yaml"
FAILURE_FILE = "failure.json"
"""Why a run of a sweep has failed: ``message``, exit ``code`` and ``traceback``."""

_SETUP = {".hydra", ".submitit", "csv", "tensorboard", SWEEP_FILE, FAILURE_FILE}
"""What a run or a sweep leaves before its first step, beside files of its log."""


@dataclass
class _Folder:
    path: Path
    made: list[Path]
    was_empty: bool
    command: str | None


_begun: list[_Folder] = []


def begin_folder(path: Path, command: str | None = None) -> list[Path]:
    """Make the folder of a run or a sweep; if it was empty and nothing comes of it, :func:`close_folders` removes it.

    Args:
        path: the folder.
        command: goes on with the sweep if it is stopped.

    Returns:
        What it held before.
    """
    made = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    held = list(path.iterdir())
    _begun.append(_Folder(path, made, not held, command))
    return held


def end_sweep() -> None:
    """Note that the sweep has come to its end, so there is nothing to go on with."""
    for folder in _begun:
        folder.command = None


def close_folders() -> None:
    """Remove what was begun and holds nothing, and say how a sweep that was stopped goes on."""
    while _begun:
        folder = _begun.pop()
        if not folder.was_empty or _holds_something(folder.path):
            if folder.command:
                print(f"the sweep was stopped; go on with: {folder.command}")
            continue
        for entry in folder.path.iterdir():
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        with suppress(OSError):  # a folder in which there is something else by now
            for path in folder.made:
                path.rmdir()


def _holds_something(folder: Path) -> bool:
    others = [path for path in folder.iterdir() if path.name not in _SETUP and path.suffix != ".log"]
    return any(not (path / ".hydra").is_dir() or _holds_something(path) for path in others)


def spell_program(hydra: Any) -> str:
    """Write what stands before the settings in a command: ``python train.py``, and where its configuration is.

    Args:
        hydra: what Hydra knows of the run.
    """
    program = sys.argv[0]
    name = ["python", program] if program.endswith(".py") else [Path(program).name]
    return shlex.join([*name, *_list_flags(hydra)])


def spell_run(hydra: Any, *more: str) -> str:
    """Write the command that makes this run, and no other of its sweep.

    Args:
        hydra: what Hydra knows of the run.
        more: further overrides, in place of those of the same keys.
    """
    return f"{spell_program(hydra)} {shlex.join(_list_settings(hydra, *more))}"


def spell_sweep(hydra: Any) -> str:
    """Write the command that goes on with this sweep."""
    given = [
        text for text in _to_list(hydra.overrides.hydra) if not text.startswith(("hydra.mode=", "hydra.sweep.dir="))
    ]
    settings = [*_list_settings(hydra), *given, f"hydra.sweep.dir={hydra.sweep.dir}"]
    return f"{spell_program(hydra)} -m {shlex.join(settings)}"


def _list_flags(hydra: Any) -> list[str]:
    sources = hydra.runtime.config_sources
    flags = [f"--config-dir={source.path}" for source in sources if source.provider == "command-line"]
    if hydra.job.config_name != "train":
        flags.append(f"--config-name={hydra.job.config_name}")
    return flags


def _list_settings(hydra: Any, *more: str) -> list[str]:
    replaced = {text.partition("=")[0] for text in more}
    task = [text for text in _to_list(hydra.overrides.task) if text.partition("=")[0].lstrip("+") not in replaced]
    return [*task, *more]


def take_up(cfg: DictConfig) -> float | None:
    """Look what a stopped sweep has left of this run: its result, or a checkpoint that ``ckpt_path`` then names.

    Processes that the Trainer starts for this run are given its own command, not that of the sweep.

    Args:
        cfg: the configuration of the run.

    Returns:
        The result of a finished run of a sweep, see :func:`score`; None for all others.

    Raises:
        InputError: if the folder holds a run with other settings, or one that a search has seen fail.
    """
    hydra: Any = HydraConfig.get()
    if hydra.mode != RunMode.MULTIRUN:
        return None
    folder, failure = Path(hydra.runtime.output_dir), Path(hydra.runtime.output_dir) / FAILURE_FILE
    if (folder / RESULTS_FILE).is_file():
        results = read_results(folder)
        if results["overrides"] != _to_list(hydra.overrides.task):
            asked = " ".join(results["overrides"])
            raise InputError(f"{str(folder)!r} holds a finished run of {asked}; choose another hydra.sweep.dir=...")
        failure.unlink(missing_ok=True)
        say(f"run {folder.name} is finished already")
        return score(results, cfg.checkpoint.monitor)
    if failure.is_file():
        if is_search(hydra):  # it repeats what it did, so that it comes to where it was
            raise InputError(json.loads(failure.read_text(encoding="utf-8"))["message"])
        failure.unlink()
    if kept := list_checkpoints(folder):
        cfg.ckpt_path = str(kept[-1])
        say(f"run {folder.name} goes on from {kept[-1]}")
        if (folder / "csv").is_dir():  # Lightning's logger begins with an empty one
            (folder / "csv").rename(folder / f"csv_until_{kept[-1].stat().st_mtime_ns}")
    with read_write(hydra):
        hydra.run.dir = str(folder)
    settings = _list_settings(hydra, *([f"ckpt_path={kept[-1]}"] if kept else []))
    sys.argv[1:] = [*_list_flags(hydra), *settings, "hydra.mode=RUN"]
    return None


def score(results: Mapping[str, Any], monitor: str) -> float:
    """Return what a sweep may optimise: the metric by which the best epoch is chosen, or Recall@1 where none is."""
    return float(results.get(monitor, results.get("test/recall_at_1", math.nan)))


def is_search(hydra: Any) -> bool:
    """Tell whether what runs come next depends on the results of those before."""
    return bool(hydra.runtime.choices["hydra/sweeper"] != "basic")


def list_unfinished(folder: Path) -> Iterator[tuple[str, list[str], dict[str, Any] | None]]:
    """Yield the runs of a sweep that have no results: name, overrides, and why it has failed; None if it was stopped.

    Args:
        folder: of the sweep.
    """
    for path in sorted(folder.glob("*/.hydra/overrides.yaml"), key=lambda path: split_numbers(path.parts[-3])):
        run = path.parents[1]
        failure = run / FAILURE_FILE
        if failure.is_file() or not (run / RESULTS_FILE).is_file():
            why = json.loads(failure.read_text(encoding="utf-8")) if failure.is_file() else None
            yield run.name, _to_list(OmegaConf.load(path)), why


def read_sweep(folder: Path) -> list[str] | None:
    """Return the overrides that a sweep was started with; None if the folder holds no sweep."""
    path = folder / SWEEP_FILE
    overrides = OmegaConf.select(OmegaConf.load(path), "hydra.overrides.task") if path.is_file() else None
    return None if overrides is None else _to_list(overrides)


def _to_list(overrides: Any) -> list[str]:
    content: Any = OmegaConf.to_container(overrides, resolve=False)
    return list(map(str, content))
