"""Divide and conquer with batches that are dictionaries and hold more than images and labels.

Inputs and labels are found by the keys' names; of other names, ``DivideConquerCallback.batch_inputs`` and
``batch_labels`` have to be told. The version without it lacks one callback and its import, nothing else.

python examples/dict_batches.py
"""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_metric_learning import losses
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from divconq_pl import DivideConquerCallback


class Colours(Dataset[dict[str, Any]]):
    """Noisy images with a colour and a corner for each class, described by a table."""

    def __init__(self, colours: int = 10, per_class: int = 6) -> None:
        palette = torch.rand(colours, 3)
        self.table: list[dict[str, Any]] = [
            {"path": f"colour{c}/corner{k}/{i}.png", "colour": palette[c], "corner": k, "label": 4 * c + k}
            for c in range(colours)
            for k in range(4)
            for i in range(per_class)
        ]

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.table)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return an image, shape (3, 8, 8), its class, and where it would lie."""
        row = self.table[index]
        image = 0.2 * torch.randn(3, 2, 4, 2, 4)
        image[:, row["corner"] // 2, :, row["corner"] % 2] += row["colour"][:, None, None]
        return {"path": row["path"], "image": image.reshape(3, 8, 8), "label": row["label"]}


class Embedder(pl.LightningModule):
    """Embed images by a small convolutional network."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(),
            nn.Linear(256, 32),
        )  # fmt: skip
        self.criterion = losses.NTXentLoss(temperature=0.1)

    def forward(self, image: Tensor) -> Tensor:
        """Return the embeddings, shape (B, 32)."""
        embedded: Tensor = self.net(image)
        return embedded

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        """Return the loss of a batch."""
        loss: Tensor = self.criterion(self(batch["image"]), batch["label"])
        self.log("train_loss", loss, prog_bar=True, batch_size=len(batch["path"]))
        return {"loss": loss}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Optimise everything."""
        return torch.optim.Adam(self.parameters(), lr=1e-3)


def main() -> DivideConquerCallback:
    """Train with four learners, merge in the middle."""
    divide = DivideConquerCallback(split_depth=2, every_n_epochs=1)
    trainer = pl.Trainer(max_epochs=8, callbacks=[divide], accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.fit(Embedder(), DataLoader(Colours(), batch_size=32, shuffle=True, drop_last=True))
    return divide


if __name__ == "__main__":
    main()
