"""Divide and conquer in a module that is compiled by ``torch.compile``, training step, loss and all.

The version without it lacks one callback and its import, nothing else.

python examples/compiled.py
"""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_metric_learning import losses
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from divconq_pl import DivideConquerCallback


class Vectors(Dataset[tuple[Tensor, int]]):
    """Noisy copies of class centres, drawn anew whenever they are read."""

    def __init__(self, classes: int = 20, per_class: int = 12) -> None:
        self.centres, self.per_class = torch.randn(classes, 20), per_class

    def __len__(self) -> int:
        """Return the number of vectors."""
        return len(self.centres) * self.per_class

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Return a vector and its class."""
        label = index // self.per_class
        return self.centres[label] + 0.3 * torch.randn(20), label


class Embedder(pl.LightningModule):
    """Embed vectors by a small network, trained with class centres."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(20, 64), nn.LayerNorm(64), nn.GELU())
        self.embedding = nn.Linear(64, 32, bias=False)
        self.loss = losses.NormalizedSoftmaxLoss(num_classes=20, embedding_size=32)

    def forward(self, x: Tensor) -> Tensor:
        """Return the embeddings, shape (B, 32)."""
        embedded: Tensor = self.embedding(self.backbone(x))
        return embedded

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        """Return the loss of a batch."""
        x, labels = batch
        loss: Tensor = self.loss(self(x), labels)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Optimise everything."""
        return torch.optim.AdamW(self.parameters(), lr=3e-3)


def main() -> DivideConquerCallback:
    """Train with two learners, merge in the middle."""
    divide = DivideConquerCallback(split_depth=1, every_n_epochs=1)
    trainer = pl.Trainer(max_epochs=4, callbacks=[divide], accelerator="cpu", logger=False, enable_checkpointing=False)
    # The default backend is faster but needs a C compiler; this one traces and runs everywhere.
    module: Any = torch.compile(Embedder(), backend="aot_eager")
    trainer.fit(module, DataLoader(Vectors(), batch_size=24, shuffle=True))
    return divide


if __name__ == "__main__":
    main()
