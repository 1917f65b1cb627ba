"""Divide and conquer with a data module, persistent workers, parameter groups and a learning rate schedule.

The version without it lacks one callback and its import, nothing else.

python examples/datamodule_schedulers.py
"""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_metric_learning import losses
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from divconq_pl import DivideConquerCallback


class Vectors(pl.LightningDataModule):
    """Noisy copies of class centres; the last ten classes are for validation."""

    def __init__(self, batch_size: int = 40) -> None:
        super().__init__()
        self.batch_size = batch_size

    def setup(self, stage: str) -> None:
        """Draw the vectors."""
        labels = torch.arange(50).repeat_interleave(10)
        x = torch.randn(50, 20)[labels] + 0.3 * torch.randn(500, 20)
        self.train, self.val = TensorDataset(x[:400], labels[:400]), TensorDataset(x[400:], labels[400:])

    def train_dataloader(self) -> DataLoader[Any]:
        """Return shuffled batches from a worker that lives as long as the training."""
        return DataLoader(
            self.train, self.batch_size, shuffle=True, drop_last=True, num_workers=1, persistent_workers=True
        )

    def val_dataloader(self) -> DataLoader[Any]:
        """Return the classes that the network is not trained on."""
        return DataLoader(self.val, self.batch_size)


class Embedder(pl.LightningModule):
    """Embed vectors; the proxies learn a hundred times as fast as the network."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(20, 64), nn.BatchNorm1d(64), nn.ReLU())
        self.embedding = nn.Linear(64, 32)
        self.loss = losses.ProxyAnchorLoss(num_classes=40, embedding_size=32)
        self.validated: list[tuple[Tensor, Tensor]] = []

    def forward(self, x: Tensor) -> Tensor:
        """Return the embeddings, shape (B, 32)."""
        embedded: Tensor = self.embedding(self.backbone(x))
        return embedded

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        """Return the loss of a batch."""
        x, labels = batch
        loss: Tensor = self.loss(self(x), labels)
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        """Embed a batch."""
        x, labels = batch
        self.validated.append((nn.functional.normalize(self(x)), labels))

    def on_validation_epoch_end(self) -> None:
        """Log how often the nearest neighbour is of the same class."""
        embeddings, labels = (torch.cat(parts) for parts in zip(*self.validated, strict=True))
        self.validated.clear()
        nearest = (embeddings @ embeddings.T).fill_diagonal_(-1).argmax(1)
        self.log("precision_at_1", (labels[nearest] == labels).float().mean(), prog_bar=True)

    def configure_optimizers(self) -> Any:
        """Give the proxies a learning rate of their own, and warm both up."""
        network = [*self.backbone.parameters(), *self.embedding.parameters()]
        optimizer = torch.optim.AdamW(
            [{"params": network, "lr": 1e-3}, {"params": self.loss.parameters(), "lr": 1e-1}], weight_decay=1e-4
        )
        scheduler = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, max_lr=[1e-3, 1e-1], total_steps=int(self.trainer.estimated_stepping_batches)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def main() -> DivideConquerCallback:
    """Train with four learners, merge in the middle."""
    divide = DivideConquerCallback(split_depth=2, every_n_epochs=1)
    trainer = pl.Trainer(max_epochs=8, callbacks=[divide], accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.fit(Embedder(), datamodule=Vectors())
    return divide


if __name__ == "__main__":
    main()
