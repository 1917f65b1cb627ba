"""Divide and conquer with a memory of past batches around the loss, and a list of pairs for a data set.

The version without it lacks one callback and its import, nothing else.

python examples/cross_batch_memory.py
"""

from __future__ import annotations

import pytorch_lightning as pl
import torch
from pytorch_metric_learning import losses, miners
from torch import Tensor, nn
from torch.utils.data import DataLoader

from divconq_pl import DivideConquerCallback


class Embedder(pl.LightningModule):
    """Embed vectors; a batch is compared with the last 240 embeddings."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Dropout(0.1))
        self.fc = nn.Linear(64, 32)
        self.loss = losses.CrossBatchMemory(
            losses.ContrastiveLoss(pos_margin=0.2, neg_margin=0.8),
            embedding_size=32,
            memory_size=240,
            miner=miners.PairMarginMiner(pos_margin=0.2, neg_margin=0.8),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the embeddings, shape (B, 32)."""
        embedded: Tensor = self.fc(self.trunk(x))
        return embedded

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        """Return the loss of a batch."""
        x, labels = batch
        loss: Tensor = self.loss(self(x), labels)
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> tuple[list[torch.optim.Optimizer], list[torch.optim.lr_scheduler.LRScheduler]]:
        """Optimise everything, at a rate that falls towards the end."""
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)
        return [optimizer], [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=8)]


def vectors(classes: int = 40, per_class: int = 12) -> list[tuple[Tensor, int]]:
    """Return noisy copies of class centres."""
    centres = torch.randn(classes, 20)
    return [(centres[c] + 0.3 * torch.randn(20), c) for c in range(classes) for _ in range(per_class)]


def main() -> DivideConquerCallback:
    """Train with four learners, merge in the middle."""
    divide = DivideConquerCallback(split_depth=2, every_n_epochs=1)
    trainer = pl.Trainer(max_epochs=8, callbacks=[divide], accelerator="cpu", logger=False, enable_checkpointing=False)
    # A list is as good as a data set to a loader, though its type does not say so.
    trainer.fit(Embedder(), DataLoader(vectors(), batch_size=48, shuffle=True))  # type: ignore[arg-type]
    return divide


if __name__ == "__main__":
    main()
