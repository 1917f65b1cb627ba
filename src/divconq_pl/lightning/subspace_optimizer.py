"""Optimise what subspaces have of their own, such as learned masks, beside the module's own optimisers."""

from __future__ import annotations

import copy
import inspect
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from torch import nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from divconq_pl.core.subspaces import Subspaces
from divconq_pl.errors import InputError
from divconq_pl.lightning._trainer import progress

_NO_SETTINGS = ("params", "initial_lr", "name", "param_names")


class SubspaceOptimizer:
    """Step the parameters of subspaces after each step of the optimiser that trains the embedding layer.

    It is an optimiser of the same class with the same settings, but for the learning rate and the weight decay, which
    are multiples of what the embedding layer has at that moment: so it follows any schedule, in any project, and the
    module's own optimisers, their groups and their state are what they would be without it. What no batch has used
    since the last step gets no gradient, so that momentum and weight decay leave it alone. Gradients are not clipped.

    Args:
        subspaces: has parameters, ``lr_factor``, ``weight_decay_factor``, ``penalty()`` and ``usage``.
        optimizers: those of the module.
        layer: the embedding layer.

    Raises:
        InputError: if the optimiser of the embedding layer evaluates the loss itself.
    """

    def __init__(self, subspaces: Subspaces, optimizers: Sequence[Optimizer], layer: nn.Module) -> None:
        self._subspaces = subspaces
        self._leader, self._number = _find_group(optimizers, layer)
        closure = inspect.signature(type(self._leader).step).parameters.get("closure")
        if closure is not None and closure.default is inspect.Parameter.empty:
            raise InputError(
                f"{type(self._leader).__name__} evaluates the loss several times in a step, which the parameters of "
                f"{type(subspaces).__name__} cannot follow; use another optimiser, or subspaces='fixed'"
            )
        self._own = _make_alike(self._leader, self._group, list(subspaces.parameters()))
        self.reset()
        self.divided = False

    def follow(self, trainer: pl.Trainer) -> RemovableHandle:
        """Step from now on whenever the leading optimiser has done so; the handle's ``remove()`` ends it."""
        return self._leader.register_step_post_hook(lambda *_: self._step(trainer))

    def drop_gradients(self, optimizer: Optimizer) -> None:
        """Drop what was accumulated, if the leading optimiser's gradients are dropped."""
        if optimizer is self._leader:
            self._own.zero_grad()

    def reset(self) -> None:
        """Forget momentum and moments: after a split the parameters are those of other learners."""
        self._own.state.clear()
        if isinstance(self._own, torch.optim.Adagrad):  # whose step does not make its own state in older torch
            value = self._own.param_groups[0]["initial_accumulator_value"]
            for parameter in self._subspaces.parameters():
                self._own.state[parameter] = {"step": torch.tensor(0.0), "sum": torch.full_like(parameter, value)}

    def state(self) -> dict[str, Any]:
        """Return momentum and moments, as an optimiser keeps them."""
        return self._own.state_dict()

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state` returned."""
        self._own.load_state_dict(state)

    @property
    def _group(self) -> dict[str, Any]:
        """The embedding layer's group: another object after the optimiser's state was restored."""
        return self._leader.param_groups[self._number]

    def _step(self, trainer: pl.Trainer) -> None:
        is_finite = self._collect_gradients(trainer)
        self._add_penalty()
        own = self._own.param_groups[0]
        own.update(_settings(self._group))
        for name, factor in (("lr", self._subspaces.lr_factor), ("weight_decay", self._subspaces.weight_decay_factor)):
            if name in own:
                own[name] = own[name] * factor
        if is_finite:
            self._own.step()
        self._own.zero_grad()

    def _collect_gradients(self, trainer: pl.Trainer) -> bool:
        """Make the gradients what an optimiser should see: unscaled, the same on all processes, none where unused.

        Returns:
            Whether they are finite, which a scaler of gradients makes them sooner or later.
        """
        used = {id(p) for p in self._subspaces.own_parameters(self._subspaces.usage.since_step(self._leader))}
        for parameter in self._subspaces.parameters():
            if id(parameter) not in used:
                parameter.grad = None
        parameters = [p for p in self._subspaces.parameters() if p.grad is not None]
        scale = progress.gradient_scale(trainer)
        if not parameters or (scale is None and trainer.world_size == 1):
            return True
        together = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None]) / (scale or 1.0)
        if trainer.world_size > 1:
            together = trainer.strategy.reduce(together, reduce_op="mean")
        for parameter, gradient in zip(parameters, together.split([p.numel() for p in parameters]), strict=True):
            parameter.grad = gradient.view_as(parameter)
        return scale is None or bool(together.isfinite().all())

    @torch.enable_grad()
    def _add_penalty(self) -> None:
        term = self._subspaces.penalty() if self.divided else None
        if term is None:
            return
        parameters = list(self._subspaces.parameters())
        for parameter, gradient in zip(
            parameters, torch.autograd.grad(term, parameters, allow_unused=True), strict=True
        ):
            if gradient is not None:
                parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient


def _find_group(optimizers: Sequence[Optimizer], layer: nn.Module) -> tuple[Optimizer, int]:
    """Return the optimiser that trains a layer, and which of its groups does; the very first ones if none does."""
    own = {id(parameter) for parameter in layer.parameters()}
    for optimizer in optimizers:
        for number, group in enumerate(optimizer.param_groups):
            if any(id(parameter) in own for parameter in group["params"]):
                return optimizer, number
    return optimizers[0], 0


def _make_alike(optimizer: Optimizer, group: dict[str, Any], parameters: list[nn.Parameter]) -> Optimizer:
    """Return an optimiser of the same class and settings for other parameters."""
    twin = copy.copy(optimizer)
    twin.state, twin.param_groups = defaultdict(dict), []
    twin.add_param_group({"params": parameters, **_settings(group)})
    return twin


def _settings(group: dict[str, Any]) -> dict[str, Any]:
    """Return what an optimiser does with a group."""
    return {name: value for name, value in group.items() if name not in _NO_SETTINGS}
