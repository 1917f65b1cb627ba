"""Check that the values of a configuration are of the kinds that they are used as."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hydra.utils import get_object
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import InterpolationToMissingValueError, MissingMandatoryValue

from divconq_pl.app.checks.kinds import (
    Kinds,
    describe_kinds,
    is_of_kind,
    list_kinds,
    list_parameters,
    takes_any_name,
)
from divconq_pl.errors import InputError


def check_values(config: DictConfig, **hints: Any) -> None:
    """Refuse values of the wrong kind, such as a text where a number is expected, before anything is built from them.

    The type hints of a node's ``_target_`` say what its values may be; a parameter without a hint, as those of
    pytorch-metric-learning, is expected to be a number if its default is one.

    Args:
        config: a configuration, or a part of one; values that are not given yet are passed over.
        hints: type hints of keys of its first level, such as ``seed=int``.

    Raises:
        InputError: it names the key, as it is set on the command line, the value, and what is allowed.

    Example:
        >>> check_values(OmegaConf.create({"seed": "x"}), seed=int)
        Traceback (most recent call last):
        divconq_pl.errors.InputError: seed='x' must be a whole number
    """
    _check_node(config, config, "", {name: list_kinds(hint) for name, hint in hints.items()})


def check_arguments(function: Callable[..., Any], config: DictConfig, key: str, **hints: Any) -> None:
    """Refuse what a function does not take as keyword arguments: unknown names and, as :func:`check_values`, kinds.

    Args:
        function: the function.
        config: a configuration.
        key: where in it the function's arguments are.
        hints: type hints that replace the function's own.

    Raises:
        InputError: it names the argument.
    """
    parameters = inspect.signature(function).parameters.values()
    names = {*hints, *(parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY)}
    unknown = [name for name in map(str, config[key]) if name not in names]
    if unknown and not takes_any_name(function):
        raise InputError(f"there is no '{key}.{unknown[0]}'; {key} has: {', '.join(sorted(names))}")
    known = list_parameters(function) | {name: list_kinds(hint) for name, hint in hints.items()}
    _check_node(config, config[key], f"{key}.", known)


def _check_node(root: DictConfig, node: DictConfig, prefix: str, kinds: Mapping[str, Kinds]) -> None:
    for key in map(str, node):
        try:
            value = node[key]
        except (MissingMandatoryValue, InterpolationToMissingValueError):  # given later, or asked for when it is needed
            continue
        name = f"{prefix}{key}"
        if key in kinds and not any(is_of_kind(value, kind) for kind in kinds[key]):
            raise InputError(_phrase_refusal(_find_origin(root, name), value, kinds[key]))
        if key == "seed" and isinstance(value, int) and not 0 <= value < 2**32:  # what NumPy takes
            raise InputError(f"{_find_origin(root, name)}={value} must be a whole number from 0 to {2**32 - 1}")
        if isinstance(value, DictConfig) and not OmegaConf.is_interpolation(node, key):
            entries = [kind[1] for kind in kinds.get(key, []) if isinstance(kind, tuple) and kind[0] is Mapping]
            if entries:
                known = dict.fromkeys(map(str, value), list_kinds(entries[0]))
            else:
                known = list_parameters(_find_target(value))
            _check_node(root, value, f"{name}.", known)


def _find_target(node: DictConfig) -> Callable[..., Any] | None:
    """Return what a node holds the arguments of; None if it names nothing, or nothing that can be found."""
    name = node.get("_target_")
    try:
        target: Callable[..., Any] | None = get_object(name) if isinstance(name, str) else None
    except (ImportError, ValueError):  # building it will say so
        return None
    return target


def _phrase_refusal(name: str, value: Any, kinds: Kinds) -> str:
    if isinstance(value, int) and abs(value) >= 2**63:
        return f"{name}={value} has more than 64 bits"
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if isinstance(value, ListConfig) and (Sequence, str) in kinds:
        texts = ",".join(f"'{entry}'" for entry in value)
        return f'{name}={value} must be a list of texts; write "{name}=[{texts}]"'
    quoted = f"; write {name}=\\'{value}\\' to give it as a text" if str in kinds and is_number else ""
    return f"{name}={value!r} must be {describe_kinds(kinds)}{quoted}"


def _find_origin(root: DictConfig, name: str) -> str:
    """Return the key that holds a value: where an interpolation leads to, or else the key itself."""
    parent, _, key = name.rpartition(".")
    node = OmegaConf.select(root, parent) if parent else root
    plain: Any = OmegaConf.to_container(node, resolve=False)
    reference = re.fullmatch(r"\$\{([\w.]+)\}", str(plain[key]))
    return _find_origin(root, reference[1]) if reference else name
