"""Photographs that are loaded: a bare loop, the least DataLoader, the data module, and a division's cached pass.

The images are JPEGs of smooth shapes under noise, made in a temporary folder. The bare loop opens, decodes and
transforms each for the training and keeps nothing: no data set, no batches. The processor's time of all processes
counts, also that of the one which takes the batches.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from measuring import Goal, Row, compare, run_alone
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from divconq_pl.data import ImageFolder, RetrievalDataModule, image_test, image_train

BATCH, WORKERS = 64, 2
TICKS = os.sysconf("SC_CLK_TCK")
WHY = (
    "half of it the least DataLoader loses as well, since each batch of 38 MB lies in fresh memory; most of the rest "
    "is the state of NumPy's generator, kept for each image"
)


def make_images(folder: Path, images: int, width: int, height: int) -> None:
    """Save JPEGs, 8 of each class, one in eight classes for the test."""
    rng = np.random.default_rng(0)
    for i in range(images):
        picture = np.zeros((height, width, 3))
        for cell, contrast in ((60, 60), (12, 30), (3, 12)):  # shapes of three sizes
            coarse = rng.normal(128, contrast, (height // cell + 1, width // cell + 1, 3)).clip(0, 255).astype(np.uint8)
            picture += np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)) - 128.0
        picture += 128 + rng.normal(0, 4, (height, width, 1))
        label = i // 8
        file = folder / ("test" if label % 8 == 0 else "train") / str(label) / f"{i % 8}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(file, quality=90)


def processor_seconds() -> float:
    """Read the processor's time of this process and its children."""
    seconds = time.process_time()
    for child in multiprocessing.active_children():
        fields = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
        seconds += (int(fields[11]) + int(fields[12])) / TICKS  # user and system
    return seconds


class PlainDataset(Dataset[tuple[Tensor, int]]):
    """The least that a DataLoader can take."""

    def __init__(self, files: Sequence[str]) -> None:
        self._files = files
        self._transform = image_train()

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Decode and transform."""
        with Image.open(self._files[index]) as image:
            return self._transform(image.convert("RGB")), 0


def bare_loop(files: Sequence[str]) -> int:
    """Decode and transform, and do nothing else; return how many."""
    data = PlainDataset(files)
    for i in range(len(data)):
        data[i]
    return len(data)


def load(loader: Any) -> int:
    """Take all batches; return how many images."""
    return sum(len(labels) for _, labels in loader)


def rows(device: str = "cpu", quick: bool = False) -> list[Row]:
    """Load all in turns; the first turn, in which workers start and the cache is filled, does not count."""
    images, width, height, turns = (128, 50, 40, 1) if quick else (512, 500, 375, 5)
    with tempfile.TemporaryDirectory() as folder:
        make_images(Path(folder), images, width, height)
        source = ImageFolder(folder, val_fraction=0)
        files = source.splits().train.files  # type: ignore[attr-defined]

        def module(workers: int = 0, cache: str | None = None) -> RetrievalDataModule:
            transforms = image_train(), image_test()
            return RetrievalDataModule(source, *transforms, batch_size=BATCH, num_workers=workers, cache_dir=cache)

        def plain(workers: int) -> DataLoader[Any]:
            lasting = workers > 0
            return DataLoader(PlainDataset(files), BATCH, shuffle=True, num_workers=workers, persistent_workers=lasting)

        contestants: dict[str, Callable[[], int]] = {"bare loop": partial(bare_loop, files)}
        for workers in (0,) if quick else (0, WORKERS):
            with_workers = f", {workers} workers" if workers else ""
            contestants[f"plain DataLoader{with_workers}"] = partial(load, plain(workers))
            contestants[f"data module{with_workers}"] = partial(load, module(workers).train_dataloader())
        for name, cache in (("feature pass", None), ("feature pass, cached", os.path.join(folder, "cache"))):
            contestants[name] = partial(load, DataLoader(module(cache=cache).cluster_dataset(), BATCH))
        microseconds: dict[str, list[float]] = {name: [] for name in contestants}
        for turn in range(turns + 1):
            for name, run in contestants.items():
                began = processor_seconds()
                count = run()
                if turn:
                    microseconds[name].append(1e6 * (processor_seconds() - began) / count)
    goals = {name: Goal(1.05, why=WHY) for name in contestants if name.startswith("data module")}
    work = f"JPEGs of {width} x {height}"
    return compare("photographs", work, microseconds, unit="us an image", goals=goals)


if __name__ == "__main__":
    run_alone(rows)
