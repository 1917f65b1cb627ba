"""Whether the values of a configuration are of the kinds that what they are for takes."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from hydra.utils import get_object
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import InterpolationToMissingValueError, MissingMandatoryValue

from divconq_pl.errors import InputError

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
_KINDS = {Path: str, list: Sequence, tuple: Sequence, Iterable: Sequence, dict: Mapping}


def check_values(config: DictConfig, **kinds: Any) -> None:
    """Refuse values of the wrong kind, such as a text where a number is expected, before anything is built of them.

    What a value is for is known from the type hints of its ``_target_``; a parameter without any, as those of
    pytorch-metric-learning, is expected to be a number if its default is one.

    Args:
        config: a configuration, or a part of one; what is not given yet is left out.
        kinds: type hints of keys of its first level, such as ``seed=int``.

    Raises:
        InputError: it names the key, as it is set on the command line, the value, and what would be one.

    Example:
        >>> check_values(OmegaConf.create({"seed": "x"}), seed=int)
        Traceback (most recent call last):
        divconq_pl.errors.InputError: seed='x' must be a whole number
    """
    _check_node(config, config, "", {name: _kinds(hint) for name, hint in kinds.items()})


def check_arguments(function: Callable[..., Any], config: DictConfig, key: str, **kinds: Any) -> None:
    """Refuse arguments of the wrong kind for a function, as :func:`check_values` does.

    Args:
        function: what they are for.
        config: a configuration.
        key: where in it they are.
        kinds: type hints of what stands beside them.
    """
    known = _parameters(function) | {name: _kinds(hint) for name, hint in kinds.items()}
    _check_node(config, config[key], f"{key}.", known)


def _check_node(root: DictConfig, node: DictConfig, prefix: str, kinds: Mapping[str, list[Any]]) -> None:
    for key in map(str, node):
        try:
            value = node[key]
        except (MissingMandatoryValue, InterpolationToMissingValueError):  # given later, or asked for when it is needed
            continue
        name = f"{prefix}{key}"
        if key in kinds and not any(_is_a(value, kind) for kind in kinds[key]):
            raise InputError(_refusal(_origin(root, name), value, kinds[key]))
        if key == "seed" and isinstance(value, int) and not 0 <= value < 2**32:  # what NumPy takes
            raise InputError(f"{_origin(root, name)}={value} is no seed; use a whole number from 0 to {2**32 - 1}")
        if isinstance(value, DictConfig) and not OmegaConf.is_interpolation(node, key):
            entries = [kind[1] for kind in kinds.get(key, []) if isinstance(kind, tuple) and kind[0] is Mapping]
            known = dict.fromkeys(map(str, value), _kinds(entries[0])) if entries else _parameters(_target(value))
            _check_node(root, value, f"{name}.", known)


def _target(node: DictConfig) -> Callable[..., Any] | None:
    """Return what a node is an argument list of; None if that is nothing, or not to be found."""
    name = node.get("_target_")
    try:
        target: Callable[..., Any] | None = get_object(name) if isinstance(name, str) else None
    except (ImportError, ValueError):  # building it will say so
        return None
    return target


def _parameters(target: Callable[..., Any] | None) -> dict[str, list[Any]]:
    """Return the kinds of value that each parameter takes, as far as they are known."""
    if target is None:
        return {}
    function = target.__init__ if isinstance(target, type) else target  # type: ignore[misc]
    try:
        parameters, hints = inspect.signature(function).parameters, get_type_hints(function)
    except (TypeError, ValueError, NameError):  # made in C, or with hints for type checkers only
        return {}
    found = {}
    for name, parameter in parameters.items():
        if name in hints:
            found[name] = _kinds(hints[name])
        elif isinstance(parameter.default, int | float) and not isinstance(parameter.default, bool):
            found[name] = [float, NoneType]
    return found


def _kinds(hint: Any) -> list[Any]:
    """Take a type hint apart into what it allows: types, object, ``(Sequence or Mapping, hint of its entries)``."""
    origin, of = get_origin(hint), get_args(hint)
    if hint is Any or hint is inspect.Parameter.empty:
        return [Any]
    if origin in (Union, UnionType):
        return [kind for part in of for kind in _kinds(part)]
    if origin is Literal:
        return list({type(value): None for value in of})
    kind = _KINDS.get(origin or hint, origin or hint)
    if kind is Sequence:
        return [(Sequence, of[0] if of else Any)]
    if kind is Mapping and of:
        return [(Mapping, of[-1])]
    return [kind if kind in _WORDS else object]


def _is_a(value: Any, kind: Any) -> bool:
    if kind is Any:
        return True
    if isinstance(kind, tuple) and kind[0] is Mapping:  # its entries are looked at one by one
        return isinstance(value, DictConfig)
    if isinstance(kind, tuple):
        entries = _kinds(kind[1])
        return isinstance(value, ListConfig) and all(any(_is_a(entry, k) for k in entries) for entry in value)
    if kind is object:  # something that has to be built
        return isinstance(value, DictConfig) and "_target_" in value
    if kind is Mapping:
        return isinstance(value, DictConfig)
    if kind is bool:
        return isinstance(value, bool) or value in (0, 1)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, kind)


def _refusal(name: str, value: Any, kinds: Sequence[Any]) -> str:
    if isinstance(value, int) and abs(value) >= 2**63:
        return f"{name}={value} has more than 64 bits"
    plain = [kind for kind in kinds if kind is not object]
    words = dict.fromkeys(
        _WORDS[kind[0] if isinstance(kind, tuple) else kind] for kind in (plain if set(plain) - {NoneType} else kinds)
    )
    quoted = f"; write {name}=\\'{value}\\' to have it as a text" if str in kinds and _is_a(value, float) else ""
    return f"{name}={value!r} must be {' or '.join(words)}{quoted}"


def _origin(root: DictConfig, name: str) -> str:
    """Return the key that a value really has, which is somewhere else if it is an interpolation."""
    parent, _, key = name.rpartition(".")
    node = OmegaConf.select(root, parent) if parent else root
    plain: Any = OmegaConf.to_container(node, resolve=False)
    reference = re.fullmatch(r"\$\{([\w.]+)\}", str(plain[key]))
    return _origin(root, reference[1]) if reference else name
