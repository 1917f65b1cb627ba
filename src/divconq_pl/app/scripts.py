"""The programs as commands that work in any folder: ``divconq-train``, ``divconq-evaluate``, ``divconq-search``."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from divconq_pl.app import evaluate as evaluation_program
from divconq_pl.app import train as training_program
from divconq_pl.app.command import run_command


def train() -> None:
    """Train an embedding: ``python train.py`` from anywhere."""
    run_command(training_program.main, _find_configuration(), "train")


def evaluate() -> None:
    """Evaluate checkpoints: ``python evaluate.py`` from anywhere."""
    run_command(evaluation_program.main, _find_configuration(), "evaluate")


def search() -> None:
    """Index a folder of images and search in it, from anywhere."""
    from divconq_pl.app import search as search_program

    run_command(search_program.main, _find_configuration(), "search")


def _find_configuration() -> Path:
    return Path(str(files("divconq_pl.conf")))
