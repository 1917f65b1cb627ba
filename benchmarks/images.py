"""One image of data that is held in memory, through the data module, against indexing a tensor."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from typing import Any

import torch
from measuring import Row, compare, now, run_alone
from torch.utils.data import DataLoader, TensorDataset

from divconq_pl.data import Glyphs, RetrievalDataModule, glyph_test, glyph_train

BATCH = 64


def rows(device: str = "cpu", quick: bool = False) -> list[Row]:
    """Go through training and test images in turns; the work is the processor's, whatever the device."""
    with tempfile.TemporaryDirectory() as folder:
        few = {"num_classes": 12, "images_per_class": 8} if quick else {"num_classes": 300}
        module = RetrievalDataModule(Glyphs(folder, **few), glyph_train(), glyph_test(), batch_size=BATCH)
        module.setup("fit")
        loaders: dict[str, Callable[[], Any]] = {
            "a tensor, by DataLoader": lambda: DataLoader(
                TensorDataset(torch.zeros(len(module.splits.train), 1, 32, 32)), batch_size=BATCH
            ),
            "training images": module.train_dataloader,
            "test images": module.val_dataloader,
        }
        microseconds: dict[str, list[float]] = {name: [] for name in loaders}
        for _ in range(1 if quick else 3):
            for name, make in loaders.items():
                began = now("cpu")
                count = sum(len(batch[0]) for batch in make())
                microseconds[name].append(1e6 * (now("cpu") - began) / count)
    return compare("images", "glyphs of 32 x 32", microseconds, unit="us an image")


if __name__ == "__main__":
    run_alone(rows)
