"""Hooks that belong to a running training, not to the module that they hang on."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, Protocol

import torch

_PASSING = nullcontext()


class Hook:
    """A hook that neither goes into a file with its module nor is copied with it.

    A module that is saved whole (``torch.save(module)``) has a hook that does nothing in its place, of the standard
    library: it is loaded where this package is not installed, too. A copy in memory has the same hook.

    Args:
        function: what the hook does.
        compiled: whether ``torch.compile`` may look into it.
    """

    def __init__(self, function: Callable[..., Any], *, compiled: bool = False) -> None:
        self._function = function if compiled else torch.compiler.disable(function)

    def __call__(self, *args: Any) -> Any:
        """Do it."""
        return self._function(*args)

    def __deepcopy__(self, memo: dict[int, Any]) -> Hook:
        """Return itself."""
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        """Be saved as something that takes anything and returns None."""
        return getattr, (_PASSING, "__exit__")


class Removable(Protocol):
    """What can be taken back."""

    def remove(self) -> object:
        """Take it back."""


class Undo:
    """Something to be taken back with hooks, which is none."""

    def __init__(self, undo: Callable[[], object]) -> None:
        self._undo = undo

    def remove(self) -> None:
        """Take it back."""
        self._undo()
