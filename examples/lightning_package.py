"""Divide and conquer in a project that imports ``lightning.pytorch`` instead of ``pytorch_lightning``.

It needs ``pip install lightning``. The version without it lacks one callback and its import, nothing else.

python examples/lightning_package.py
"""

from __future__ import annotations

from tempfile import TemporaryDirectory

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from pytorch_metric_learning import losses, miners
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset, random_split

from divconq_pl import DivideConquerCallback


class Embedder(pl.LightningModule):
    """Embed vectors by a small network, trained with a margin loss whose boundary is learned."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(20, 64), nn.ReLU())
        self.embedding = nn.Linear(64, 32)
        self.loss = losses.MarginLoss(learn_beta=True)
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
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        """Log the loss of the whole embedding."""
        x, labels = batch
        self.log("val_loss", self.loss(self(x), labels), prog_bar=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Optimise everything."""
        return torch.optim.Adam(self.parameters(), lr=1e-3)


def main() -> DivideConquerCallback:
    """Train with four learners, merge in the middle."""
    labels = torch.arange(40).repeat_interleave(15)
    data = TensorDataset(torch.randn(40, 20)[labels] + 0.3 * torch.randn(600, 20), labels)
    train, val = random_split(data, [480, 120])
    divide = DivideConquerCallback(split_depth=2, every_n_epochs=1)
    with TemporaryDirectory() as folder:
        trainer = pl.Trainer(
            max_epochs=8,
            callbacks=[LearningRateMonitor(), divide, ModelCheckpoint(monitor="val_loss")],
            accelerator="cpu",
            logger=CSVLogger(folder),
            log_every_n_steps=5,
        )
        trainer.fit(Embedder(), DataLoader(train, batch_size=48, shuffle=True), DataLoader(val, batch_size=120))
    return divide


if __name__ == "__main__":
    main()
