"""What a checkpoint may name to be built: data sets and backbones of this package, never code of somebody else."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pkgutil import resolve_name
from typing import Any

from divconq_pl.errors import InputError

TRUSTED = ("divconq_pl.data.", "divconq_pl.backbones.")
"""The packages of the parts that a checkpoint may name; any other part has to be named by the user."""


def build_trusted(config: Any, name: str) -> Any:
    """Build what a checkpoint describes, if it is a part of this package.

    Args:
        config: the description, plain values with ``_target_`` and, as Hydra has them, ``_args_`` and ``_partial_``.
        name: what the user calls it, such as ``dataset``.

    Raises:
        InputError: if it names anything else; a file must not choose what code is run.
    """
    return _build(check_trusted(config, name))


def check_trusted(config: Any, name: str) -> Any:
    """Return a part of a checkpoint's configuration, if everything it names to be built is a part of this package.

    Args:
        config: the part of the configuration.
        name: what the user calls it.

    Raises:
        InputError: as :func:`build_trusted`.
    """
    for target in _list_targets(config):
        if not _is_trusted(target):
            raise InputError(
                f"the checkpoint names {target} for its {name}, which is not a part of divconq-pl; give it "
                f"yourself with {name}=..."
            )
    return config


def _build(config: Any) -> Any:
    if isinstance(config, list):
        return [_build(value) for value in config]
    if not isinstance(config, dict):
        return config
    built = {key: _build(value) for key, value in config.items()}
    if "_target_" not in built:
        return built
    arguments = {key: value for key, value in built.items() if key not in ("_target_", "_args_", "_partial_")}
    make = partial(resolve_name(built["_target_"]), *built.get("_args_", ()), **arguments)
    return make if built.get("_partial_") else make()


def _is_trusted(target: Any) -> bool:
    if not str(target).startswith(TRUSTED):
        return False
    try:
        part = resolve_name(target)
    except (ImportError, AttributeError, ValueError):  # a part of another version
        return False
    # A module of ours also has what it imports: divconq_pl.data.glyphs.os is not a part of this package.
    return f"{getattr(part, '__module__', '')}.".startswith(TRUSTED)


def _list_targets(config: Any) -> Iterator[Any]:
    if isinstance(config, dict):
        if "_target_" in config:
            yield config["_target_"]
        for value in config.values():
            yield from _list_targets(value)
    elif isinstance(config, list):
        for value in config:
            yield from _list_targets(value)
