"""Divide and conquer with a backbone of timm and small images; ``pip install timm``.

The data set has no list of its labels: they are found by reading it. There is no validation, and the best checkpoint is
chosen on the training loss. The version without divide and conquer lacks one callback and its import, nothing else.

python examples/timm_backbone.py
"""

from __future__ import annotations

from tempfile import TemporaryDirectory
from typing import Any

import pytorch_lightning as pl
import timm
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_metric_learning import losses, miners
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from divconq_pl import DivideConquerCallback


class Stripes(Dataset[tuple[Tensor, int]]):
    """Noisy stripes; a class is an angle and a width."""

    def __init__(self, angles: int = 4, widths: int = 4, per_class: int = 8) -> None:
        self.angles, self.widths, self.per_class = angles, widths, per_class

    def __len__(self) -> int:
        """Return the number of images."""
        return self.angles * self.widths * self.per_class

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Draw an image, shape (3, 32, 32), and tell its class."""
        label = index // self.per_class
        angle = torch.tensor(label % self.angles * torch.pi / self.angles)
        y, x = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
        across = x * angle.cos() + y * angle.sin() + 6.3 * torch.rand(())
        stripes = torch.sin(across * (0.4 + 0.3 * (label // self.angles)))
        return stripes.expand(3, 32, 32) + 0.3 * torch.randn(3, 32, 32), label


class Embedder(pl.LightningModule):
    """Embed images by a network of timm and a linear layer."""

    def __init__(self, name: str = "resnet10t", embedding_size: int = 64) -> None:
        super().__init__()
        self.save_hyperparameters()
        backbone: Any = timm.create_model(name, pretrained=False, num_classes=0)
        self.backbone = backbone
        self.head = nn.Linear(backbone.num_features, embedding_size)
        self.loss = losses.MultiSimilarityLoss()
        self.miner = miners.MultiSimilarityMiner()

    def forward(self, images: Tensor) -> Tensor:
        """Return the embeddings, L2-normalised, shape (B, embedding_size)."""
        return nn.functional.normalize(self.head(self.backbone(images)))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        """Return the loss of a batch."""
        images, labels = batch
        embeddings = self(images)
        loss: Tensor = self.loss(embeddings, labels, self.miner(embeddings, labels))
        self.log("train_loss", loss, on_step=False, on_epoch=True, prog_bar=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Optimise everything."""
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


def main() -> DivideConquerCallback:
    """Train with two learners, merge in the middle."""
    divide = DivideConquerCallback(split_depth=1, every_n_epochs=1)
    with TemporaryDirectory() as folder:
        # A learner's loss and that of the whole embedding differ; a metric of a validation set compares epochs better.
        best = ModelCheckpoint(folder, monitor="train_loss", save_weights_only=True)
        trainer = pl.Trainer(max_epochs=4, callbacks=[divide, best], accelerator="cpu", logger=False)
        trainer.fit(Embedder(), DataLoader(Stripes(), batch_size=32, shuffle=True))
        Embedder.load_from_checkpoint(best.best_model_path)
    return divide


if __name__ == "__main__":
    main()
