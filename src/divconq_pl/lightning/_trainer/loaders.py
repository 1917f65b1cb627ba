"""The training loaders of a running fit."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import pytorch_lightning as pl
from lightning_fabric.utilities.data import _set_sampler_epoch
from lightning_fabric.utilities.types import _Stateful
from pytorch_lightning.utilities import CombinedLoader
from torch.utils.data import DataLoader, IterableDataset, SequentialSampler

from divconq_pl.errors import InputError


def get_train_loader(trainer: pl.Trainer) -> DataLoader[Any]:
    """Return the training loader of a running fit: the only one, or the first of several.

    Raises:
        InputError: if its batches cannot be chosen from outside.
    """
    combined = _combined(trainer)
    loader = combined.flattened[0]
    if combined._mode == "max_size":
        raise InputError("CombinedLoader(mode='max_size') is not supported; use mode='min_size' or 'max_size_cycle'")
    if not isinstance(loader, DataLoader):
        raise InputError(
            f"the training loader is a {type(loader).__name__}; divide-and-conquer chooses the images of every batch "
            "and needs a torch.utils.data.DataLoader"
        )
    if isinstance(loader.dataset, IterableDataset):
        raise InputError(
            f"the training data set {type(loader.dataset).__name__} is an IterableDataset; divide-and-conquer chooses "
            "the images of every batch and needs a map-style data set (with __getitem__ and __len__)"
        )
    if loader.batch_sampler is None:
        raise InputError(
            "the training loader has batch_size=None; divide-and-conquer needs a loader that makes batches"
        )
    return loader


def set_train_loader(trainer: pl.Trainer, loader: DataLoader[Any], *, renew: bool = False) -> None:
    """Let a running fit draw from ``loader`` from its next epoch, or batch, on.

    Args:
        trainer: the running fit.
        loader: the loader, which may be the present one.
        renew: begin with its batches anew, even if it is the present one.
    """
    combined = _combined(trainer)
    if combined.flattened[0] is not loader:
        iterator = combined._iterator
        combined.reset()  # shuts the workers of the last loader down
        # The Trainer asks for its length if an exception ends the fit before there is a new one.
        combined._iterator = iterator
        combined.flattened = [loader, *combined.flattened[1:]]
        renew = True
    if renew:
        renew_batches(trainer)


def renew_batches(trainer: pl.Trainer) -> None:
    """Begin with the batches of the epoch anew, unless the Trainer is about to do so itself."""
    fit_loop = trainer.fit_loop
    for loader in _combined(trainer).flattened:
        # The Trainer tells the loaders of the last epoch what epoch it is, and after a resume none.
        _set_sampler_epoch(loader, trainer.current_epoch)
    if trainer.current_epoch == 0 or fit_loop.is_resuming or fit_loop.epoch_loop.restarting:
        assert fit_loop._data_fetcher is not None
        iter(fit_loop._data_fetcher)


def pass_over(trainer: pl.Trainer, batches: int) -> None:
    """Draw batches of the epoch without training on them, since they were trained on before a resume."""
    if batches < trainer.num_training_batches:
        for _ in range(batches):
            next(_combined(trainer))


def is_only_loader(trainer: pl.Trainer) -> bool:
    """Tell whether the training draws from a single loader."""
    return len(_combined(trainer).flattened) == 1


def restores_its_batches(trainer: pl.Trainer) -> bool:
    """Tell whether the loaders have a state of their own, which the Trainer saves and restores."""
    return all(isinstance(loader, _Stateful) for loader in _combined(trainer).flattened)


def with_batches(loader: DataLoader[Any], batch_sampler: Iterable[list[int]], **changes: Any) -> DataLoader[Any]:
    """Return a copy of ``loader`` that draws the batches of ``batch_sampler``; ``loader`` itself stays as it is.

    Args:
        loader: any map-style loader, subclasses included.
        batch_sampler: yields the indices of each batch.
        changes: further attributes of the copy, such as ``dataset``.
    """
    twin = copy.copy(loader)
    twin.__dict__.update(  # a loader refuses these assignments otherwise
        batch_sampler=batch_sampler,
        batch_size=None,
        drop_last=False,
        sampler=SequentialSampler(changes.get("dataset", loader.dataset)),
        _iterator=None,
        in_order=True,
        **changes,
    )
    return twin


def _combined(trainer: pl.Trainer) -> CombinedLoader:
    combined = trainer.fit_loop._combined_loader
    assert combined is not None, "the training has not started"
    return combined
