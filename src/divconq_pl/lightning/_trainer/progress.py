"""How far a fit has come, and where Lightning loses count."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.loops.evaluation_loop import RestartStage
from torch import Tensor


def planned_epochs(trainer: pl.Trainer) -> int:
    """Return how many epochs a training has, -1 if unknown: ``max_epochs``, or fewer where ``max_steps`` ends it.

    Before the training data are there, an epoch counts for one step. Under manual optimisation steps do not tell.
    """
    epochs = -1 if trainer.max_epochs is None else trainer.max_epochs
    if trainer.max_steps < 0 or not trainer.lightning_module.automatic_optimization:
        return epochs
    batches = trainer.num_training_batches
    steps = math.ceil(batches / trainer.accumulate_grad_batches) if 0 < batches < math.inf else 1
    by_steps = math.ceil(trainer.max_steps / steps)
    return by_steps if epochs < 0 else min(epochs, by_steps)


def begin_batches(trainer: pl.Trainer) -> None:
    """Let the epoch that starts begin with its first batch.

    A fit that was stopped between two epochs would take the new epoch for the one that has all its batches behind it.
    """
    trainer.fit_loop.epoch_loop.restarting = False


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


def steps_done(trainer: pl.Trainer) -> int:
    """Return how many batches were trained on, in all epochs."""
    progress: Any = trainer.fit_loop.epoch_loop.batch_progress.total
    return int(progress.processed)


def in_step(trainer: pl.Trainer) -> bool:
    """Tell whether a batch is being trained on, from its being there to the optimiser's step."""
    progress: Any = trainer.fit_loop.epoch_loop.batch_progress.current
    return bool(progress.processed < progress.ready)


@contextmanager
def not_training(trainer: pl.Trainer) -> Iterator[None]:
    """Let ``trainer.training`` be False, as in a validation: hooks of batches augment, or do not, by that."""
    stage = trainer.state.stage
    trainer.validating = True
    try:
        yield
    finally:
        trainer.state.stage = stage


def validate_anew(trainer: pl.Trainer) -> None:
    """Let a resumed fit begin with the validation that was interrupted.

    The Trainer would go on counting from where it was, or take it for done, depending on the hook that raised.
    """
    loop = trainer.fit_loop.epoch_loop.val_loop
    loop._restart_stage = RestartStage.RESTARTED_MID_EVALUATION
    loop.batch_progress.current.reset()


def at_epoch_end(trainer: pl.Trainer) -> bool:
    """Tell whether an epoch is being concluded, when checkpoints are saved but plateau schedulers not yet stepped."""
    progress: Any = trainer.fit_loop.epoch_progress.current
    return bool(progress.processed > progress.completed)


def before_validation(trainer: pl.Trainer) -> bool:
    """Tell whether a batch has just been trained on after which there is a validation."""
    epoch_loop = trainer.fit_loop.epoch_loop
    progress: Any = epoch_loop.batch_progress.current
    fetcher = trainer.fit_loop._data_fetcher
    return progress.processed > progress.completed and fetcher is not None and epoch_loop._should_check_val_fx(fetcher)


def is_accumulating(trainer: pl.Trainer) -> bool:
    """Tell whether gradients wait for those of further batches before the optimiser's next step."""
    return trainer.fit_loop.epoch_loop._should_accumulate()


def step_plateau_schedulers(trainer: pl.Trainer) -> None:
    """Take the step that the Trainer leaves out when it goes on from the end of the last epoch."""
    for config in trainer.lr_scheduler_configs:
        due = config.interval == "epoch" and trainer.current_epoch % config.frequency == 0
        if config.reduce_on_plateau and due and config.monitor in trainer.callback_metrics:
            config.scheduler.step(trainer.callback_metrics[config.monitor])  # type: ignore[arg-type]


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


def has_diverged(trainer: pl.Trainer, loss: Tensor) -> bool:
    """Tell whether a loss is NaN or infinite; where gradients are scaled, infinity is what the scaler waits for."""
    scales = getattr(trainer.precision_plugin, "scaler", None) is not None
    return not bool((~loss.isnan() if scales else loss.isfinite()).all())


def gradient_scale(trainer: pl.Trainer) -> float | None:
    """Return the factor by which a scaler of gradients has made them too large; None where there is no scaler."""
    scaler: Any = getattr(trainer.precision_plugin, "scaler", None)
    return None if scaler is None else float(scaler.get_scale())
