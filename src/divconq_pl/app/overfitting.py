"""Train on a few batches over and over."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl


class RepeatBatches(pl.Callback):
    """Draw the batches of the first epoch in every epoch: the same images, transformed in the same way.

    ``trainer.overfit_batches`` limits an epoch to some batches, but does not know that these are drawn anew in each.
    """

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Say that it is the first epoch, before the batches are asked for."""
        loader: Any = trainer.train_dataloader
        loader.batch_sampler.set_epoch(0)
