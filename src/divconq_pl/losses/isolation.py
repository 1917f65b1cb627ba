"""Keep the coordinates of the other learners exactly where they are, momentum and weight decay notwithstanding."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from divconq_pl.core.subspaces import Subspaces
from divconq_pl.errors import InputError

Slices = Mapping[nn.Parameter, int]
"""Parameters that hold the embedding's coordinates, and which of their dimensions does."""


def find_embedding_slices(layer: nn.Module, losses: Iterable[tuple[nn.Parameter, int]]) -> dict[nn.Parameter, int]:
    """Collect the parameters whose coordinates belong to learners: of the embedding layer, and of losses.

    Args:
        layer: the embedding layer, a linear one.
        losses: parameters of losses with the embedding's dimension.

    Raises:
        InputError: if the embedding layer is not linear.
    """
    if not isinstance(layer, nn.Linear):
        raise InputError(
            f"isolate=True needs a linear embedding layer, whose rows are the embedding's coordinates, not a "
            f"{type(layer).__name__}; use isolate=False"
        )
    return {**dict.fromkeys(layer.parameters(), 0), **dict(losses)}


def isolate(optimizers: Iterable[Optimizer], slices: Slices, subspaces: Subspaces) -> list[RemovableHandle]:
    """Undo what an optimiser's step does to coordinates that no batch has used since its last step.

    Zero gradients do not keep a coordinate in place: momentum, Adam's moments and weight decay move it on. Parameters
    and the optimiser's state of the same shape are put back outside of the active subspaces. That costs a copy of these
    parameters and their state per step.

    Args:
        optimizers: any torch optimisers.
        slices: the parameters that are cut into subspaces.
        subspaces: tells which learners were active, and what lies outside of theirs.

    Returns:
        Handles whose ``remove()`` undoes it.

    Raises:
        InputError: if all learners share all coordinates.
    """
    if subspaces.outside([0]) is None:
        raise InputError(
            f"isolate=True needs subspaces that share no coordinates, as fixed ones; {type(subspaces).__name__} share "
            "all of them; use isolate=False"
        )
    return [handle for optimizer in optimizers for handle in _isolate(optimizer, _of(optimizer, slices), subspaces)]


def _isolate(optimizer: Optimizer, slices: Slices, subspaces: Subspaces) -> tuple[RemovableHandle, RemovableHandle]:
    saved: list[tuple[Tensor, int, Tensor]] = []
    idle: list[Tensor] = []

    def before(*_: Any) -> None:
        saved.clear()
        used = subspaces.usage.since_step(optimizer)
        outside = subspaces.outside(used) if used else None
        if outside is not None:
            idle[:] = [outside]
            saved.extend(
                (values, dim, values.detach().clone())
                for parameter, dim in slices.items()
                for values in (parameter, *_state_like(optimizer, parameter))
            )

    @torch.no_grad()
    def after(*_: Any) -> None:
        for values, dim, old in saved:
            kept = idle[0].to(values.device)
            values.index_copy_(dim, kept, old.index_select(dim, kept))
        saved.clear()

    return optimizer.register_step_pre_hook(before), optimizer.register_step_post_hook(after)


def _of(optimizer: Optimizer, slices: Slices) -> dict[nn.Parameter, int]:
    """Return what an optimiser optimises."""
    return {p: slices[p] for group in optimizer.param_groups for p in group["params"] if p in slices}


def _state_like(optimizer: Optimizer, parameter: nn.Parameter) -> list[Tensor]:
    """Return the parts of the optimiser's state that go with each entry of a parameter."""
    state = optimizer.state.get(parameter, {})
    return [values for values in state.values() if isinstance(values, Tensor) and values.shape == parameter.shape]
