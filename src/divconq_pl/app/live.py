"""Pictures of each division, for those who watch a training in a logger."""

from __future__ import annotations

from pathlib import Path

import pytorch_lightning as pl

from divconq_pl.app import pictures
from divconq_pl.app.loggers import show_pictures, take_pictures
from divconq_pl.app.reporting import timing
from divconq_pl.data import RetrievalDataset
from divconq_pl.lightning.callback import DivideConquerCallback
from divconq_pl.report.sections.cost import LIVE


class ShowDivisions(pl.Callback):
    """Draw the tree and the clusters after each division, and show them in the loggers that take pictures.

    Args:
        folder: where the pictures go; those of the next division take their place.
        images: the training images.
        divide: the callback that divides, if it does; it has to come before this one.

    Attributes:
        seconds: what that took, by name.
    """

    def __init__(self, folder: Path, images: RetrievalDataset, divide: pl.Callback) -> None:
        self._folder, self._images = folder, images
        self._divide = divide if isinstance(divide, DivideConquerCallback) else None
        self._shown = self._drawn = 0
        self.seconds: dict[str, float] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the divisions of a resumed training for shown."""
        self._shown = self._count()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw a division that is new."""
        if self._divide and self._count() > self._shown and trainer.is_global_zero and take_pictures(trainer.loggers):
            with timing(self.seconds, LIVE):
                self.draw_last()
                drawn = [self._folder / "tree.png", self._folder / "clusters.png"]
                epoch = self._divide.history[-1]["epoch"]
                show_pictures(trainer.loggers, drawn, step=trainer.global_step, folder=f"pictures/epoch {epoch}")
        self._shown = self._count()

    def draw_last(self) -> None:
        """Draw the last division, where there is one and that has not been done yet."""
        if self._divide and self._drawn < self._count():
            pictures.draw_divisions(self._folder, self._images, self._divide)
            self._drawn = self._count()

    def _count(self) -> int:
        return len(self._divide.history) if self._divide else 0
