"""Explain in one line what is wrong with the input of a program, and what exists instead."""

from __future__ import annotations

import argparse
import difflib
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue

from divconq_pl.data.decoding import UnreadableImageError
from divconq_pl.errors import InputError


def explain(error: BaseException, arguments: list[str], config_dir: Path, config_name: str) -> str:
    """Say in one line what is wrong with the input, and what exists instead.

    Args:
        error: what Hydra, Lightning or this package raised.
        arguments: the command line's arguments.
        config_dir: the folder of the configuration.
        config_name: the primary configuration in it.
    """
    chain = list_causes(error)
    if any(map(is_out_of_shared_memory, chain)):
        return (
            "the shared memory /dev/shm is full, through which processes hand over the images that they load; use a "
            "smaller data.num_workers=, or 0, or give it more room (docker run --shm-size=8g)"
        )
    for link in chain:
        if isinstance(link, UnreadableImageError):
            return f"{_join_lines(link)}; dataset.on_bad_image=skip leaves out what cannot be read"
        if isinstance(link, OverrideParseException) and (said := _suggest_quotes(link.override)):
            return said
        if isinstance(link, (InputError, *list_lightning_errors())):
            return _join_lines(link)
        if isinstance(link, MissingConfigException) and link.options:
            group, _, wrong = str(link.missing_cfg_file).rpartition("/")
            near = [f"{group}={name}" for name in difflib.get_close_matches(wrong, link.options, 1)]
            return f"there is no {group}={wrong}; {_list_existing(near, link.options, group)}"
        if isinstance(link, MissingMandatoryValue):
            missed = _shorten_key(str(link.full_key), config_dir)
            return f"{missed} is not given; add {missed}=... to the command"
    if isinstance(error, OSError):
        causes = [link.__cause__ for link in chain]
        named = [link for link in chain if isinstance(link, OSError) and link.filename and link not in causes]
        return f"{named[-1].filename!r} {named[-1].strerror}" if named else f"the disk fails: {_join_lines(error)}"
    text = _join_lines(error)
    if text.startswith("Config group override must be a string or a list"):
        for group, value in (argument.split("=", 1) for argument in arguments if "=" in argument):
            if value in ("", "null") and (config_dir / group).is_dir():
                names = sorted(path.stem for path in (config_dir / group).glob("*.yaml"))
                meant = [f"{group}=none"] if "none" in names else []
                return f"there is no {group}={value}; {_list_existing(meant, names, group)}"
    if key := re.match(r"Could not override '([\w./@-]+)'|.*[Kk]ey '([\w.]+)' is not in struct", text):
        nested = re.search(r"full_key: ([\w.]+)", " ".join(map(str, chain)))  # in a mapping that was given as a whole
        wrong = max(filter(None, (key[1], key[2], nested and nested[1])), key=len)
        try:
            return f"there is no {wrong!r}; {_suggest_key(wrong, arguments, config_dir, config_name)}"
        except HydraException:  # some other argument is wrong, too
            return f"there is no {wrong!r}"
    return text


def find_own_folder(arguments: Sequence[str]) -> str | None:
    """Return the folder of configurations that a user names beside ours, if it exists.

    Args:
        arguments: the command line's arguments.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--config-dir", "-cd", nargs="?")
    folder: str | None = parser.parse_known_args(arguments)[0].config_dir
    return folder if folder and Path(folder).is_dir() else None


def list_causes(error: BaseException) -> list[BaseException]:
    """List an error and the exceptions that led to it, the first of them last; each once, though they may be a circle.

    Args:
        error: the exception that was caught.
    """
    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None and not any(cause is e for e in chain):
        chain.append(cause)
    return chain


def list_lightning_errors() -> tuple[type[Exception], ...]:
    """List what Lightning raises for settings that cannot work; nothing as long as Lightning is not imported."""
    module = sys.modules.get("lightning_fabric.utilities.exceptions")
    return () if module is None else (module.MisconfigurationException,)


def is_out_of_shared_memory(error: BaseException) -> bool:
    """Tell whether torch raised an error because the memory that processes share is full."""
    text = str(error)
    return isinstance(error, RuntimeError) and ("shared memory" in text or "</torch_" in text or "Bus error" in text)


def _suggest_quotes(argument: str) -> str | None:
    """Write an argument that Hydra cannot read as it has to be typed; None if quotes do not help."""
    key, _, value = argument.partition("=")
    quoted = f"{key}='" + value.replace("'", "\\'") + "'"
    try:
        (read,) = OverridesParser.create().parse_overrides([quoted])
    except HydraException:
        return None
    if not value or read.value() != value:
        return None
    typed = shlex.quote(quoted) if re.search(r'["$`!]|\\(?!\')', quoted) else f'"{quoted}"'
    return f"the value {value} of {key} has to be in quotes, and these in quotes for the shell: {typed}"


def _find_choices_with(wrong: str, config_dir: Path, config_name: str) -> list[str]:
    """List the choices of a group in which a key exists that the present one lacks: dataset.root is not in glyphs."""
    group = wrong.partition(".")[0]
    found = []
    for path in sorted((config_dir / group).glob("*.yaml")):
        try:
            config = compose(config_name, [f"{group}={path.stem}"])
        except HydraException:  # this one needs others beside it
            continue
        parent, _, name = wrong.rpartition(".")
        node = OmegaConf.select(config, parent) if parent else None
        found += [path.stem] if isinstance(node, DictConfig) and name in list(node) else []  # one to be given, too
    return found


def _suggest_key(wrong: str, arguments: list[str], config_dir: Path, config_name: str) -> str:
    """Say what exists where a key was not found, and which key may have been meant."""
    groups = _list_groups(config_dir)
    choices = [a for a in arguments if a.partition("=")[0] in groups and re.fullmatch(r"\w+=\w+", a)]
    if own := find_own_folder(arguments):
        choices.append(f"hydra.searchpath=['file://{Path(own).absolute()}']")
    with initialize_config_dir(str(config_dir.resolve()), version_base="1.3"):
        config = compose(config_name, choices)
        having = _find_choices_with(wrong, config_dir, config_name)
    elsewhere_too = ""
    if having and f"~{wrong}" not in arguments:
        elsewhere_too = f"it is in {wrong.partition('.')[0]}={', '.join(having)}; "
        if wrong == "dataset.root":
            return f"{elsewhere_too}for a folder of your own images add dataset=image_folder"
    parent, _, name = wrong.rpartition(".")
    elsewhere = [key for key in _list_keys(config) if key.endswith(f".{name}") and key != wrong]
    while parent and not isinstance(OmegaConf.select(config, parent), DictConfig):
        parent, _, name = parent.rpartition(".")
    node = OmegaConf.select(config, parent) if parent else config
    keys = [str(key) for key in node if not str(key).startswith("_")] if node else []
    if name in keys:
        found = ".".join(filter(None, (parent, name)))
        return "the command removed it, but it is needed" if found == wrong else _list_existing([], [], found)
    near = [".".join(filter(None, (parent, key))) for key in difflib.get_close_matches(name, keys, 1)]
    return elsewhere_too + _list_existing(elsewhere if len(elsewhere) == 1 else near, keys, parent)


def _list_keys(node: DictConfig, prefix: str = "") -> Iterator[str]:
    for key in map(str, node):
        yield f"{prefix}{key}"
        is_own = not OmegaConf.is_missing(node, key) and not OmegaConf.is_interpolation(node, key)
        if is_own and isinstance(node[key], DictConfig):
            yield from _list_keys(node[key], f"{prefix}{key}.")


def _list_groups(config_dir: Path) -> list[str]:
    return sorted(path.name for path in config_dir.iterdir() if path.is_dir())


def _shorten_key(key: str, config_dir: Path) -> str:
    """Return the key that stands for a value in all of its places: dataset.root for data.dataset.root."""
    parts, groups = key.split("."), _list_groups(config_dir)
    return ".".join(parts[max((i for i, part in enumerate(parts[:-1]) if part in groups), default=0) :])


def _list_existing(meant: Sequence[str], names: Sequence[str], parent: str) -> str:
    """List names, behind what was probably meant."""
    hint = f"did you mean {meant[0]!r}? " if meant else ""
    return f"{hint}{parent or 'the configuration'} has: {', '.join(sorted(names)) or 'nothing to set'}"


def _join_lines(error: BaseException | str) -> str:
    text = str(error)
    if text.startswith("Caught ") and "Original Traceback" in text:  # from a worker that loads images, by torch
        text = text.rpartition(f"{type(error).__qualname__}: ")[2]
    return " ".join(text.split())
