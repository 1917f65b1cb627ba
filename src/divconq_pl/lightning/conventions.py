"""What batches, data sets and modules usually look like."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from pytorch_metric_learning.losses import BaseMetricLossFunction
from pytorch_metric_learning.miners import BaseMiner
from torch import Tensor, nn
from torch.utils.data import ConcatDataset, Dataset, Subset, TensorDataset

from divconq_pl.core.subspaces import Subspaces
from divconq_pl.errors import InputError

INPUT_KEYS = ("image", "images", "input", "inputs", "x", "pixel_values", "data", "features")
WIDTHS = ("out_features", "num_features", "out_channels", "embedding_dim")
LABEL_KEYS = ("label", "labels", "target", "targets", "y", "class")


def batch_inputs(batch: Any) -> Any:
    """Return what the network takes from a batch: its first field, or the entry with a usual name.

    Raises:
        InputError: if a dictionary has no entry with a usual name.
    """
    if isinstance(batch, Mapping):
        return _entry(batch, INPUT_KEYS, "batch_inputs")
    return batch[0] if isinstance(batch, (tuple, list)) else batch


def batch_labels(batch: Any) -> Any:
    """Return the labels in a batch: its second field, or the entry with a usual name.

    Raises:
        InputError: if there is none.
    """
    if isinstance(batch, Mapping):
        return _entry(batch, LABEL_KEYS, "batch_labels")
    if isinstance(batch, (tuple, list)) and len(batch) > 1:
        return batch[1]
    raise InputError(
        f"a batch of type {type(batch).__name__} has no second field with labels; override "
        "DivideConquerCallback.batch_labels(batch)"
    )


def _entry(batch: Mapping[str, Any], names: tuple[str, ...], method: str) -> Any:
    for name in names:
        if name in batch:
            return batch[name]
    raise InputError(
        f"a batch with the keys {', '.join(map(repr, batch))} has none of {', '.join(names)}; override "
        f"DivideConquerCallback.{method}(batch)"
    )


def dataset_labels(dataset: Dataset[Any]) -> Tensor | None:
    """Return the labels of a data set without reading its items, as classes 0..C-1, if it keeps them as usual.

    Looks for ``targets`` or ``labels``, also inside a ``Subset`` or ``ConcatDataset``, and for the second tensor of a
    ``TensorDataset``.

    Returns:
        Classes, int64, shape (N,), or None.
    """
    found = _raw_labels(dataset)
    return None if found is None else contiguous(found)


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


def label_advice(module: nn.Module, dataset: Dataset[Any]) -> str | None:
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


def find_embedding_layer(module: nn.Module, name: str | None = None) -> tuple[str, nn.Module, int]:
    """Find the layer that gives the embedding.

    Args:
        module: the user's module.
        name: dotted name of the layer; by default ``embedding`` if there is such a submodule, otherwise the last linear
            layer outside the losses, otherwise the last submodule that tells its width: pooled features of a backbone.

    Returns:
        The layer's name, the layer, and the width of what it gives.

    Raises:
        InputError: if there is no such layer, or its width cannot be told.
    """
    modules = {n: part for n, part in module.named_modules(remove_duplicate=False) if n}
    losses = tuple(f"{n}." for n, part in modules.items() if isinstance(part, (BaseMetricLossFunction, BaseMiner)))
    layers = {n: part for n, part in modules.items() if not f"{n}.".startswith(losses or "\0")}
    linear = [n for n, part in layers.items() if isinstance(part, nn.Linear)]
    if name is not None and name not in modules:
        raise InputError(
            f"embedding={name!r} is no layer of {type(module).__name__}; "
            f"its linear layers are {', '.join(linear) or 'none'}"
        )
    if name is None:
        children = [n for n, _ in module.named_children() if n in layers and _width(layers[n])]
        own = layers.get("embedding")
        is_table = isinstance(own, (nn.Embedding, nn.EmbeddingBag))  # of a text model's tokens: its first layer
        top = linear[-1].partition(".")[0] if linear else None
        if top and _declared_width(layers[top]) == _width(layers[linear[-1]]):
            linear.append(top)  # a backbone without a classifier, whose last linear layer is one of its blocks'
        named = ["embedding"] if own is not None and not is_table else []
        name = next(iter([*named, *linear[-1:], *children[-1:]]), None)
    if name is None or (width := _width(modules[name])) is None:
        raise InputError(
            f"the layer of {type(module).__name__} that gives the embedding is not to be found"
            + (f": {name!r} ({type(modules[name]).__name__}) has no out_features" if name else "")
            + "; name a linear layer, or one with an attribute out_features, with embedding='...'"
        )
    return name, modules[name], width


def _width(layer: nn.Module) -> int | None:
    """Return the width of what a layer gives, by its own word or by that of its last part that has one."""
    widths = (_declared_width(part) for part in (layer, *reversed(list(layer.modules()))))
    return next((width for width in widths if width is not None), None)


def _declared_width(layer: nn.Module) -> int | None:
    found = (getattr(layer, attribute, None) for attribute in WIDTHS)
    return next((width for width in found if isinstance(width, int)), None)


def backbone_parameters(module: nn.Module, layer: nn.Module) -> list[nn.Parameter]:
    """Return all parameters but those of the embedding layer, the losses and the subspaces."""
    kept = [part for part in module.modules() if part is layer or isinstance(part, (BaseMetricLossFunction, Subspaces))]
    ids = {id(parameter) for part in kept for parameter in part.parameters()}
    return [parameter for parameter in module.parameters() if id(parameter) not in ids]


def cluster_dataset(trainer: Any) -> Dataset[Any] | None:
    """Return what the data module's ``cluster_dataset()`` gives, if it has that method."""
    make = getattr(getattr(trainer, "datamodule", None), "cluster_dataset", None)
    return None if make is None else make()
