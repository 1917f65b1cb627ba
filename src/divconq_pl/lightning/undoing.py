"""Try something out on a running training, and leave everything as it was."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer
from torch.utils.data import DataLoader, Dataset, Sampler

_FOREIGN = ("torch.", "pytorch_lightning.", "lightning.", "lightning_fabric.", "divconq_pl.lightning.")
_OPAQUE = (Dataset, DataLoader, Sampler, Optimizer, type, ModuleType, FunctionType, MethodType)
_PLAIN = (type(None), bool, int, float, complex, str, bytes)


@contextmanager
def undone(*objects: Any) -> Iterator[None]:
    """Put back afterwards whatever is done meanwhile to these objects and to what they hold.

    That is followed through modules (parameters, their gradients and buffers, and any other attribute), lists, deques,
    dictionaries, sets, tensors, arrays, generators of random numbers, and objects of the user's own classes; but not
    into data sets, loaders and optimisers.

    Args:
        objects: modules, or anything else.
    """
    kept = _Kept()
    for value in objects:
        kept.keep(value)
    try:
        yield
    finally:
        kept.restore()


class _Kept:
    """What objects were like, each object once."""

    def __init__(self) -> None:
        self._objects: dict[int, Any] = {}  # held, so that no id is used again
        self._restorers: list[Callable[[], object]] = []

    def restore(self) -> None:
        with torch.no_grad():
            for restorer in self._restorers:
                restorer()

    def keep(self, value: Any) -> None:
        if isinstance(value, _PLAIN) or id(value) in self._objects:
            return
        self._objects[id(value)] = value
        if isinstance(value, Tensor):
            self._keep_tensor(value)
        elif isinstance(value, np.ndarray):
            array = value.copy()
            self._restorers.append(lambda: np.copyto(value, array) if value.flags.writeable else None)
        elif isinstance(value, (dict, list, deque, set)):
            self._keep_container(value)
        elif isinstance(value, tuple):
            for item in value:
                self.keep(item)
        elif isinstance(value, (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)):
            self._keep_generator(value)
        elif isinstance(value, nn.Module) or (hasattr(value, "__dict__") and not _is_opaque(value)):
            self.keep(vars(value))

    def _keep_tensor(self, value: Tensor) -> None:
        if is_lazy(value) or value.is_sparse or (value.requires_grad and not value.is_leaf):
            return
        data, gradient = value.detach().clone(), value.grad
        copied = None if gradient is None else gradient.detach().clone()

        def restore() -> None:
            if value.shape == data.shape and value.dtype == data.dtype:
                value.data.copy_(data)
            else:
                value.data = data
            if value.is_leaf and value.requires_grad:
                value.grad = gradient
            if gradient is not None and copied is not None:
                gradient.data.copy_(copied)

        self._restorers.append(restore)

    def _keep_container(self, value: dict[Any, Any] | list[Any] | deque[Any] | set[Any]) -> None:
        before = value.copy()

        def restore() -> None:
            value.clear()
            (value.extend if isinstance(value, (list, deque)) else value.update)(before)

        self._restorers.append(restore)
        for item in list(value.values()) if isinstance(value, dict) else list(value):
            self.keep(item)

    def _keep_generator(self, value: Any) -> None:
        if isinstance(value, (torch.Generator, np.random.RandomState)):
            state: Any = value.get_state()
            self._restorers.append(lambda: value.set_state(state))
        elif isinstance(value, random.Random):
            drawn = value.getstate()
            self._restorers.append(lambda: value.setstate(drawn))
        else:
            bits = value.bit_generator.state
            self._restorers.append(lambda: setattr(value.bit_generator, "state", bits))


def _is_opaque(value: object) -> bool:
    """Tell whether an object is none of the user's own making, or too large to be followed."""
    foreign = any(f"{cls.__module__}.".startswith(_FOREIGN) for cls in type(value).__mro__)
    return foreign or isinstance(value, _OPAQUE)
