"""How copies of a data set lie on disk, and which of these ways a folder is laid out in."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from divconq_pl.data.samples import is_visible, list_folders
from divconq_pl.errors import InputError


class Labelled(NamedTuple):
    """An image as an annotation names it.

    Args:
        class_id: number of its class in the data set, which orders the classes; need not be contiguous.
        class_name: name of the class.
        image: path of the file, or what the layout's ``read_image`` takes.
        group: what else is known of it, such as the camera that took it.
    """

    class_id: int
    class_name: str
    image: str
    group: str | None = None


Places = Mapping[str, Path]
Parts = dict[str, list[Labelled]]
"""Images of ``"train"`` and ``"test"``, or of ``"train"``, ``"query"`` and ``"gallery"``."""


@dataclass(frozen=True)
class Layout:
    """One way in which a data set lies on disk.

    Args:
        name: how to call it.
        needs: what must be there: a key for ``read``, and the places where it may be, relative to the root; the first
            that exists is used. A place with ``*`` exists if any name matches; it stands for the folder of the
            matches.
        read: lists the images of each part; gets the place of each key.
        note: what to know about a copy that is incomplete.
        read_image: turns an ``image`` into an RGB image; None if it is the path of a file.
    """

    name: str
    needs: Mapping[str, tuple[str, ...]]
    read: Callable[[Places], Parts]
    note: str = ""
    read_image: Callable[[str], Image.Image] | None = None

    def __str__(self) -> str:
        """Return the name and what it consists of."""
        return f"{self.name} ({', '.join(places[0] for places in self.needs.values())})"

    def places(self, folder: Path) -> dict[str, list[Path]]:
        """Return the places in a folder where each key is."""
        return {
            key: [found for place in places if (found := _look_up(folder, place)) is not None]
            for key, places in self.needs.items()
        }


class Found(NamedTuple):
    """A layout and the folder that is laid out in it."""

    layout: Layout
    folder: Path

    def parts(self) -> Parts:
        """Read the annotations.

        Raises:
            InputError: if they cannot be read.
        """
        places = {}
        for key, (used, *others) in self.layout.places(self.folder).items():
            if others:
                warnings.warn(f"{str(used)!r} is used; {', '.join(map(str, others))} ignored", stacklevel=4)
            places[key] = used
        return self.layout.read(places)


def find_layout(root: Path, layouts: Sequence[Layout], home: str | None = None) -> Found | None:
    """Look for a data set in a folder, then up to two levels below it, then up to two levels above.

    Args:
        root: the folder.
        layouts: the ways in which it may lie there.
        home: name of the folder that the published archive unpacks to; looked into without a warning.

    Raises:
        InputError: if it is there more than once.
    """
    for distance, level in enumerate(_walk_levels(root, home)):
        found = [Found(layout, f) for f in level for layout in layouts if all(layout.places(f).values())]
        if len(found) > 1:
            copies = " and ".join(f"{layout} in {str(folder)!r}" for layout, folder in found[:3])
            raise InputError(f"{str(root)!r} holds more than one copy: {copies}; give a root with one of them only")
        if found:
            if distance:
                warnings.warn(f"{str(root)!r} is not laid out as expected; {found[0].folder} is used", stacklevel=4)
            return found[0]
    return None


def explain_missing(root: Path, layouts: Sequence[Layout], home: str | None = None) -> str:
    """Say for each layout what is missing in the folder that comes closest to it."""
    level = [folder for level in _walk_levels(root, home) for folder in level]
    said = []
    for layout in layouts:
        places = max((layout.places(folder) for folder in level), key=lambda p: sum(map(bool, p.values())), default={})
        gone = [" or ".join(layout.needs[key]) for key, found in places.items() if not found]
        partly = 0 < len(gone) < len(layout.needs)
        note = f" ({layout.note})" if partly and layout.note else ""
        said.append(f"{layout} lacks {', '.join(gone) if partly else 'all'}{note}")
    packed = [p.name for p in root.iterdir() if p.suffix in (".tgz", ".gz", ".tar", ".zip")] if root.is_dir() else []
    hint = f"; unpack {packed[0]!r}, which is there" if packed else ""
    return f"root={str(root)!r} has none of these layouts: {'; '.join(said)}{hint}"


def _walk_levels(root: Path, home: str | None) -> Iterator[list[Path]]:
    if not root.is_dir():
        return
    level = [root]
    for _ in range(3):
        yield [*level, *(folder / home for folder in level if home and (folder / home).is_dir())]
        level = [folder / name for folder in level for name in _folders_if_allowed(folder)]
    yield from ([folder] for folder in root.resolve().parents[:2])


def _folders_if_allowed(folder: Path) -> list[str]:
    try:
        return list_folders(folder)
    except PermissionError:  # somebody else's; ours is readable
        return []


def _look_up(folder: Path, place: str) -> Path | None:
    path = folder / place
    if "*" in place:
        return path.parent if any(is_visible(match.name) for match in path.parent.glob(path.name)) else None
    # Some copies have cars_train/cars_train, and the like.
    nested = path / path.name
    return nested if nested.is_dir() else path if path.exists() else None
