"""The training loaders of a running fit."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import pytorch_lightning as pl
from lightning_fabric.utilities.data import _set_sampler_epoch
from lightning_fabric.utilities.types import _Stateful
from pytorch_lightning.utilities import CombinedLoader
from pytorch_lightning.utilities._pytree import _tree_flatten
from pytorch_lightning.utilities.combined_loader import _shutdown_workers_and_reset_iterator
from pytorch_lightning.utilities.seed import isolate_rng
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset, SequentialSampler

from divconq_pl.errors import InputError

ENDLESS = 10**9
"""Batches from which on an epoch is taken for endless; some samplers give ``sys.maxsize`` as their length."""


def get_train_loader(trainer: pl.Trainer) -> DataLoader[Any]:
    """Return the user's training loader of a running fit: the only one, or the first of several.

    Raises:
        InputError: if its batches cannot be chosen from outside.
    """
    combined = _combined(trainer)
    loader = users_loaders(trainer)[0]
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
    if not hasattr(loader.dataset, "__len__"):
        raise InputError(
            f"the training data set {type(loader.dataset).__name__} has no length (__len__), which divide-and-conquer "
            "needs to look at all images"
        )
    if loader.batch_sampler is None and trainer.world_size > 1 and isinstance(loader.sampler, DistributedSampler):
        raise InputError(
            f"with {trainer.world_size} processes the Trainer has put a DistributedSampler in the place of the "
            "training loader's batch sampler, so the loader makes no batches; use "
            "Trainer(use_distributed_sampler=False), or give the loader batch_size=... instead of batch_sampler=..."
        )
    if loader.batch_sampler is None:
        raise InputError(
            "the training loader has batch_size=None; divide-and-conquer needs a loader that makes batches"
        )
    return loader


def users_loaders(trainer: pl.Trainer) -> list[Any]:
    """Return what the user gave to train from, whatever the running fit draws from at the moment."""
    combined = trainer.fit_loop._combined_loader
    return [] if combined is None else _tree_flatten(combined.iterables)[0]


def count_batches(trainer: pl.Trainer) -> int:
    """Return the number of batches that an epoch of the running fit draws: limits and other loaders count.

    Raises:
        InputError: if an epoch has no end.
    """
    batches = trainer.num_training_batches
    if batches >= ENDLESS:
        sampler = type(get_train_loader(trainer).batch_sampler).__name__
        raise InputError(
            f"the training loader's batch sampler {sampler} has no length (__len__) or an infinite one, so an epoch "
            "has no end; give it a length, or set Trainer(limit_train_batches=...) to the batches of an epoch"
        )
    return int(batches)


def set_train_loader(trainer: pl.Trainer, loader: DataLoader[Any], *, renew: bool = False) -> None:
    """Let a running fit draw from ``loader`` from its next epoch, or batch, on.

    ``trainer.train_dataloader`` stays what the user gave: modules and callbacks look there.

    Args:
        trainer: the running fit.
        loader: the loader, which may be the present one.
        renew: begin with its batches anew, even if it is the present one.
    """
    combined = _combined(trainer)
    if combined.flattened[0] is not loader:
        _exchange(combined, loader)
        renew = True
    if renew:
        renew_batches(trainer)


def give_loader_back(trainer: pl.Trainer) -> None:
    """Leave the loaders of a fit that ends as the user gave them: a CombinedLoader of the user's may be used again."""
    combined = trainer.fit_loop._combined_loader
    if combined is not None and combined.flattened[0] is not (loader := users_loaders(trainer)[0]):
        _exchange(combined, loader)


def _exchange(combined: CombinedLoader, loader: Any) -> None:
    iterator = combined._iterator
    combined.reset()  # shuts the workers of the last loader down
    # The Trainer asks for its length if an exception ends the fit before there is a new one.
    combined._iterator = iterator
    combined._flattened = [loader, *combined.flattened[1:]]


def renew_batches(trainer: pl.Trainer) -> None:
    """Begin with the batches of the epoch anew, unless the Trainer is about to do so itself."""
    fit_loop = trainer.fit_loop
    # The Trainer tells the loaders of the last epoch what epoch it is, and after a resume none.
    tell_epoch(trainer)
    if trainer.current_epoch == 0 or fit_loop.is_resuming or fit_loop.epoch_loop.restarting:
        assert fit_loop._data_fetcher is not None
        iter(fit_loop._data_fetcher)


def tell_epoch(trainer: pl.Trainer) -> None:
    """Tell all loaders what epoch it is, also the user's that are not drawn from at the moment."""
    for loader in (*_combined(trainer).flattened, *users_loaders(trainer)):
        _set_sampler_epoch(loader, trainer.current_epoch)


def living_workers(trainer: pl.Trainer) -> dict[str, list[bool]]:
    """Return which loaders of training and validation have workers that live on from one pass to the next.

    Starting them draws a random number, which a pass with the same workers does not.
    """
    return {name: [_lives(loader) for loader in every] for name, every in _with_workers(trainer).items()}


def restore_workers(trainer: pl.Trainer, living: dict[str, list[bool]]) -> None:
    """Start and stop workers until those live that :func:`living_workers` said, without drawing random numbers."""
    val_loop = trainer.fit_loop.epoch_loop.val_loop
    with isolate_rng():
        if any(living["val"]) and val_loop._combined_loader is None:
            trainer.validating = True
            val_loop.setup_data()
            trainer.training = True
        for name, every in _with_workers(trainer).items():
            for loader, lives in zip(every, living[name], strict=False):
                if lives and not _lives(loader) and getattr(loader, "persistent_workers", False):
                    iter(loader)
                elif not lives and _lives(loader):
                    _shutdown_workers_and_reset_iterator(loader)


def _with_workers(trainer: pl.Trainer) -> dict[str, list[Any]]:
    val = trainer.fit_loop.epoch_loop.val_loop._combined_loader
    return {"train": users_loaders(trainer), "val": [] if val is None else val.flattened}


def _lives(loader: Any) -> bool:
    return getattr(loader, "_iterator", None) is not None and not isinstance(loader, _Stateful)


def pass_over(trainer: pl.Trainer, batches: int) -> None:
    """Draw batches of the epoch without training on them, since they were trained on before a resume."""
    if batches < trainer.num_training_batches:
        for _ in range(batches):
            next(_combined(trainer))


def is_limited(trainer: pl.Trainer) -> bool:
    """Tell whether the Trainer lets an epoch have fewer batches than its loaders have."""
    limit = trainer.limit_train_batches
    return isinstance(limit, int) or limit < 1.0


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
