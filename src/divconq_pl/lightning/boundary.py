"""The moment between two batches that a training is taken back to where the next one fails."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
from torch import Tensor, nn

from divconq_pl.lightning._trainer import progress, randomness

HIDDEN_STATE = {"CrossBatchMemory": ("queue_idx", "has_been_filled"), "DynamicSoftMarginLoss": ("hist_",)}
"""What losses of pytorch-metric-learning remember outside of their state dict, by class name."""


class Boundary:
    """The last boundary between two batches, with what a step changes besides weights and what the Trainer counts.

    Attributes:
        ends_validation: whether it is the end of a validation.
    """

    def __init__(self) -> None:
        self.ends_validation = False
        self._steps = -1  # batches trained on by then
        self._random: dict[str, Any] = {}
        self._buffers: dict[str, Tensor] = {}
        self._hidden: dict[str, Any] = {}

    def note(
        self, trainer: pl.Trainer, module: nn.Module, buffers: Mapping[str, Tensor], *, ends_validation: bool = False
    ) -> None:
        """Note that it is now.

        Args:
            trainer: the running fit.
            module: what it trains.
            buffers: what a step changes in place, by name.
            ends_validation: whether a validation ends here.
        """
        self.ends_validation = ends_validation
        self._random, self._steps = randomness.random_state(trainer), progress.steps_done(trainer)
        for name, buffer in buffers.items():
            if name in self._buffers and self._buffers[name].shape == buffer.shape:
                self._buffers[name].copy_(buffer)
            else:
                self._buffers[name] = buffer.detach().clone()
        self._hidden = get_hidden_state(module)

    def return_to(self, trainer: pl.Trainer, module: nn.Module, buffers: Mapping[str, Tensor]) -> None:
        """Put back what the next step has changed, unless that step is done already."""
        if progress.steps_done(trainer) != self._steps:
            return
        randomness.set_random_state(trainer, self._random)
        if progress.in_step(trainer):
            for name, buffer in buffers.items():
                kept = self._buffers.get(name)
                if kept is not None and kept.shape == buffer.shape:  # or the step has made it
                    buffer.data.copy_(kept)
            set_hidden_state(module, self._hidden)


def get_hidden_state(module: nn.Module) -> dict[str, Any]:
    """Return what the losses in a module remember outside of their state dict, by dotted name."""
    return {
        f"{name}.{attribute}": getattr(part, attribute)
        for name, part in module.named_modules()
        for attribute in HIDDEN_STATE.get(type(part).__name__, ())
    }


def set_hidden_state(module: nn.Module, state: Mapping[str, Any]) -> None:
    """Set what :func:`get_hidden_state` returned."""
    for name, value in state.items():
        part, _, attribute = name.rpartition(".")
        setattr(module.get_submodule(part), attribute, value)
