"""Every private part of Lightning that this package touches, and the two names Lightning goes by."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, SequentialSampler

from divconq_pl.errors import InputError

if TYPE_CHECKING or find_spec("lightning") is None:
    CallbackBase = pl.Callback
else:  # a callback that the Trainers of both packages take
    from lightning.pytorch import Callback as _MirrorCallback

    class CallbackBase(pl.Callback, _MirrorCallback):
        """The callback base class of both Lightning packages."""


def check_order(trainer: pl.Trainer, callback: object) -> None:
    """Refuse a callback that copies the module before learned masks are put into it.

    Raises:
        InputError: if a WeightAveraging comes before ``callback``.
    """
    for other in trainer.callbacks:  # type: ignore[attr-defined]
        if other is callback:
            return
        if any(cls.__name__ == "WeightAveraging" for cls in type(other).__mro__):
            raise InputError(
                f"{type(other).__name__} copies the module before it has its learned masks; put it after "
                f"{type(callback).__name__} in the list of callbacks"
            )


def get_train_loader(trainer: pl.Trainer) -> DataLoader[Any]:
    """Return the training loader of a running fit: the only one, or the first of several.

    Raises:
        InputError: if its batches cannot be chosen from outside.
    """
    combined = trainer.fit_loop._combined_loader
    assert combined is not None, "the training has not started"
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


def set_train_loader(trainer: pl.Trainer, loader: DataLoader[Any]) -> None:
    """Let a running fit draw from ``loader`` from its next epoch, or batch, on."""
    fit_loop = trainer.fit_loop
    combined, fetcher = fit_loop._combined_loader, fit_loop._data_fetcher
    assert combined is not None, "the training has not started"
    assert fetcher is not None
    if combined.flattened[0] is not loader:
        combined.reset()  # shuts the workers of the last loader down
        combined.flattened = [loader, *combined.flattened[1:]]
    # The Trainer makes the iterator of a new epoch itself, except for its very first one.
    if trainer.current_epoch == 0 or fit_loop.is_resuming or fit_loop.restarting or fit_loop.epoch_loop.restarting:
        iter(fetcher)


def entered_mid_epoch(trainer: pl.Trainer) -> bool:
    """Tell whether a resumed fit goes on in the middle, or at the end, of an epoch; it has no epoch start then."""
    fit_loop = trainer.fit_loop
    return fit_loop.restarted_mid_epoch or fit_loop.restarted_on_epoch_end


def batches_done(trainer: pl.Trainer) -> int:
    """Return how many batches of the epoch a resumed fit had done."""
    epoch_loop = trainer.fit_loop.epoch_loop
    # A checkpoint written in on_train_batch_end comes after the batch's step, but before it is counted.
    return int(epoch_loop.batch_progress.current.completed) + epoch_loop.restarted_on_train_batch_end


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


def gather_strided(pl_module: pl.LightningModule, rows: Tensor) -> Tensor:
    """Put the rows of all processes together, where process r of W has rows r, r + W, r + 2W, ..."""
    gathered = pl_module.all_gather(rows)
    assert isinstance(gathered, Tensor)
    return gathered.transpose(0, 1).reshape(-1, *rows.shape[1:])


def gather_strided_objects(rows: list[Any]) -> list[Any]:
    """Do the same for a list of anything."""
    gathered: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(gathered, rows)
    return [row for together in zip(*gathered, strict=True) for row in together]
