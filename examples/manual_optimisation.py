"""Divide and conquer in a module that takes its optimiser steps itself, and clips gradients.

The version without it lacks one callback and its import, nothing else.

python examples/manual_optimisation.py
"""

from __future__ import annotations

from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_metric_learning import losses, miners
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from divconq_pl import DivideConquerCallback


class Signals(Dataset[tuple[np.ndarray, int]]):
    """Noisy tones with two frequencies for each class."""

    def __init__(self, per_class: int = 12) -> None:
        self.pairs = [(low, high) for low in range(1, 6) for high in range(6, 14)]
        self.per_class = per_class

    def __len__(self) -> int:
        """Return the number of signals."""
        return len(self.pairs) * self.per_class

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        """Return a signal, shape (1, 64), and its class."""
        label = index // self.per_class
        random, time = np.random.default_rng(index), np.linspace(0, 2 * np.pi, 64)
        tones = [np.sin(frequency * time) for frequency in self.pairs[label]]
        signal = sum(tones) + random.normal(scale=0.3, size=64)
        return signal.astype(np.float32)[None], label


class Embedder(pl.LightningModule):
    """Embed signals by a small convolutional network."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.encoder = nn.Sequential(nn.Conv1d(1, 32, 9, stride=4), nn.ReLU(), nn.Flatten(), nn.Linear(448, 64))
        self.embedding = nn.Sequential(nn.ReLU(), nn.Linear(64, 32))
        self.loss = losses.TripletMarginLoss(margin=0.2)
        self.miner = miners.BatchHardMiner()

    def forward(self, signals: Tensor) -> Tensor:
        """Return the embeddings, shape (B, 32)."""
        embedded: Tensor = self.embedding(self.encoder(signals))
        return embedded

    def training_step(self, batch: list[Tensor], batch_idx: int) -> None:
        """Take a step with clipped gradients, and one of the schedule after the epoch's last batch."""
        optimizer: Any = self.optimizers()
        scheduler: Any = self.lr_schedulers()
        signals, labels = batch
        embeddings = self(signals)
        loss = self.loss(embeddings, labels, self.miner(embeddings, labels))
        optimizer.zero_grad()
        self.manual_backward(loss)
        nn.utils.clip_grad_norm_(self.parameters(), max_norm=1.0)
        optimizer.step()
        if self.trainer.is_last_batch:
            scheduler.step()
        self.log("train_loss", loss, on_epoch=True, prog_bar=True)

    def configure_optimizers(self) -> tuple[list[torch.optim.Optimizer], list[torch.optim.lr_scheduler.LRScheduler]]:
        """Optimise everything, at a rate that is halved twice."""
        optimizer = torch.optim.Adam(self.parameters(), lr=1e-3)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, step_size=3, gamma=0.5)]


def main() -> DivideConquerCallback:
    """Train with four learners, merge in the middle."""
    divide = DivideConquerCallback(split_depth=2, every_n_epochs=1)
    with TemporaryDirectory() as folder:
        best = ModelCheckpoint(folder, monitor="train_loss_epoch")
        trainer = pl.Trainer(max_epochs=8, callbacks=[best, divide], accelerator="cpu", logger=False)
        trainer.fit(Embedder(), DataLoader(Signals(), batch_size=48, shuffle=True))
    return divide


if __name__ == "__main__":
    main()
