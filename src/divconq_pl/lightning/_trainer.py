"""Every private part of Lightning that this package touches, and the two names Lightning goes by."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterable
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
import pytorch_lightning as pl
import torch
from lightning_fabric.utilities.data import _set_sampler_epoch
from lightning_fabric.utilities.types import _Stateful
from pytorch_lightning.loops.evaluation_loop import RestartStage
from pytorch_lightning.utilities import CombinedLoader
from torch import Tensor
from torch.optim import Optimizer
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


REFUSED_STRATEGIES = {
    "FSDPStrategy": "which cuts parameters into pieces",
    "DeepSpeedStrategy": "which steps its own optimiser",
    "ModelParallelStrategy": "which cuts parameters into pieces",
    "XLAStrategy": "whose devices do not give the state of their random numbers",
    "SingleDeviceXLAStrategy": "whose devices do not give the state of their random numbers",
}
"""Strategies that divide and conquer cannot be trained with, by class name, subclasses included, and why."""


def check_strategy(trainer: pl.Trainer) -> None:
    """Refuse a strategy under which a loss's own weights cannot be narrowed, or an exact resume is impossible.

    Raises:
        InputError: for FSDP, DeepSpeed, model parallelism and XLA.
    """
    strategy = type(trainer.strategy)
    for cls in strategy.__mro__:
        if cls.__name__ in REFUSED_STRATEGIES:
            raise InputError(
                f"strategy {strategy.__name__}, {REFUSED_STRATEGIES[cls.__name__]}, does not go together with "
                "divide-and-conquer; use strategy='ddp' or 'ddp_spawn', or a single device"
            )


def gradient_scale(trainer: pl.Trainer, optimizer: Optimizer) -> float:
    """Return the factor that the gradients an optimiser is about to see are too large by.

    Under a scaler of gradients they are what they should be by then, unless the optimiser divides them itself, as fused
    ones do.
    """
    scaler: Any = getattr(trainer.precision_plugin, "scaler", None)
    divides_itself = getattr(optimizer, "_step_supports_amp_scaling", False)
    return float(scaler.get_scale()) if scaler is not None and divides_itself else 1.0


def _combined(trainer: pl.Trainer) -> CombinedLoader:
    combined = trainer.fit_loop._combined_loader
    assert combined is not None, "the training has not started"
    return combined


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


def begin_batches(trainer: pl.Trainer) -> None:
    """Let the epoch that starts begin with its first batch.

    A fit that was stopped between two epochs would take the new epoch for the one that has all its batches behind it.
    """
    trainer.fit_loop.epoch_loop.restarting = False


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


def forget_restart(trainer: pl.Trainer) -> None:
    """Tell a resumed fit that it is under way.

    The Trainer leaves out the step of a plateau scheduler at the end of an epoch that it has entered later than at its
    start.
    """
    trainer.fit_loop._restarting = False


def logged_metrics(trainer: pl.Trainer) -> dict[str, Tensor]:
    """Return what was logged and can be monitored."""
    return {name: torch.as_tensor(value).detach().cpu() for name, value in trainer.callback_metrics.items()}


def set_logged_metrics(trainer: pl.Trainer, metrics: dict[str, Tensor]) -> None:
    """Set what :func:`logged_metrics` returned, for what is decided by it at the end of the epoch."""
    trainer._logger_connector._callback_metrics.update(metrics)


def at_epoch_end(trainer: pl.Trainer) -> bool:
    """Tell whether an epoch is being concluded, when checkpoints are saved but plateau schedulers not yet stepped."""
    progress: Any = trainer.fit_loop.epoch_progress.current
    return bool(progress.processed > progress.completed)


def step_plateau_schedulers(trainer: pl.Trainer) -> None:
    """Take the step that the Trainer leaves out when it goes on from the end of the last epoch."""
    for config in trainer.lr_scheduler_configs:
        due = config.interval == "epoch" and trainer.current_epoch % config.frequency == 0
        if config.reduce_on_plateau and due and config.monitor in trainer.callback_metrics:
            config.scheduler.step(trainer.callback_metrics[config.monitor])  # type: ignore[arg-type]


def has_diverged(trainer: pl.Trainer, loss: Tensor) -> bool:
    """Tell whether a loss is NaN or infinite; where gradients are scaled, infinity is what the scaler waits for."""
    scales = getattr(trainer.precision_plugin, "scaler", None) is not None
    return not bool((~loss.isnan() if scales else loss.isfinite()).all())


def is_accumulating(trainer: pl.Trainer) -> bool:
    """Tell whether gradients wait for those of further batches before the optimiser's next step."""
    return trainer.fit_loop.epoch_loop._should_accumulate()


def in_validation(trainer: pl.Trainer) -> bool:
    """Tell whether the validation of a fit is going on."""
    return bool(trainer.validating)


def validate_anew(trainer: pl.Trainer) -> None:
    """Let a resumed fit begin with the validation that was interrupted.

    The Trainer would go on counting from where it was, or take it for done, depending on the hook that raised.
    """
    loop = trainer.fit_loop.epoch_loop.val_loop
    loop._restart_stage = RestartStage.RESTARTED_MID_EVALUATION
    loop.batch_progress.current.reset()


def steps_done(trainer: pl.Trainer) -> int:
    """Return how many batches were trained on, in all epochs."""
    progress: Any = trainer.fit_loop.epoch_loop.batch_progress.total
    return int(progress.processed)


def before_validation(trainer: pl.Trainer) -> bool:
    """Tell whether a batch has just been trained on after which there is a validation."""
    epoch_loop = trainer.fit_loop.epoch_loop
    progress: Any = epoch_loop.batch_progress.current
    fetcher = trainer.fit_loop._data_fetcher
    return progress.processed > progress.completed and fetcher is not None and epoch_loop._should_check_val_fx(fetcher)


def count_batch(checkpoint: dict[str, Any]) -> None:
    """Let a checkpoint count the batch as completed that has just been trained on.

    Otherwise a resumed fit leaves out the validation that would have come next.
    """
    for counts in ("current", "total"):
        checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"][counts]["completed"] += 1


def drop_batch(checkpoint: dict[str, Any]) -> None:
    """Let a checkpoint not count a batch whose step was interrupted and taken back.

    Otherwise a resumed fit may take the batches before it for ones after which a validation is still to come.
    """
    for counts in ("current", "total"):
        progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"][counts]
        progress["ready"] = progress["started"] = progress["processed"]


def settle_epochs(checkpoint: dict[str, Any]) -> None:
    """Let a checkpoint count no epoch that has not started.

    The Trainer counts an epoch that is stopped at its start, and again when that is resumed; then it no longer knows
    the middle of an epoch for what it is.
    """
    for counts in checkpoint["loops"]["fit_loop"]["epoch_progress"].values():
        counts["ready"] = counts["started"]


def in_step(trainer: pl.Trainer) -> bool:
    """Tell whether a batch is being trained on, from its being there to the optimiser's step."""
    progress: Any = trainer.fit_loop.epoch_loop.batch_progress.current
    return bool(progress.processed < progress.ready)


def entered_mid_epoch(trainer: pl.Trainer) -> bool:
    """Tell whether a resumed fit goes on in the middle, or at the end, of an epoch; it has no epoch start then."""
    fit_loop = trainer.fit_loop
    return fit_loop.restarted_mid_epoch or fit_loop.restarted_on_epoch_end


def batches_done(trainer: pl.Trainer) -> int:
    """Return how many batches of the epoch a resumed fit had done."""
    epoch_loop = trainer.fit_loop.epoch_loop
    # A checkpoint written in on_train_batch_end comes after the batch's step, but before it is counted.
    return int(epoch_loop.batch_progress.current.completed) + epoch_loop.restarted_on_train_batch_end


def batch_index(trainer: pl.Trainer) -> int:
    """Return the number, within its epoch, of the batch that is being trained on."""
    return int(trainer.fit_loop.epoch_loop.batch_idx)


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


def gather_objects(own: Any) -> list[Any]:
    """Return what each process gave, in the order of their ranks."""
    gathered: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(gathered, own)
    return gathered


def gather_strided_objects(rows: list[Any]) -> list[Any]:
    """Put the entries of all processes together, as :func:`gather_strided` does."""
    return [row for together in zip(*gather_objects(rows), strict=True) for row in together]


def random_state(trainer: pl.Trainer) -> dict[str, Any]:
    """Return the state of all random numbers a training draws: Python's, NumPy's, torch's, and the loaders' own.

    It holds plain values and tensors only, so that it is read back with ``weights_only=True``.
    """
    kind, keys, *rest = np.random.get_state(legacy=True)
    device = trainer.strategy.root_device
    return {
        "python": random.getstate(),
        "numpy": (kind, torch.from_numpy(np.asarray(keys, dtype=np.int64)), *rest),
        "torch": torch.get_rng_state(),
        "device": None if device.type == "cpu" else torch.get_device_module(device).get_rng_state(device),
        "loaders": [generator.get_state() for generator in _generators(trainer)],
    }


def set_random_state(trainer: pl.Trainer, state: dict[str, Any]) -> None:
    """Set what :func:`random_state` returned, as far as there are such devices and loaders."""
    device = trainer.strategy.root_device
    random.setstate(state["python"])
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if device.type != "cpu" and state["device"] is not None:
        torch.get_device_module(device).set_rng_state(state["device"], device)
    for generator, loaders in zip(_generators(trainer), state["loaders"], strict=False):
        generator.set_state(loaders)


def _generators(trainer: pl.Trainer) -> list[torch.Generator]:
    """Return the generators that the training loaders were given, each once."""
    combined = trainer.fit_loop._combined_loader
    loaders = [] if combined is None else combined.flattened
    parts = [part for loader in loaders for part in (loader, *_samplers(loader))]
    found = (getattr(part, "generator", None) for part in parts)
    return list({id(generator): generator for generator in found if isinstance(generator, torch.Generator)}.values())


def _samplers(loader: Any) -> list[Any]:
    batch_sampler = getattr(loader, "batch_sampler", None)
    return [getattr(loader, "sampler", None), batch_sampler, getattr(batch_sampler, "sampler", None)]
