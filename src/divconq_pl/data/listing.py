"""All images of a folder and of the folders in it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from divconq_pl.data.samples import list_folders, list_images
from divconq_pl.errors import InputError


class Found(NamedTuple):
    """A file as it was found; a file that has changed differs in one of these.

    Attributes:
        path: below the folder, as bytes, since a name need not be UTF-8.
        size: bytes.
        modified: nanoseconds.
    """

    path: bytes
    size: int
    modified: int


def walk(root: Path, passed_over: Counter[str]) -> Iterator[Found]:
    """Yield the images of a folder, however deep, without hidden files and folders.

    Args:
        root: the folder.
        passed_over: counts by their ends the files that are no images.

    Raises:
        InputError: if there is no such folder.
    """
    if not root.is_dir():
        state = "is a file" if root.exists() else "does not exist"
        raise InputError(f"images={str(root)!r} {state}; give a folder of images")
    waiting = [(root, frozenset[tuple[int, int]]())]
    while waiting:
        folder, above = waiting.pop()
        status = folder.stat()
        here = (status.st_dev, status.st_ino)
        if here in above:  # a link to a folder that it lies in
            continue
        folders = list_folders(folder)
        others: Counter[str] = Counter()
        for file in list_images(folder, others):
            status = os.stat(file)
            yield Found(os.fsencode(os.path.relpath(file, root)), status.st_size, status.st_mtime_ns)
        passed_over.update(others - Counter({"folder or broken link": len(folders)}))
        waiting += [(folder / name, above | {here}) for name in reversed(folders)]
