"""Where a run stands between two batches, so that a stopped one goes on as if it had never stopped."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor, nn

from divconq_pl.lightning import _trainer

HIDDEN_STATE = {"CrossBatchMemory": ("queue_idx", "has_been_filled"), "DynamicSoftMarginLoss": ("hist_",)}
"""What losses of pytorch-metric-learning remember outside of their state dict, by class name."""


class ResumePoint:
    """What a checkpoint of Lightning lacks to be gone on from exactly, at the boundary between two batches.

    Lightning saves weights, optimisers, schedulers and counters. It does not save random numbers, the order in which
    the epoch's remaining batches would have come, nor what some losses remember. And a batch that an exception
    interrupts has often moved random numbers and running statistics already, though it will be run again.
    """

    def __init__(self) -> None:
        self._epoch: dict[str, Any] | None = None  # random numbers before the batches of the epoch were asked for
        self._random: dict[str, Any] | None = None  # and those at the last boundary
        self._steps = 0  # batches trained on by then
        self._buffers: dict[str, Tensor] = {}
        self._hidden: dict[str, Any] = {}
        self._restored: dict[str, Any] | None = None
        self._loaded: dict[str, Any] = {}
        self._failed = self._validated = False

    @property
    def is_restored(self) -> bool:
        """Whether a checkpoint was loaded whose run has not gone on yet."""
        return self._restored is not None

    def begin_fit(self, trainer: pl.Trainer) -> None:
        """Note the random numbers from which the first epoch's batches will be drawn, or restore them."""
        if self._restored is not None and self._restored["begun"] == 0:
            _trainer.set_random_state(trainer, self._restored["epoch"])
            self._epoch = self._restored["epoch"]
        else:
            self._epoch = _trainer.random_state(trainer)
        self._failed = False

    def begin_epoch(self, trainer: pl.Trainer, module: nn.Module) -> None:
        """Note the random numbers from which an epoch's batches will be drawn; after a resume, restore them first."""
        if self._restored is not None:
            concluding = self._restored["concluding"]
            self._go_on(trainer, module)
            if concluding:
                _trainer.step_plateau_schedulers(trainer)
        if trainer.current_epoch > 0:
            self._epoch = _trainer.random_state(trainer)
        self.remember(trainer, module)

    def begin_again(self, trainer: pl.Trainer) -> None:
        """Restore the random numbers from which the batches of an epoch were drawn that is entered in its middle."""
        if self._restored is not None:
            self._epoch = self._restored["epoch"]
            if trainer.current_epoch > 0:  # the first epoch's batches were asked for after `begin_fit`
                _trainer.set_random_state(trainer, self._epoch)

    def go_on(self, trainer: pl.Trainer, module: nn.Module, done: int) -> None:
        """Restore what was where the run was stopped, after ``done`` batches of the epoch."""
        if self._restored is not None:
            if self._restored["validating"]:
                _trainer.validate_anew(trainer)
            self._go_on(trainer, module, with_random=done > 0)
        self.remember(trainer, module)

    def remember(self, trainer: pl.Trainer, module: nn.Module, *, validated: bool = False) -> None:
        """Note a boundary between two batches, after the validation if there was one."""
        self._validated = validated
        self._random, self._steps = _trainer.random_state(trainer), _trainer.steps_done(trainer)
        for name, buffer in module.named_buffers():
            if name in self._buffers and self._buffers[name].shape == buffer.shape:
                self._buffers[name].copy_(buffer)
            else:
                self._buffers[name] = buffer.detach().clone()
        self._hidden = hidden_state(module)

    def rewind(self, trainer: pl.Trainer, module: nn.Module) -> None:
        """Return to the last boundary when an exception ends the fit, so that a checkpoint written now is exact."""
        self._failed = True
        if self._random is None or _trainer.steps_done(trainer) != self._steps:
            return
        _trainer.set_random_state(trainer, self._random)
        if _trainer.in_step(trainer):
            for name, buffer in module.named_buffers():
                kept = self._buffers.get(name)
                if kept is not None and kept.shape == buffer.shape:  # or the step has made it
                    buffer.data.copy_(kept)
            set_hidden_state(module, self._hidden)

    def state(self, trainer: pl.Trainer, module: nn.Module, begun: int) -> dict[str, Any]:
        """Return what a checkpoint has to keep; to be called by all processes.

        Args:
            trainer: the running fit.
            module: what it trains.
            begun: the last epoch that was begun.
        """
        if self._restored is not None:  # stopped again before it could go on
            return self._loaded
        interrupted = self._failed and _trainer.in_validation(trainer) and not self._validated
        own = {"epoch": self._epoch, "now": _trainer.random_state(trainer)}
        # Where one process failed the others may never come to this.
        gather = trainer.world_size > 1 and not self._failed
        return {
            "begun": begun,
            "validating": interrupted or _trainer.before_validation(trainer),
            "concluding": _trainer.at_epoch_end(trainer),
            "metrics": _trainer.logged_metrics(trainer),
            "hidden": hidden_state(module),
            "gradients": self._waiting_gradients(trainer, module),
            "processes": _trainer.gather_objects(own) if gather else [own],
        }

    def load(self, state: dict[str, Any], rank: int, world_size: int) -> None:
        """Take what :meth:`state` returned."""
        processes = state["processes"]
        if len(processes) != world_size:
            rank_zero_warn(
                f"the checkpoint holds the random numbers of {len(processes)} process(es) and there are {world_size} "
                "now; the training goes on with other random numbers"
            )
            return
        self._loaded, self._restored = state, {**state, **processes[rank]}

    def forget(self) -> None:
        """Drop a checkpoint that was loaded for something else than going on."""
        self._restored = None

    def _go_on(self, trainer: pl.Trainer, module: nn.Module, with_random: bool = True) -> None:
        assert self._restored is not None
        if with_random:
            _trainer.set_random_state(trainer, self._restored["now"])
        _trainer.set_logged_metrics(trainer, self._restored["metrics"])
        set_hidden_state(module, self._restored["hidden"])
        for name, gradient in self._restored["gradients"].items():
            parameter = module.get_parameter(name)
            parameter.grad = gradient.to(parameter.device)
        self._restored = None

    def _waiting_gradients(self, trainer: pl.Trainer, module: nn.Module) -> dict[str, Tensor]:
        """Return what has been accumulated since the last optimiser step; each process would have its own."""
        if trainer.world_size > 1 or self._failed or not _trainer.is_accumulating(trainer):
            return {}
        return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


def hidden_state(module: nn.Module) -> dict[str, Any]:
    """Return what the losses in a module remember outside of their state dict, by dotted name."""
    return {
        f"{name}.{attribute}": getattr(part, attribute)
        for name, part in module.named_modules()
        for attribute in HIDDEN_STATE.get(type(part).__name__, ())
    }


def set_hidden_state(module: nn.Module, state: dict[str, Any]) -> None:
    """Set what :func:`hidden_state` returned."""
    for name, value in state.items():
        part, _, attribute = name.rpartition(".")
        setattr(module.get_submodule(part), attribute, value)
