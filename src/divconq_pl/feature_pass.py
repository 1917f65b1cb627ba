"""The feature pass of a division: all training images through the network, in the Trainer's way."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, Protocol

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.seed import isolate_rng
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, Dataset
from tqdm import tqdm

from divconq_pl import _compat
from divconq_pl.conventions import contiguous
from divconq_pl.errors import InputError
from divconq_pl.features import extract_features
from divconq_pl.routing import batch_size


class DataReader(Protocol):
    """How batches and data sets give inputs and labels."""

    def batch_inputs(self, batch: Any) -> Any:
        """Return what the network takes from a batch."""

    def batch_labels(self, batch: Any) -> Any:
        """Return the labels in a batch."""

    def dataset_labels(self, dataset: Dataset[Any]) -> Tensor | None:
        """Return the classes of a data set, or None if only its batches tell."""


def training_features(
    trainer: pl.Trainer,
    pl_module: pl.LightningModule,
    layer: nn.Module,
    loader: DataLoader[Any],
    reader: DataReader,
    *,
    side: Literal["input", "output"],
    cluster_dataset: Dataset[Any] | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the features and classes of all training images, in the order of the data set.

    Neither the training's random numbers nor the modes of the modules are disturbed. With several processes each looks
    at its share, and all get the whole.

    Args:
        trainer: the running fit.
        pl_module: the network.
        layer: its embedding layer.
        loader: the training loader; images are loaded in its way.
        reader: how batches give inputs and labels.
        side: the side of the layer to look at.
        cluster_dataset: the images to look at; the training data set by default.

    Returns:
        Features, float32, shape (N, D), and classes 0..C-1, int64, shape (N,).

    Raises:
        InputError: if ``cluster_dataset`` does not hold the training images in their order.
    """
    dataset = loader.dataset if cluster_dataset is None else cluster_dataset
    num_images = len(dataset)  # type: ignore[arg-type]
    num_training = len(loader.dataset)  # type: ignore[arg-type]
    if num_images != num_training:
        raise InputError(
            f"cluster_dataset has {num_images} images and the training data set {num_training}; it must hold the same "
            "images in the same order"
        )
    batches = _compat.with_batches(
        loader,
        BatchSampler(_share(num_images, trainer.global_rank, trainer.world_size), batch_size(loader), drop_last=False),
        dataset=dataset,
        persistent_workers=False,
        generator=None,
    )
    known = reader.dataset_labels(loader.dataset)
    seen: list[Any] = []

    def forward(batch: Any) -> None:
        if known is None or cluster_dataset is not None:
            labels = reader.batch_labels(batch)
            seen.extend(labels.tolist() if isinstance(labels, Tensor) else labels)
        batch = trainer.strategy.batch_to_device(trainer.precision_plugin.convert_input(batch))
        pl_module(reader.batch_inputs(batch))

    with isolate_rng(), trainer.precision_plugin.forward_context():
        features = extract_features(pl_module, layer, _with_progress(trainer, batches), forward, side=side)
    if trainer.world_size > 1:
        features = _compat.gather_strided(pl_module, features)[:num_images]
        seen = _compat.gather_strided_objects(seen)[:num_images]
    if known is None:
        return features, contiguous(seen)
    if seen and not _same_grouping(known, contiguous(seen)):
        raise InputError(
            "the labels of cluster_dataset differ from those of the training data set; it must hold the same images in "
            "the same order"
        )
    return features, known


def _share(num_images: int, rank: int, world_size: int) -> list[int]:
    """Return every ``world_size``-th image, equally many for each rank (the last image may come twice)."""
    per_rank = -(-num_images // world_size)
    return [min(i, num_images - 1) for i in range(rank, per_rank * world_size, world_size)]


def _with_progress(trainer: pl.Trainer, batches: DataLoader[Any]) -> Iterator[Any]:
    """Yield the batches, and show how far they have come in the way of the Trainer's own progress bar."""
    bar = trainer.progress_bar_callback
    if bar is None or not getattr(bar, "is_enabled", True) or not trainer.is_global_zero:
        yield from batches
    elif (progress := getattr(bar, "progress", None)) is not None:  # a RichProgressBar; two live displays would clash
        task = progress.add_task("Features of the training images", total=len(batches))
        for batch in batches:
            yield batch
            progress.advance(task)
        progress.update(task, visible=False)  # the bar counts on its tasks to stay where they are
    else:
        yield from tqdm(batches, desc="Features of the training images", leave=False)


def _same_grouping(a: Tensor, b: Tensor) -> bool:
    """Tell whether two labellings put the same images together, whatever they call the classes."""
    pairs = torch.unique(a * (int(b.max()) + 1) + b)
    return len(pairs) == len(torch.unique(a)) == len(torch.unique(b))
