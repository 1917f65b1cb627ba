"""Whether the training data can be divided, and are those that the training began with."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor

from divconq_pl.core.usable import check_divisible
from divconq_pl.errors import InputError
from divconq_pl.lightning._trainer import loaders
from divconq_pl.lightning.continuity import Record
from divconq_pl.lightning.reading import check_label_range, identify
from divconq_pl.lightning.routing import BatchRouter, batch_size


def check_divisibility(trainer: pl.Trainer, router: BatchRouter, num_learners: int) -> None:
    """Refuse data that cannot be divided.

    Args:
        trainer: the fit that begins.
        router: knows the user's training loader.
        num_learners: how many there will be.

    Raises:
        InputError: it says what is wrong with the data.
    """
    router.check_loader(trainer, num_learners)
    labels, dataset = router.labels(trainer), router.dataset(trainer)
    if labels is not None:
        check_labels(labels, len(dataset), "dataset_labels gives")  # type: ignore[arg-type]
        check_divisible(labels, num_learners)
    if advice := check_label_range(trainer.lightning_module, dataset):
        rank_zero_warn(advice)


def compare_data(
    trainer: pl.Trainer, router: BatchRouter, record: Record, settings: Mapping[str, Any], *, mid_epoch: bool
) -> None:
    """Refuse data with which the training of a checkpoint cannot go on.

    Args:
        trainer: the fit that begins.
        router: knows the user's training loader.
        record: knows with what the training of a checkpoint ran, and notes with what it runs now.
        settings: what else decides how the training goes.
        mid_epoch: whether the training goes on in the middle of an epoch.

    Raises:
        InputError: it says what is different from the checkpoint's.
    """
    loader, batches = router.drawable(trainer).loader, loaders.count_batches(trainer)
    change = record.begin(
        {**settings, "batch_size": batch_size(loader), "batches": batches, "processes": trainer.world_size},
        router.labels(trainer),
        partial(identify, loader.dataset),
        len(loader.dataset),  # type: ignore[arg-type]
        mid_epoch=mid_epoch,
    )
    if change:
        rank_zero_warn(change)


def check_labels(labels: Any, count: int, what: str) -> None:
    """Refuse labels that are not one for each item.

    Args:
        labels: a tensor or a list.
        count: the number of items.
        what: gives them.

    Raises:
        InputError: it says what they are.
    """
    shape = tuple(labels.shape) if isinstance(labels, Tensor) else (len(labels),)
    advice = "override DivideConquerCallback.batch_labels(batch) or dataset_labels(dataset) to return that"
    if len(shape) != 1:
        raise InputError(
            f"{what} labels of shape {shape} for {count} items; divide and conquer needs one class for each, shape "
            f"({count},): {advice}"
        )
    if shape[0] != count:
        raise InputError(
            f"{what} {shape[0]} labels for {count} indices of the data set; divide and conquer puts each index into a "
            f"cluster, so the data set has to give one item for each and its class: {advice}"
        )
    if isinstance(labels, Tensor) and labels.is_floating_point():
        raise InputError(f"{what} labels of type {labels.dtype}; divide and conquer needs classes: {advice}")
