"""Checks of images before they become a data set: which are missing, broken, or alone in their class."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

from tqdm import tqdm

from divconq_pl.data.decoding import image_extensions, name_extra, printable, read_rgb
from divconq_pl.errors import InputError

OnBadImage = Literal["stop", "skip"]

_known_extensions = cache(image_extensions)


def check_on_bad_image(value: str) -> None:
    """Refuse a value that is neither ``"stop"`` nor ``"skip"``.

    Raises:
        InputError: for any other value.
    """
    if value not in get_args(OnBadImage):
        raise InputError(f"on_bad_image={value!r} is unknown; choose 'stop' or 'skip'")


def find_missing(files: Iterable[str]) -> list[str]:
    """Return the files that do not exist; each folder is listed once, which is fast on network drives."""
    listed: dict[str, set[str]] = {}
    gone = []
    for file in files:
        folder, name = os.path.split(file)
        if folder not in listed:
            is_readable = os.path.isdir(folder) and os.access(folder, os.R_OK)
            listed[folder] = set(os.listdir(folder)) if is_readable else set()
        if name not in listed[folder]:
            gone.append(file)
    return gone


def find_unreadable(images: Sequence[str], where: Path, read: Callable[[str], Any] = read_rgb) -> set[str]:
    """Decode every image once, warn of those that cannot be read, and return them.

    Args:
        images: file, or whatever ``read`` takes, of each image.
        where: the folder to name.
        read: raises InputError for what cannot be read.

    Raises:
        InputError: if none can be read.
    """

    def is_readable(image: str) -> bool:
        try:
            read(image)
        except InputError:
            return False
        return True

    with ThreadPoolExecutor() as pool:
        progress = tqdm(pool.map(is_readable, images), "Checking images", len(images), unit="image", disable=None)
        bad = [image for image, good in zip(images, progress, strict=True) if not good]
    if bad and len(bad) == len(images):
        raise InputError(f"none of the {len(bad)} images of {str(where)!r} can be read, such as {printable(bad[0])!r}")
    if bad:
        first = join_first([*map(printable, bad)])
        warnings.warn(f"{len(bad)} images of {str(where)!r} cannot be read and are left out: {first}", stacklevel=4)
    return set(bad)


def find_single(classes: Iterable[str]) -> list[str]:
    """Return the classes with a single image, in their order."""
    return [name for name, count in Counter(classes).items() if count == 1]


def check_gallery(query: Sequence[str], gallery: Iterable[str], where: Path) -> None:
    """Compare the classes of query and gallery; warn of query images whose class is not in the gallery.

    Raises:
        InputError: if no class is in both.
    """
    known = set(gallery)
    lost = Counter(name for name in query if name not in known)
    if len(query) == lost.total():
        raise InputError(f"no class of {str(where)!r} is both in query and in gallery; name them alike in both")
    if lost:
        warnings.warn(
            f"{lost.total()} query images belong to {len(lost)} classes that are not in the gallery", stacklevel=3
        )


def list_folders(folder: Path) -> list[str]:
    """Return the names of the folders in a folder, sorted, without hidden ones and those of macOS."""
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if is_visible(entry.name) and entry.is_dir())


def is_visible(name: str) -> bool:
    """Tell whether a name is neither hidden nor one that macOS or Windows adds (``._*``, ``Thumbs.db`` and so on)."""
    return not name.startswith(".") and name not in ("__MACOSX", "Thumbs.db", "desktop.ini")


def list_images(folder: Path, passed_over: Counter[str] | None = None) -> list[str]:
    """List the images of a folder, sorted: the files whose names end as the decoder at hand reads them.

    Args:
        folder: the folder; what lies deeper is not looked for.
        passed_over: counts by their ends the visible files that are no such images, and folders.
    """
    images = []
    with os.scandir(folder) as entries:
        for entry in filter(lambda entry: is_visible(entry.name), entries):
            extension = os.path.splitext(entry.name)[1].lower()
            if extension in _known_extensions() and entry.is_file():
                images.append(entry.path)
            elif passed_over is not None:
                kind = (extension or "without an extension") if entry.is_file() else "folder or broken link"
                passed_over[printable(kind)] += 1
    return sorted(images)


def describe_passed_over(passed_over: Counter[str]) -> str:
    """Say how many files of each kind were passed over.

    Example:
        >>> describe_passed_over(Counter({".mp4": 20, "folder": 1}))
        '20 .mp4, 1 folder'
    """
    counts = ", ".join(f"{count} {ending}" for ending, count in passed_over.most_common())
    return counts if not (hint := name_extra(passed_over)) else f"{counts} ({hint})"


def join_first(names: Sequence[str]) -> str:
    """Join the first few names to one line."""
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
