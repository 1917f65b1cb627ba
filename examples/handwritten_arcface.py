"""Divide and conquer with an ArcFace head that is written by hand.

``weight_dims`` says which dimension of the head's weight is the embedding's, so that head and embedding are cut into
slices; without it the embedding would be masked instead. The version without it lacks one callback and its import,
nothing else.

python examples/handwritten_arcface.py
"""

from __future__ import annotations

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from divconq_pl import DivideConquerCallback

CLASSES, PER_CLASS = 40, 12


class ArcMarginProduct(nn.Module):
    """Scores with an additive angular margin (Deng et al., CVPR 2019)."""

    def __init__(self, width: int, classes: int, scale: float = 16.0, margin: float = 0.3) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(classes, width))
        self.scale, self.margin = scale, margin

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Return the scores, shape (B, classes)."""
        cosine = functional.linear(functional.normalize(embeddings), functional.normalize(self.weight))
        angle = cosine.clamp(-1 + 1e-6, 1 - 1e-6).acos()
        margin = self.margin * functional.one_hot(labels, len(self.weight))
        return self.scale * (angle + margin).cos()


class Landmarks(pl.LightningModule):
    """Embed vectors by a small network."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(20, 64), nn.BatchNorm1d(64), nn.PReLU())
        self.neck = nn.Linear(64, 32)
        self.arc = ArcMarginProduct(32, CLASSES)

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return the embeddings, shape (B, 32), or with labels the scores."""
        embeddings: Tensor = self.neck(self.backbone(x))
        scores: Tensor | None = None if labels is None else self.arc(embeddings, labels)
        return embeddings if scores is None else scores

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        """Return the loss of a batch."""
        x, labels = batch
        return functional.cross_entropy(self(x, labels), labels)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Optimise everything."""
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)


def main() -> DivideConquerCallback:
    """Train with four learners, merge in the middle."""
    labels = torch.arange(CLASSES).repeat_interleave(PER_CLASS)
    data = TensorDataset(torch.randn(CLASSES, 20)[labels] + 0.3 * torch.randn(len(labels), 20), labels)
    divide = DivideConquerCallback(split_depth=2, every_n_epochs=1, weight_dims={"ArcMarginProduct": {"weight": 1}})
    trainer = pl.Trainer(max_epochs=8, callbacks=[divide], accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.fit(Landmarks(), DataLoader(data, batch_size=48, shuffle=True))
    return divide


if __name__ == "__main__":
    main()
