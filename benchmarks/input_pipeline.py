"""Time how many images per second a core loads: the data module, the bare loop, and a division's cached pass.

    python benchmarks/input_pipeline.py --images 512 --repeats 5

The images are JPEGs of smooth shapes under noise, made in a temporary folder. The bare loop opens, decodes and
transforms each for the training and keeps nothing: no data set, no batches. A plain loader puts the same into torch's
DataLoader with the least data set there can be. Of the bare loop there are as many processes as a loader has workers,
by whose number the images per second are divided. The processor's time counts all processes, also the one that takes
the batches; it leaves out the waiting for others. All take turns.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from divconq_pl.data import ImageFolder, RetrievalDataModule, image_test, image_train

BATCH, IMAGES_PER_CLASS = 64, 4
TICKS = os.sysconf("SC_CLK_TCK")


def make_images(folder: Path, images: int, width: int, height: int) -> None:
    """Save JPEGs, 8 of each class, one in eight classes for the test."""
    rng = np.random.default_rng(0)
    for i in tqdm(range(images), desc="Making images", disable=None, leave=False):
        picture = np.zeros((height, width, 3))
        for cell, contrast in ((60, 60), (12, 30), (3, 12)):  # shapes of three sizes
            coarse = rng.normal(128, contrast, (height // cell + 1, width // cell + 1, 3)).clip(0, 255).astype(np.uint8)
            picture += np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)) - 128.0
        picture += 128 + rng.normal(0, 4, (height, width, 1))
        label = i // 8
        file = folder / ("test" if label % 8 == 0 else "train") / str(label) / f"{i % 8}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(file, quality=90)


def clocks() -> NDArray[np.float64]:
    """Read the clock on the wall and the processor's time of this process and its children, in seconds."""
    processor = time.process_time()
    for child in multiprocessing.active_children():
        fields = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
        processor += (int(fields[11]) + int(fields[12])) / TICKS  # user and system
    return np.array([time.perf_counter(), processor])


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
    torch.set_num_threads(1)
    transform = image_train()
    for file in files:
        with Image.open(file) as image:
            transform(image.convert("RGB"))
    return len(files)


def bare_loops(pool: multiprocessing.pool.Pool, files: Sequence[str], processes: int) -> int:
    """Share the images among processes."""
    return sum(pool.map(bare_loop, [files[i::processes] for i in range(processes)], chunksize=1))


def load(loader: DataLoader[Any]) -> int:
    """Take all batches; return how many images."""
    return sum(len(labels) for _, labels in loader)


def main() -> None:
    """Let all take turns, and print the medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1024, help="128 or more")
    parser.add_argument("--width", type=int, default=500)
    parser.add_argument("--height", type=int, default=375)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    with tempfile.TemporaryDirectory() as folder:
        make_images(Path(folder), arguments.images, arguments.width, arguments.height)
        source = ImageFolder(folder, val_fraction=0)

        def module(workers: int, cache: str | None = None) -> RetrievalDataModule:
            return RetrievalDataModule(
                source,
                image_train(),
                image_test(),
                batch_size=BATCH,
                images_per_class=IMAGES_PER_CLASS,
                num_workers=workers,
                cache_dir=cache,
            )

        train = source.splits().train
        files = [train.name_of(i) for i in range(len(train))]
        size = np.mean([os.path.getsize(file) for file in files])
        print(f"{len(files)} images of {arguments.width} x {arguments.height}, {size / 1000:.0f} kB on average")

        contestants: dict[str, tuple[int, str, Callable[[], int]]] = {}  # processes, whom to compare with, what to do
        with contextlib.ExitStack() as pools:
            for n in arguments.workers:
                bare, plain = f"bare loop, {n or 1} process(es)", f"plain loader, {n} worker(s)"
                if bare not in contestants:
                    pool = pools.enter_context(multiprocessing.Pool(n or 1))
                    contestants[bare] = n or 1, bare, partial(bare_loops, pool, files, n or 1)
                loader = DataLoader(PlainDataset(files), BATCH, shuffle=True, num_workers=n, persistent_workers=n > 0)
                contestants[plain] = n or 1, bare, partial(load, loader)
                contestants[f"data module, {n} worker(s)"] = n or 1, bare, partial(load, module(n).train_dataloader())
            for name, cache in (("uncached", None), ("cached", os.path.join(folder, "cache"))):
                loader = DataLoader(module(0, cache).cluster_dataset(), BATCH)
                contestants[f"feature pass, {name}"] = 1, "feature pass, uncached", partial(load, loader)
            rates = take_turns(contestants, arguments.repeats)

        print("images per second and core, and the ratio to the bare loop or the uncached pass")
        print(f"{'':28}  by the clock   by the processor's time")
        for name, (_, base, _) in contestants.items():
            rate, ratio = np.median(rates[name], axis=0), np.median(rates[name] / rates[base], axis=0)
            print(f"{name:28} {rate[0]:6.0f}  {ratio[0]:5.2f}   {rate[1]:6.0f}  {ratio[1]:5.2f}")


def take_turns(
    contestants: dict[str, tuple[int, str, Callable[[], int]]], repeats: int
) -> dict[str, NDArray[np.float64]]:
    """Return the images per second and core of each, by the clock and by the processor's time, (repeats, 2)."""
    rates: dict[str, list[list[float]]] = {name: [] for name in contestants}
    for repeat in range(repeats + 1):
        for name, (processes, _, run) in contestants.items():
            began = clocks()
            images = run()
            wall, processor = clocks() - began
            if repeat:  # in the first round workers start and the cache is filled
                rates[name].append([images / wall / processes, images / processor])
    return {name: np.array(measured) for name, measured in rates.items()}


if __name__ == "__main__":
    main()
