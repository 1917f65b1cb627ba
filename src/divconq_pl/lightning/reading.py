"""How batches and data sets give inputs, labels and names, as they usually do."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from pytorch_metric_learning.losses import BaseMetricLossFunction
from torch import Tensor, nn
from torch.utils.data import ConcatDataset, Dataset, Subset, TensorDataset

from divconq_pl.errors import InputError

INPUT_KEYS = ("image", "images", "input", "inputs", "x", "pixel_values", "data", "features")
LABEL_KEYS = ("label", "labels", "target", "targets", "y", "class")


class UsualReader:
    """What batches and data sets give, as they usually do; whatever is kept elsewhere is met by overriding a method."""

    labels_at: tuple[Any, ...] | None = None
    """Where in a batch the labels are, if the training step has shown that."""

    def embed(self, module: nn.Module, batch: Any) -> Any:
        """Run the network on a batch, in evaluation mode, for the features that are clustered.

        By default that is the module's ``forward``, given :meth:`batch_inputs`, and the features are taken at the
        embedding layer. What an override returns is clustered itself: embeddings or features, shape (B, D).
        """
        return module(self.batch_inputs(batch))

    def batch_inputs(self, batch: Any) -> Any:
        """Return what the module's ``forward`` takes from a batch: its first field, or the entry with a usual name.

        Raises:
            InputError: if a dictionary has no entry with a usual name.
        """
        if isinstance(batch, Mapping):
            return _entry(batch, INPUT_KEYS, "batch_inputs")
        return batch[0] if isinstance(batch, (tuple, list)) else batch

    def batch_labels(self, batch: Any) -> Any:
        """Return the labels in a batch: those that losses are given, if a training step has shown them.

        Otherwise these are its second field, or the entry or attribute with a usual name.

        Raises:
            InputError: if there is none.
        """
        if self.labels_at is not None:
            for key in self.labels_at:
                batch = batch[key]
            return batch
        if isinstance(batch, Mapping):
            return _entry(batch, LABEL_KEYS, "batch_labels")
        if isinstance(batch, (tuple, list)) and len(batch) > 1:
            return batch[1]
        for name in LABEL_KEYS:  # of an object of its own, such as a batch of graphs
            if isinstance(labels := getattr(batch, name, None), Tensor):
                return labels
        raise InputError(
            f"a batch of type {type(batch).__name__} has no second field with labels; override "
            "DivideConquerCallback.batch_labels(batch)"
        )

    def dataset_labels(self, dataset: Dataset[Any]) -> Tensor | None:
        """Return the classes 0..C-1 of a data set, int64, shape (N,), or None to read them from its batches.

        Looks for ``targets`` or ``labels``, also inside a ``Subset`` or ``ConcatDataset``, and for the second tensor of
        a ``TensorDataset``; items are not read.
        """
        found = _raw_labels(dataset)
        return None if found is None else contiguous(found)


def place_of(tensor: Tensor, batch: Any) -> tuple[Any, ...] | None:
    """Return the keys and numbers that lead to a tensor in a batch, None if it is not there as it is."""
    if isinstance(batch, Tensor):
        return () if batch.data_ptr() == tensor.data_ptr() and batch.shape == tensor.shape else None
    entries = (
        batch.items() if isinstance(batch, Mapping) else enumerate(batch) if isinstance(batch, (tuple, list)) else ()
    )
    for key, entry in entries:
        rest = place_of(tensor, entry)
        if rest is not None:
            return (key, *rest)
    return None


def tensors_in(batch: Any) -> list[Tensor]:
    """Return the tensors in nested tuples, lists and mappings."""
    if isinstance(batch, Tensor):
        return [batch]
    entries = list(batch.values()) if isinstance(batch, Mapping) else batch
    return [tensor for entry in entries for tensor in tensors_in(entry)] if isinstance(entries, (tuple, list)) else []


def find_cluster_dataset(trainer: Any) -> Dataset[Any] | None:
    """Return what the data module's ``cluster_dataset()`` gives, if it has that method."""
    make = getattr(getattr(trainer, "datamodule", None), "cluster_dataset", None)
    return None if make is None else make()


def image_name(dataset: Dataset[Any], index: int) -> str | None:
    """Return what a data set calls an image, if it tells.

    Asks ``name_of(index)``, or looks into ``samples`` or ``imgs`` as data sets of torchvision keep them, also inside a
    ``Subset`` or ``ConcatDataset``.
    """
    if isinstance(dataset, Subset):
        return image_name(dataset.dataset, int(dataset.indices[index]))
    if isinstance(dataset, ConcatDataset):
        part = bisect_right(dataset.cumulative_sizes, index)
        return image_name(dataset.datasets[part], index - ([0, *dataset.cumulative_sizes][part]))
    if callable(name_of := getattr(dataset, "name_of", None)):
        return str(name_of(index))
    samples = getattr(dataset, "samples", getattr(dataset, "imgs", None))
    sample = samples[index] if isinstance(samples, (list, tuple)) and index < len(samples) else None
    return str(sample[0]) if isinstance(sample, (list, tuple)) and sample else None


def identify(dataset: Dataset[Any], index: int) -> str | None:
    """Return what tells an image from others: its name, or its number in the data set that a ``Subset`` is from."""
    if name := image_name(dataset, index):
        return name
    if not isinstance(dataset, Subset):
        return None
    return identify(dataset.dataset, whole := int(dataset.indices[index])) or f"image {whole} of the whole data set"


def check_label_range(module: nn.Module, dataset: Dataset[Any]) -> str | None:
    """Say that a loss was built for other labels than those the data set keeps, or None.

    Losses with weights for each class index them by label, and some give a silently wrong value for labels that do not
    begin at 0. The module may rename labels on their way, so this is a hint.
    """
    labels = _raw_labels(dataset)
    if labels is None or not np.issubdtype(labels.dtype, np.integer) or not len(labels):
        return None
    low, high = int(labels.min()), int(labels.max())
    for part in module.modules():
        if not isinstance(part, BaseMetricLossFunction):
            continue
        classes = getattr(part, "num_classes", None) or len(getattr(part, "proxy_labels", ()))
        if classes and (low < 0 or high >= classes):
            return (
                f"{type(part).__name__} was built for {classes} classes, labelled 0 to {classes - 1}, but the labels "
                f"of the training data run from {low} to {high}; rename them to 0, 1, ..."
            )
    return None


def contiguous(labels: Any) -> Tensor:
    """Rename labels of any kind, text included, to classes 0..C-1 in their sorted order.

    Example:
        >>> contiguous(["dog", "cat", "dog"])
        tensor([1, 0, 1])
    """
    return torch.from_numpy(np.unique(np.asarray(labels), return_inverse=True)[1].astype(np.int64))


def _entry(batch: Mapping[str, Any], names: tuple[str, ...], method: str) -> Any:
    for name in names:
        if name in batch:
            return batch[name]
    raise InputError(
        f"a batch with the keys {', '.join(map(repr, batch))} has none of {', '.join(names)}; override "
        f"DivideConquerCallback.{method}(batch)"
    )


def _raw_labels(dataset: Dataset[Any]) -> np.ndarray[Any, Any] | None:
    if isinstance(dataset, Subset):
        labels = _raw_labels(dataset.dataset)
        return None if labels is None else labels[np.asarray(dataset.indices)]
    if isinstance(dataset, ConcatDataset):
        parts = [_raw_labels(part) for part in dataset.datasets]
        known = [part for part in parts if part is not None]
        return np.concatenate(known) if len(known) == len(parts) else None
    if isinstance(dataset, TensorDataset) and len(dataset.tensors) > 1:
        labels = dataset.tensors[1].numpy()
    else:
        try:
            labels = np.asarray(getattr(dataset, "targets", getattr(dataset, "labels", None)))
        except ValueError:  # lists of different lengths: several labels for an image
            return None
    return labels if labels.shape == (len(dataset),) else None  # type: ignore[arg-type]
