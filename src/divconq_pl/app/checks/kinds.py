"""The kinds of value that a parameter takes, read from its type hint or default.

A kind is a type; ``object`` for what has to be built; ``Any``; or a pair: of ``Sequence`` or ``Mapping`` and the hint
of its entries, or of ``Literal`` and its values.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from omegaconf import DictConfig, ListConfig

Kinds = list[Any]

_WORDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    Sequence: "a list",
    Mapping: "a mapping",
    object: "a mapping with _target_",
    NoneType: "null",
}
_SAME = {Path: str, list: Sequence, tuple: Sequence, Iterable: Sequence, dict: Mapping}


def list_kinds(hint: Any) -> Kinds:
    """List the kinds of value that a type hint allows.

    Args:
        hint: a type hint, such as ``int | None``.

    Example:
        >>> list_kinds(Literal["fixed", "learned"] | None)
        [(typing.Literal, ('fixed', 'learned')), <class 'NoneType'>]
    """
    origin, of = get_origin(hint), get_args(hint)
    if hint is Any or hint is inspect.Parameter.empty:
        return [Any]
    if origin in (Union, UnionType):
        return [kind for part in of for kind in list_kinds(part)]
    if origin is Literal:
        return [(Literal, of)]
    kind = _SAME.get(origin or hint, origin or hint)
    if kind is Sequence:
        return [(Sequence, of[0] if of else Any)]
    if kind is Mapping and of:
        return [(Mapping, of[-1])]
    return [kind if kind in _WORDS else object]


def list_parameters(target: Callable[..., Any] | None) -> dict[str, Kinds]:
    """List the kinds of value that each parameter of a function or class takes, as far as they are known.

    What a class takes by ``**arguments`` is looked up in its bases.

    Args:
        target: a function or class; None for an unknown one.
    """
    if not isinstance(target, type):
        return {} if target is None else _list_own_parameters(target)
    found: dict[str, Kinds] = {}
    for owner in target.__mro__:
        if "__init__" in vars(owner):
            initialiser = vars(owner)["__init__"]
            found = _list_own_parameters(initialiser) | found
            if not takes_any_name(initialiser):
                break
    return found


def takes_any_name(function: Callable[..., Any]) -> bool:
    """Tell whether a function takes arguments of any name, by ``**arguments``."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # made in C
        return False
    return any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters)


def is_of_kind(value: Any, kind: Any) -> bool:
    """Tell whether a value of a configuration is of a kind."""
    if kind is Any:
        return True
    if isinstance(kind, tuple):
        shape, of = kind
        if shape is Literal:
            return any(type(value) is type(choice) and value == choice for choice in of)
        if shape is Mapping:  # its entries are checked one by one
            return isinstance(value, DictConfig)
        return isinstance(value, ListConfig) and all(
            any(is_of_kind(entry, kind) for kind in list_kinds(of)) for entry in value
        )
    if kind is object:  # something that has to be built
        return isinstance(value, DictConfig) and "_target_" in value
    if kind is Mapping:
        return isinstance(value, DictConfig)
    if kind is bool:
        return isinstance(value, bool) or value in (0, 1)
    if kind in (int, float):
        is_whole = isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63
        return is_whole or (kind is float and isinstance(value, float))
    return isinstance(value, kind)


def describe_kinds(kinds: Kinds) -> str:
    """Say in words what a value may be; something to be built is mentioned only beside choices, or alone.

    Example:
        >>> describe_kinds([(Literal, ("val", "test")), NoneType])
        "'val', 'test' or null"
    """
    has_choices = any(isinstance(kind, tuple) and kind[0] is Literal for kind in kinds)
    simple = [kind for kind in kinds if kind is not object]
    shown = kinds if has_choices or not set(simple) - {NoneType} else simple
    *words, last = dict.fromkeys(word for kind in shown for word in _name_kind(kind))
    return f"{', '.join(words)} or {last}" if words else last


def _name_kind(kind: Any) -> list[str]:
    if isinstance(kind, tuple):
        return [repr(choice) for choice in kind[1]] if kind[0] is Literal else [_WORDS[kind[0]]]
    return [_WORDS[kind]]


def _list_own_parameters(function: Callable[..., Any]) -> dict[str, Kinds]:
    try:
        parameters, hints = inspect.signature(function).parameters, get_type_hints(function)
    except (TypeError, ValueError, NameError):  # made in C, or with hints for type checkers only
        return {}
    found = {}
    for name, parameter in parameters.items():
        if parameter.kind in (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL):
            continue  # its hint is that of its entries
        if name in hints:
            found[name] = list_kinds(hints[name])
        elif isinstance(parameter.default, int | float) and not isinstance(parameter.default, bool):
            found[name] = [float, NoneType]
    return found
