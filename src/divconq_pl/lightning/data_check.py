"""Whether the training data can be divided, and are those that the training began with."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.utilities import rank_zero_warn
from torch.utils.data import DataLoader

from divconq_pl.core.usable import check_divisible
from divconq_pl.lightning.continuity import Record
from divconq_pl.lightning.reading import DataReader, check_label_range, image_name
from divconq_pl.lightning.routing import batch_size, check_loader


def check_data(
    trainer: pl.Trainer,
    pl_module: pl.LightningModule,
    loader: DataLoader[Any],
    reader: DataReader,
    record: Record,
    settings: Mapping[str, Any],
    *,
    num_learners: int,
    mid_epoch: bool,
) -> None:
    """Refuse data that cannot be divided, or with which the training of a checkpoint cannot go on.

    Args:
        trainer: the fit that begins.
        pl_module: what it trains.
        loader: the user's training loader.
        reader: how data sets give labels.
        record: knows with what the training of a checkpoint ran, and notes with what it runs now.
        settings: what else decides how the training goes, ``images_per_class`` among it.
        num_learners: how many there will be.
        mid_epoch: whether the training goes on in the middle of an epoch.

    Raises:
        InputError: it says what is wrong with the data, or different from the checkpoint's.
    """
    check_loader(loader, settings["images_per_class"], num_learners)
    labels = reader.dataset_labels(loader.dataset)
    if labels is not None:
        check_divisible(labels, num_learners)
    if advice := check_label_range(pl_module, loader.dataset):
        rank_zero_warn(advice)
    change = record.begin(
        {**settings, "batch_size": batch_size(loader), "batches": len(loader), "processes": trainer.world_size},
        labels,
        partial(image_name, loader.dataset),
        len(loader.dataset),  # type: ignore[arg-type]
        mid_epoch=mid_epoch,
    )
    if change:
        rank_zero_warn(change)
