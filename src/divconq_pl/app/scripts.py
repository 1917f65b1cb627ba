"""The programs as commands that work in any folder: ``divconq-train``, ``divconq-evaluate``, ``divconq-export`` ...

What takes seconds to import is imported only when the command line has been found right.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from divconq_pl.app.checks.given import check_evaluation, check_search, check_training
from divconq_pl.app.command import run_command
from divconq_pl.app.console import take_over_messages
from divconq_pl.app.going_on import take_up


def train(config_dir: Path | None = None) -> None:
    """Train an embedding: ``python train.py`` from anywhere.

    Args:
        config_dir: the folder of its configuration; None for the one that is installed.
    """
    run_command(_train, config_dir or _find_configuration(), "train")


def evaluate(config_dir: Path | None = None) -> None:
    """Evaluate checkpoints: ``python evaluate.py`` from anywhere.

    Args:
        config_dir: the folder of its configuration; None for the one that is installed.
    """
    run_command(_evaluate, config_dir or _find_configuration(), "evaluate")


def search(config_dir: Path | None = None) -> None:
    """Index a folder of images and search in it, from anywhere.

    Args:
        config_dir: the folder of its configuration; None for the one that is installed.
    """
    run_command(_search, config_dir or _find_configuration(), "search")


def export(config_dir: Path | None = None) -> None:
    """Write the network of a checkpoint to files that work without this package.

    Args:
        config_dir: the folder of its configuration; None for the one that is installed.
    """
    run_command(_export, config_dir or _find_configuration(), "export")


def _train(cfg: DictConfig) -> float:
    check_training(cfg)
    if (known := take_up(cfg)) is not None:
        return known
    score: float = _import_program("train")(cfg)
    return score


def _evaluate(cfg: DictConfig) -> None:
    check_evaluation(cfg)
    _import_program("evaluate")(cfg)


def _search(cfg: DictConfig) -> None:
    check_search(cfg)
    _import_program("search")(cfg)


def _export(cfg: DictConfig) -> None:
    _import_program("export_network")(cfg)


def _import_program(name: str) -> Callable[[DictConfig], Any]:
    main: Callable[[DictConfig], Any] = import_module(f"divconq_pl.app.{name}").main
    take_over_messages()
    return main


def _find_configuration() -> Path:
    return Path(str(files("divconq_pl.conf")))
