"""Divide and conquer in a LightningModule and a DataLoader of one's own: one callback is added, nothing else changes.

python examples/plain_module.py
"""

from __future__ import annotations

import pytorch_lightning as pl
import torch
from pytorch_metric_learning import losses, miners
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from divconq_pl import DivideConquerCallback


class Embedder(pl.LightningModule):
    """Embed vectors by a small network, trained with a margin loss."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(20, 64), nn.ReLU())
        self.embedding = nn.Linear(64, 32)
        self.loss = losses.MarginLoss()
        self.miner = miners.DistanceWeightedMiner()

    def forward(self, x: Tensor) -> Tensor:
        """Return the embeddings, shape (B, 32)."""
        embedded: Tensor = self.embedding(self.backbone(x))
        return embedded

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        """Return the loss of a batch."""
        x, labels = batch
        embeddings = self(x)
        loss: Tensor = self.loss(embeddings, labels, self.miner(embeddings, labels))
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Optimise everything."""
        return torch.optim.Adam(self.parameters(), lr=1e-3)


def vectors(classes: int = 40, per_class: int = 12) -> TensorDataset:
    """Return noisy copies of class centres."""
    labels = torch.arange(classes).repeat_interleave(per_class)
    return TensorDataset(torch.randn(classes, 20)[labels] + 0.3 * torch.randn(len(labels), 20), labels)


def main() -> DivideConquerCallback:
    """Train with four learners, merge in the middle."""
    divide = DivideConquerCallback(split_depth=2, every_n_epochs=1)
    trainer = pl.Trainer(max_epochs=8, callbacks=[divide], accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.fit(Embedder(), DataLoader(vectors(), batch_size=48, shuffle=True))
    return divide


if __name__ == "__main__":
    main()
