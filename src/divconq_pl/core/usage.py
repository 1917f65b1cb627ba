"""Which learners have given gradients since an optimiser's last step."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle


class Usage:
    """For each optimiser, the learners that were active since its last step.

    Each optimiser steps in its own time, and under gradient accumulation a step has seen several learners.

    Example:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
        >>> usage = Usage()
        >>> handles = usage.follow([optimizer])
        >>> usage.note(2)
        >>> usage.since_step(optimizer)
        {2}
        >>> optimizer.step()
        >>> usage.since_step(optimizer)
        set()
    """

    def __init__(self) -> None:
        self._used: dict[Optimizer, set[int]] = {}
        self._loaded: list[list[int]] = []

    def follow(self, optimizers: Iterable[Optimizer]) -> list[RemovableHandle]:
        """Begin with these optimisers; whoever asks in a hook of their steps must have registered it before.

        Returns:
            Handles whose ``remove()`` ends it.
        """
        self._used = {optimizer: set() for optimizer in optimizers}
        for used, learners in zip(self._used.values(), self._loaded, strict=False):
            used.update(learners)
        self._loaded = []
        return [optimizer.register_step_post_hook(self._forget) for optimizer in self._used]

    def note(self, learner: int) -> None:
        """Note that a learner gives gradients from now on."""
        for used in self._used.values():
            used.add(learner)

    def since_step(self, optimizer: Optimizer) -> set[int]:
        """Return the learners that were active since the optimiser's last step."""
        return set(self._used.get(optimizer, ()))

    def drop_gradients(self, optimizer: Optimizer, active: int | None) -> None:
        """Forget all learners but the active one: the gradients of the others are dropped without a step."""
        self._used.get(optimizer, set()).intersection_update({active})

    def state(self) -> list[list[int]]:
        """Return the learners for each optimiser, as plain values."""
        return [sorted(used) for used in self._used.values()] or self._loaded

    def load_state(self, state: Sequence[Sequence[int]]) -> None:
        """Restore what :meth:`state` returned, from the next :meth:`follow` on."""
        self._loaded = [list(used) for used in state]

    def _forget(self, optimizer: Optimizer, *_: object) -> None:
        self._used[optimizer].clear()
