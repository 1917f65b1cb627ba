"""Which images a user's loader can draw, and how often: what single-cluster batches have to keep to."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from pytorch_metric_learning.samplers import MPerClassSampler
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    RandomSampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from divconq_pl.core.sampling import ClusterBatchSampler
from divconq_pl.lightning._trainer.processes import unwrap_sampler
from divconq_pl.lightning.reading import UsualReader

_DRAW_ALL = (RandomSampler, SequentialSampler, DistributedSampler, MPerClassSampler, ClusterBatchSampler)


class Part(Subset[Any]):
    """The images of a data set that its loader can draw."""

    def of(self, other: Dataset[Any] | None) -> Dataset[Any] | None:
        """Return the same part of a data set with the same images; another length is for others to refuse."""
        if other is None or len(other) != len(self.dataset):  # type: ignore[arg-type]
            return other
        return Part(other, self.indices)


@dataclass(frozen=True)
class Drawable:
    """What a user's loader can draw.

    Attributes:
        loader: the loader, whose data set is a :class:`Part` where it cannot draw all images.
        weights: how often each image of that data set comes, shape (N,); None if all come alike.
        unknown: the class of a sampler of which this cannot be told; it is taken to draw all images alike.
    """

    loader: DataLoader[Any]
    weights: Tensor | None = None
    unknown: str | None = None


def find_drawable(loader: DataLoader[Any], images: int) -> Drawable:
    """Look at a loader's sampler: which images can come, and how often.

    Args:
        loader: a map-style loader of the user's.
        images: images that all processes together draw in an epoch, as many as the Trainer lets them.
    """
    batches = loader.batch_sampler
    sampler = unwrap_sampler(batches.sampler if type(batches) is BatchSampler else batches)
    count = len(loader.dataset)  # type: ignore[arg-type]
    if isinstance(sampler, WeightedRandomSampler):
        weights = torch.zeros(count, dtype=torch.float64)
        weights[: len(sampler.weights)] = sampler.weights.double()
    elif isinstance(sampler, SubsetRandomSampler):
        weights = torch.bincount(torch.as_tensor(sampler.indices), minlength=count).double()
    elif _in_order(sampler) and images < count:
        weights = (torch.arange(count) < images).double()
    else:
        return Drawable(loader, unknown=None if isinstance(sampler, _DRAW_ALL) else type(sampler).__name__)
    drawn = torch.nonzero(weights).flatten()
    weights = weights[drawn]
    if len(drawn) < count:
        loader = copy.copy(loader)
        vars(loader)["dataset"] = Part(loader.dataset, drawn.tolist())  # a loader refuses the assignment
    return Drawable(loader, None if bool((weights == weights[0]).all()) else weights)


def read_labels(reader: UsualReader, dataset: Dataset[Any]) -> Tensor | None:
    """Return the classes of a data set that may be a :class:`Part`, of which a user's own reader need not know."""
    if not isinstance(dataset, Part):
        return reader.dataset_labels(dataset)
    labels = reader.dataset_labels(dataset.dataset)
    return None if labels is None else labels[torch.as_tensor(dataset.indices)]


def _in_order(sampler: object) -> bool:
    return isinstance(sampler, SequentialSampler) or (isinstance(sampler, DistributedSampler) and not sampler.shuffle)
