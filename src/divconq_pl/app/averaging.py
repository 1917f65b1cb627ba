"""The moving average of the weights, loaded as such when a training is over."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import EMAWeightAveraging


class MovingAverage(EMAWeightAveraging):
    """Lightning's, with which a Trainer that has trained tests the average that a checkpoint holds.

    Lightning's own takes every checkpoint for one to train on from, so that its Trainer would test the weights before
    they were averaged.
    """

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Leave the average in the module, unless the training goes on."""
        if trainer.state.fn == "fit":
            super().on_load_checkpoint(trainer, pl_module, checkpoint)
