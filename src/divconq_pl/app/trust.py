"""What a checkpoint may name to be built: data sets and backbones of this package, never code of somebody else."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from hydra.utils import get_object, instantiate

from divconq_pl.errors import InputError

TRUSTED = ("divconq_pl.data.", "divconq_pl.backbones.")
"""The packages of the parts that a checkpoint may name; any other part has to be named by the user."""


def build_trusted(config: dict[str, Any], name: str) -> Any:
    """Build what a checkpoint describes, if it is a part of this package.

    Args:
        config: the description, with ``_target_``.
        name: what the user calls it, such as ``dataset``.

    Raises:
        InputError: if it names anything else; a file must not choose what code is run.
    """
    return instantiate(check_trusted(config, name))


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


def _is_trusted(target: str) -> bool:
    if not target.startswith(TRUSTED):
        return False
    try:
        part = get_object(target)
    except ImportError:  # a part of another version
        return False
    # A module of ours also has what it imports: divconq_pl.data.glyphs.os is not a part of this package.
    return f"{getattr(part, '__module__', '')}.".startswith(TRUSTED)


def _list_targets(config: Any) -> Iterator[str]:
    if isinstance(config, dict):
        if "_target_" in config:
            yield config["_target_"]
        for value in config.values():
            yield from _list_targets(value)
    elif isinstance(config, list):
        for value in config:
            yield from _list_targets(value)
