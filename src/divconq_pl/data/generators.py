"""Find the generators of random numbers that the parts of a transform have of their own."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch

_LEAVES = (type, ModuleType, str, bytes, int, float, complex, np.ndarray, torch.Tensor, type(None))
_MOST = 1000


def find_seeders(transform: Any) -> list[Callable[[int], Any]]:
    """Return the methods ``set_random_seed`` of all that a transform consists of, as albumentations pipelines have one.

    Looked at are the entries of lists and mappings, attributes of objects, arguments of ``functools.partial``, and the
    variables that a function or lambda, and other functions of its module that it names, takes from around it.

    Args:
        transform: anything that is called with an image.

    Example:
        >>> class Flip:
        ...     def set_random_seed(self, seed): ...
        >>> flip = Flip()
        >>> find_seeders(lambda image: flip(image)) == [flip.set_random_seed]
        True
    """
    found: list[Callable[[int], Any]] = []
    seen: dict[int, Any] = {}
    left = [transform]
    while left and len(seen) < _MOST:
        part = left.pop()
        if isinstance(part, _LEAVES) or id(part) in seen:
            continue
        seen[id(part)] = part
        if callable(own := getattr(part, "set_random_seed", None)):
            found.append(own)  # which seeds whatever is inside
        else:
            left += _list_parts(part)
    return found


def _list_parts(part: Any) -> Iterator[Any]:
    if isinstance(part, FunctionType):
        around = {name: part.__globals__[name] for name in _list_names(part.__code__) if name in part.__globals__}
        for value in around.values():
            if not isinstance(value, FunctionType) or value.__module__ == part.__module__:
                yield value
        for cell in part.__closure__ or ():
            try:
                yield cell.cell_contents
            except ValueError:  # not filled yet
                continue
        yield from part.__defaults__ or ()
    elif isinstance(part, MethodType):
        yield from (part.__self__, part.__func__)
    elif isinstance(part, functools.partial):
        yield from (part.func, *part.args, *part.keywords.values())
    elif isinstance(part, Mapping):
        yield from part.values()
    elif isinstance(part, list | tuple | set):
        yield from part
    else:
        yield from getattr(part, "__dict__", {}).values()
        yield from (getattr(type(part), name, None) for name in ("__call__", "forward"))


def _list_names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _list_names(inner)
