"""What a run hands to its loggers beside what Lightning logs: settings, test metrics, pictures and the table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pytorch_lightning.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger


def log_settings(loggers: Iterable[Logger], settings: Mapping[str, Any]) -> None:
    """Log the settings of a run, nested keys joined by dots."""
    for logger in loggers:
        logger.log_hyperparams(dict(settings))


def log_test(
    loggers: Iterable[Logger], metrics: Mapping[str, float], settings: Mapping[str, Any], *, epoch: int, step: int
) -> None:
    """Log what the test has measured; TensorBoard lists it beside the settings.

    Args:
        loggers: of the run.
        metrics: by name.
        settings: as logged by :func:`log_settings`; TensorBoard has no place for them without metrics.
        epoch: how many epochs the training had.
        step: how many steps.
    """
    for logger in loggers:
        logger.log_metrics({**metrics, "epoch": epoch}, step=step)
        if isinstance(logger, TensorBoardLogger):
            logger.log_hyperparams(dict(settings), dict(metrics), step)
        logger.save()


def show_pictures(loggers: Iterable[Logger], pictures: Sequence[Path], *, step: int, folder: str = "pictures") -> None:
    """Show pictures in every logger that takes them.

    Args:
        loggers: of the run.
        pictures: PNG files, each shown under the name of its file.
        step: how many steps the training has had.
        folder: where MLflow keeps them, which would otherwise write one over the other.
    """
    for logger in loggers:
        for path in pictures:
            if isinstance(logger, TensorBoardLogger):
                pixels = np.asarray(Image.open(path).convert("RGB"))
                logger.experiment.add_image(f"pictures/{path.stem}", pixels, step, dataformats="HWC")
            elif isinstance(logger, WandbLogger):
                logger.log_image(f"pictures/{path.stem}", [str(path)])
            elif isinstance(logger, MLFlowLogger):
                logger.experiment.log_artifact(logger.run_id, str(path), folder)


def take_pictures(loggers: Iterable[Logger]) -> bool:
    """Tell whether any of the loggers shows pictures."""
    return any(isinstance(logger, TensorBoardLogger | WandbLogger | MLFlowLogger) for logger in loggers)


def finish(loggers: Iterable[Logger], pictures: Sequence[Path], table: str, *, step: int) -> None:
    """Show the pictures and the results table in every logger that takes them, and end its run.

    Args:
        loggers: of the run.
        pictures: PNG files, each shown under the name of its file.
        table: as printed.
        step: how many steps the training had.
    """
    loggers = list(loggers)
    show_pictures(loggers, pictures, step=step)
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_text("results", "\n".join(f"    {line}" for line in table.splitlines()), step)
        elif isinstance(logger, WandbLogger):
            logger.log_text("results", ["line"], [[line] for line in table.splitlines()])
        elif isinstance(logger, MLFlowLogger):
            logger.experiment.log_text(logger.run_id, table, "results.txt")
        logger.save()
        logger.finalize("success")
        if isinstance(logger, WandbLogger):
            logger.experiment.finish()  # or the next run of a sweep would go on with this one
