"""Divide and conquer in a re-identification project: triplet loss on the features, cross entropy behind a BNNeck.

The classifier is no loss of pytorch-metric-learning. That is found out before the first step: the features are masked
while a learner is trained, so that its batches train its coordinates alone, through the classifier, too. The version
without it lacks one callback and its import, nothing else.

python examples/reidentification.py
"""

from __future__ import annotations

import pytorch_lightning as pl
import torch
from pytorch_metric_learning import losses
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from divconq_pl import DivideConquerCallback

IDENTITIES, CAMERAS, PER_CAMERA = 30, 4, 4


class People(Dataset[tuple[Tensor, int, int]]):
    """Small pictures of people: a colour above and one below, in the light of a camera."""

    def __init__(self) -> None:
        self.clothes, self.light = torch.rand(IDENTITIES, 3, 2), 0.3 * torch.randn(CAMERAS, 3, 1)

    def __len__(self) -> int:
        """Return the number of pictures."""
        return IDENTITIES * CAMERAS * PER_CAMERA

    def __getitem__(self, index: int) -> tuple[Tensor, int, int]:
        """Return a picture, shape (3, 16, 8), its camera and its identity, in this order."""
        camera, identity = index % CAMERAS, index // (CAMERAS * PER_CAMERA)
        halves = self.clothes[identity] + self.light[camera]
        return halves.repeat_interleave(8, dim=1)[:, :, None] + 0.2 * torch.randn(3, 16, 8), camera, identity


class Baseline(pl.LightningModule):
    """The strong baseline (Luo et al., CVPRW 2019) on a small backbone."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.AvgPool2d(4),
            nn.Conv2d(32, 32, 3, padding=1),
        )  # fmt: skip
        self.neck = nn.BatchNorm1d(32)
        self.neck.bias.requires_grad_(False)
        self.classifier = nn.Linear(32, IDENTITIES, bias=False)
        self.triplet = losses.TripletMarginLoss(margin=0.3)

    def forward(self, images: Tensor) -> Tensor:
        """Return the features, shape (B, 32): those behind the neck in evaluation mode."""
        features = self.backbone(images).mean((2, 3))
        neck: Tensor = self.neck(features)
        return features if self.training else neck

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        """Return the loss of a batch."""
        images, _, identities = batch
        features = self(images)
        scores = self.classifier(self.neck(features))
        loss: Tensor = self.triplet(features, identities)
        return loss + functional.cross_entropy(scores, identities, label_smoothing=0.1)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Optimise everything."""
        return torch.optim.Adam(self.parameters(), lr=3.5e-3)


def main() -> DivideConquerCallback:
    """Train with four learners, merge in the middle."""
    divide = DivideConquerCallback(split_depth=2, every_n_epochs=1)
    trainer = pl.Trainer(max_epochs=8, callbacks=[divide], accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.fit(Baseline(), DataLoader(People(), batch_size=32, shuffle=True))
    return divide


if __name__ == "__main__":
    main()
