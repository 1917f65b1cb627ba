"""Try what was built from a configuration on a few images before the training, to name a part that does not fit."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytorch_lightning as pl
import torch

from divconq_pl.data import RetrievalDataModule
from divconq_pl.data.draws import random_numbers
from divconq_pl.errors import InputError
from divconq_pl.lightning.module import DivideConquerModule


def rehearse(module: DivideConquerModule, data: RetrievalDataModule) -> None:
    """Pass a training image through the transforms and the backbone, and random embeddings through miner and loss.

    Whatever these raise comes from how they were configured, or from parts that do not fit together. Neither weights
    nor random numbers are changed.

    Args:
        module: the module that is to be trained.
        data: its images.

    Raises:
        InputError: it names the part, what it was given, and its own message.
    """
    train = data.splits.train
    images = {}
    with random_numbers("rehearsal"):
        for name in ("train_transform", "test_transform"):
            with _refuse_with(f"data.{name} cannot transform {train.name_of(0)!r}"):
                images[name] = train.with_transform(getattr(data, name))[0][0]
        for image in images.values():
            with _refuse_with(f"the backbone cannot take images of shape {tuple(image.shape)}"), torch.no_grad():
                backbone = copy.deepcopy(module.backbone).eval()
                backbone(torch.stack([image, image]))
        last = len(train.classes) - 1
        labels = torch.tensor([0] * 6 + [last] * 6)
        embeddings = torch.randn(len(labels), module.embedding.out_features, requires_grad=True)
        with _refuse_with(f"the miner cannot take embeddings of {embeddings.shape[1]} numbers"):
            pairs = None if module.miner is None else copy.deepcopy(module.miner)(embeddings, labels)
        with _refuse_with(f"the loss cannot take embeddings of {embeddings.shape[1]} numbers and {last + 1} classes"):
            copy.deepcopy(module.loss)(embeddings, labels, pairs)


def check_trainer(trainer: pl.Trainer, settings: Mapping[Any, Any]) -> None:
    """Refuse settings that a Trainer accepts, but that make a run fail in the middle or at its end.

    Args:
        trainer: the Trainer of the run.
        settings: what it was built from.

    Raises:
        InputError: it names the setting.
    """
    if trainer.check_val_every_n_epoch == 0:
        raise InputError("trainer.check_val_every_n_epoch=0 is not possible; use 1 or more, or selection=last_epoch")
    if trainer.limit_test_batches == 0:
        raise InputError("trainer.limit_test_batches=0 leaves no image to test on; use null, or 1 or more")
    if trainer.world_size > 1 and settings.get("use_distributed_sampler", True):
        raise InputError(
            "trainer.use_distributed_sampler=true gives each process only a share of the test images; use false"
        )


@contextmanager
def _refuse_with(message: str) -> Iterator[None]:
    """Turn any exception into an InputError that begins with a message."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # anything may be configured here, so anything may be raised
        raise InputError(f"{message}: {error}") from error
