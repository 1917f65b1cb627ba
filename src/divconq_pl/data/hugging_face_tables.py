"""Tables of the ``datasets`` library: how they are loaded, and which columns hold images and labels."""

from __future__ import annotations

import socket
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from threading import Thread
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

from divconq_pl.data.listed_parts import UNLABELLED
from divconq_pl.errors import InputError

_PATIENCE = 4.0
"""Seconds to wait for a connection."""


def import_datasets() -> ModuleType:
    """Import the library.

    Raises:
        InputError: if it is not installed.
    """
    try:
        import datasets
    except ImportError as error:
        raise InputError(
            'dataset=huggingface needs the datasets library, not installed here: pip install "divconq-pl[huggingface]"'
        ) from error
    module: ModuleType = datasets
    return module


def load_tables(library: ModuleType, root: Path | None, name: str | None, subset: str | None) -> Any:
    """Load a data set, from the Hub only if it is given by its name.

    Args:
        library: ``datasets``.
        root: where it is on this machine.
        name: its name on the Hub, where there is no ``root``.
        subset: which of its configurations.

    Returns:
        A ``DatasetDict``, or a ``Dataset`` that was saved by itself.

    Raises:
        InputError: if it cannot be loaded.
    """
    try:
        if root is None:
            if not is_reachable(library.config.HF_ENDPOINT):
                _go_offline(library)  # what was downloaded before is used at once, and nothing is tried again and again
            return library.load_dataset(name, subset)
        if any((root / file).is_file() for file in ("dataset_dict.json", "state.json")):
            return library.load_from_disk(str(root))
        if root.is_file():
            return library.load_dataset("parquet", data_files=str(root.resolve()))
        return library.load_dataset(str(root.resolve()), subset)
    except Exception as error:  # a network, a file and each of the library's formats fail in ways of their own
        text = str(error) or type(error).__name__
        said = text.splitlines()[0]
        if root is not None:
            raise InputError(f"root={str(root)!r} cannot be read by the datasets library: {said}") from error
        raise InputError(
            f"name={name!r} cannot be loaded from the Hugging Face Hub ({said}); without a network, give the folder of "
            "a copy that save_to_disk wrote on another machine, dataset.root=PATH"
        ) from error


def is_reachable(address: str) -> bool:
    """Tell within some seconds whether there is a way to an address; taken for granted where a proxy is set."""
    if urllib.request.getproxies():
        return True
    place = urlsplit(address)
    port = place.port or (443 if place.scheme == "https" else 80)
    found: list[bool] = []

    def connect() -> None:
        with suppress(OSError):
            socket.create_connection((place.hostname or address, port), timeout=_PATIENCE).close()
            found.append(True)

    attempt = Thread(target=connect, daemon=True)  # since looking up a name cannot be given a limit
    attempt.start()
    attempt.join(_PATIENCE)
    return bool(found)


def _go_offline(library: ModuleType) -> None:
    """Let the libraries of Hugging Face be, for the rest of this process, as with HF_HUB_OFFLINE=1."""
    from huggingface_hub import constants

    constants.HF_HUB_OFFLINE = library.config.HF_HUB_OFFLINE = True


def find_image_column(library: ModuleType, table: Any, given: str | None) -> str:
    """Return the column of images: the one given, or the only one that can be meant.

    Raises:
        InputError: if there is none, or it is not clear which.
    """
    features: Mapping[str, Any] = table.features
    typed = [name for name, feature in features.items() if isinstance(feature, library.Image)]
    found = [given] if given is not None else typed or [name for name in ("image", "img") if name in features]
    if len(found) != 1 or found[0] not in features:
        asked = f"image={given!r}: there is no such column" if given is not None else "which column holds the images?"
        raise InputError(f"{asked} There are {', '.join(features)}; give dataset.image=COLUMN")
    return found[0]


def find_label_column(library: ModuleType, table: Any, given: str | None) -> str | None:
    """Return the column of labels: the one given, or the only one that can be meant; None if there is none.

    Raises:
        InputError: if it is not there, or it is not clear which.
    """
    features: Mapping[str, Any] = table.features
    if given is not None and given not in features:
        raise InputError(f"label={given!r}: there is no such column, only {', '.join(features)}")
    if given is not None or "label" in features:
        return given or "label"
    typed = [name for name, feature in features.items() if isinstance(feature, library.ClassLabel)]
    if len(typed) > 1:
        raise InputError(f"the columns {', '.join(typed)} hold classes; choose one with dataset.label=COLUMN")
    return typed[0] if typed else None


def read_labels(library: ModuleType, table: Any, column: str | None, where: str) -> tuple[list[int], list[str]]:
    """Return the label of each row, from 0, and the names of the classes that there are.

    Args:
        library: ``datasets``.
        table: the rows.
        column: of labels; without one all are unlabelled.
        where: how to name the table.

    Raises:
        InputError: if rows have several labels, or none.
    """
    if column is None:
        return [0] * len(table), [UNLABELLED]
    feature = table.features[column]
    values = table.select_columns([column]).with_format(None)[:][column]
    if wrong := [value for value in values if isinstance(value, list | dict)]:
        raise InputError(
            f"{where}: the column {column} holds {wrong[0]!r}; several labels of an image cannot be used, name a "
            "column with one label each, dataset.label=COLUMN"
        )
    is_class = isinstance(feature, library.ClassLabel)
    if lacking := sum(value is None or (is_class and value < 0) for value in values):
        raise InputError(
            f"{where}: {lacking} of {len(values)} images have no label in the column {column}; leave that split out "
            "with dataset.split=NAME+NAME"
        )
    present = sorted(set(values))
    number = {value: i for i, value in enumerate(present)}
    names = [feature.int2str(value) if is_class else str(value) for value in present]
    return [number[value] for value in values], names
