"""The programs as commands that work in any folder: ``divconq-train``, ``divconq-evaluate``, ``divconq-export`` ...

Each takes the folder of its configuration; None is the one that is installed. What takes seconds to import is imported
only when the command line has been found right.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from divconq_pl.app.checks.given import check_evaluation, check_exporting, check_search, check_training
from divconq_pl.app.command import run_command
from divconq_pl.app.console import take_over_messages
from divconq_pl.app.going_on import take_up


def train(config_dir: Path | None = None) -> None:
    """Train an embedding: ``python train.py`` from anywhere."""
    _run("train", _begin_training, config_dir)


def evaluate(config_dir: Path | None = None) -> None:
    """Evaluate checkpoints: ``python evaluate.py`` from anywhere."""
    _run("evaluate", check_evaluation, config_dir)


def search(config_dir: Path | None = None) -> None:
    """Index a folder of images and search in it, from anywhere."""
    _run("search", check_search, config_dir)


def export(config_dir: Path | None = None) -> None:
    """Write the network of a checkpoint to files that work without this package."""
    _run("export", check_exporting, config_dir, module="export_network")


def _begin_training(cfg: DictConfig) -> float | None:
    check_training(cfg)
    return take_up(cfg)


def _run(name: str, begin: Callable[[DictConfig], Any], config_dir: Path | None, module: str | None = None) -> None:
    """Run a program: what is quick, and then, unless that knows the result already, its module."""

    def main(cfg: DictConfig) -> Any:
        if (known := begin(cfg)) is not None:
            return known
        program = import_module(f"divconq_pl.app.{module or name}")
        take_over_messages()
        return program.main(cfg)

    run_command(main, config_dir or Path(str(files("divconq_pl.conf"))), name)
