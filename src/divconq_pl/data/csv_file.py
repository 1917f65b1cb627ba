"""Images that a file of comma-separated values lists."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from divconq_pl.data.annotations import read_lines
from divconq_pl.data.dataset import FileDataset
from divconq_pl.data.decoding import MAX_MEGAPIXELS, UnreadableImageError, read_rgb
from divconq_pl.data.listed_images import ListedImages
from divconq_pl.data.listed_parts import NOT_SPLIT, PARTS, UNLABELLED
from divconq_pl.data.samples import find_missing, find_unreadable
from divconq_pl.errors import InputError

Box = tuple[int, int, int, int]
"""Left, top, right and bottom in pixels."""
BOX = ("x1", "y1", "x2", "y2")
COLUMNS = ("path", "label", "split", "camera", *BOX)


class CsvFile(ListedImages):
    """Read images that a CSV file lists, with a header and these columns, in any order; further ones are ignored.

    - ``path``: of the image, relative to the folder of the CSV file, or absolute.
    - ``label``: the name of its class. Without this column images can be embedded, not trained or measured.
    - ``split``: ``train``, ``val``, ``test``, ``query`` or ``gallery``. Without it classes are split at random.
    - ``camera``: what took it, for re-identification.
    - ``x1``, ``y1``, ``x2``, ``y2``: a box in pixels, left, top, right and bottom; only what is inside it is seen.

    Args:
        root: the CSV file; commas, semicolons or tabs separate its columns.
        arguments: those of :class:`~divconq_pl.data.listed_images.ListedImages`.

    Raises:
        InputError: if there is no such file, or an argument is out of range.
    """

    unlabelled = "no column label; images without it can be embedded, not trained on"

    def __init__(self, root: str | Path, **arguments: Any) -> None:
        self.root = Path(root).expanduser()
        if not self.root.is_file():
            state = "is a folder" if self.root.exists() else "does not exist"
            raise InputError(f"root={str(root)!r} {state}; give a CSV file with the columns path and label")
        super().__init__(**arguments)
        self.where = self.root

    def read_parts(self) -> dict[str, FileDataset]:
        """Read the images of each part.

        Raises:
            InputError: if a line does not parse, or images are missing or have several labels.
        """
        rows = _read_rows(self.root)
        files = [row.file for row in rows]
        read: Callable[[str], Image.Image]
        read = partial(
            read_rgb if all(row.image == row.file for row in rows) else read_cropped_rgb, **self.read_options
        )
        if self.on_bad_image == "skip":
            bad = find_unreadable([row.image for row in rows], self.root, read)
            rows = [row for row in rows if row.image not in bad]
        elif gone := find_missing(files):
            raise InputError(
                f"{len(gone)} of {len(files)} images that {str(self.root)!r} lists are missing, the first is "
                f"{gone[0]!r}; paths are relative to its folder; on_bad_image=skip leaves them out"
            )
        cameras = sorted({row.camera for row in rows if row.camera is not None})
        parts = {}
        for part in dict.fromkeys(row.part for row in rows):
            chosen = [row for row in rows if row.part == part]
            classes = sorted({row.label for row in chosen})
            number = {name: i for i, name in enumerate(classes)}
            parts[part] = FileDataset(
                [row.image for row in chosen],
                [number[row.label] for row in chosen],
                classes,
                read=read,
                groups=[cameras.index(row.camera) for row in chosen if row.camera is not None] or None,
                group_names=cameras,
            )
        return parts


class _Row(NamedTuple):
    image: str
    """What :func:`read_cropped_rgb` takes."""
    file: str
    label: str
    part: str
    camera: str | None


def read_cropped_rgb(
    image: str, *, white_level: float | None = None, max_megapixels: float = MAX_MEGAPIXELS
) -> Image.Image:
    """Decode an image, or the part of it that is named as ``<path>[x1,y1,x2,y2]``.

    Args:
        image: path of the file, and the box where there is one.
        white_level: as for :func:`~divconq_pl.data.decoding.read_rgb`.
        max_megapixels: likewise, of the whole image.

    Raises:
        InputError: if it cannot be read, or the box lies outside of it.
    """
    file, box = split_box(image)
    whole = read_rgb(file, white_level=white_level, max_megapixels=max_megapixels)
    if box is None:
        return whole
    left, top, right, bottom = box
    if not (0 <= left < right <= whole.width and 0 <= top < bottom <= whole.height):
        raise UnreadableImageError(
            f"the box of {image!r} does not lie in the image of {whole.width} x {whole.height} pixels"
        )
    return whole.crop(box)


def split_box(image: str) -> tuple[str, Box | None]:
    """Split what :func:`read_cropped_rgb` takes into the path of the file and the box."""
    file, bracket, box = image.rpartition("[")
    numbers = box.removesuffix("]").split(",")
    if not bracket or not image.endswith("]") or len(numbers) != 4 or not all(n.isdecimal() for n in numbers):
        return image, None
    left, top, right, bottom = map(int, numbers)
    return file, (left, top, right, bottom)


def _read_rows(table: Path) -> list[_Row]:
    lines = read_lines(table)
    header = lines[0] if lines else ""
    reader = csv.DictReader(lines, delimiter=max(",;\t", key=header.count))
    columns = [name.strip() for name in reader.fieldnames or ()]
    reader.fieldnames = columns
    if "path" not in columns:
        raise InputError(
            f"{str(table)!r} has no column path, only {', '.join(columns) or 'nothing'}; name them in its first line: "
            f"{', '.join(COLUMNS)}, of which path is needed, and label to train"
        )
    given = [name for name in BOX if name in columns]
    if 0 < len(given) < len(BOX):
        raise InputError(f"{str(table)!r} has the columns {', '.join(given)} of a box, which needs {', '.join(BOX)}")
    rows: dict[str, _Row] = {}
    for values in reader:
        row = _parse({key: (value or "").strip() for key, value in values.items() if key}, table, reader.line_num)
        before = rows.setdefault(row.image, row)
        if before.label != row.label:
            raise InputError(
                f"{str(table)!r}, line {reader.line_num}: {row.file!r} has the label {before.label!r}, too; several "
                "labels of an image cannot be used, give each one label, or a box to each"
            )
        if before.part != row.part:
            raise InputError(
                f"{str(table)!r}, line {reader.line_num}: {row.file!r} is in {before.part} and in {row.part}; an "
                "image is in one part"
            )
    if not rows:
        raise InputError(f"{str(table)!r} lists no image; give one line to each, below the names of the columns")
    return list(rows.values())


def _parse(values: Mapping[str, str], table: Path, line: int) -> _Row:
    place = f"{str(table)!r}, line {line}"
    lacking = [name for name in ("path", "label", "split", "camera", *BOX) if name in values and not values[name]]
    if lacking:
        raise InputError(f"{place}: {lacking[0]} is empty; give it in every line, or leave the column out")
    part = values.get("split", NOT_SPLIT)
    if part not in PARTS and part != NOT_SPLIT:
        raise InputError(f"{place}: split {part!r} is unknown; use {', '.join(PARTS)}")
    image = file = os.path.join(table.parent, values["path"])
    if "x1" in values:
        try:
            box = [round(float(values[name])) for name in BOX]
        except ValueError as error:
            raise InputError(f"{place}: the box {', '.join(values[n] for n in BOX)} is not four numbers") from error
        if min(box) < 0 or box[0] >= box[2] or box[1] >= box[3]:
            raise InputError(f"{place}: the box {box} is empty; give left, top, right and bottom in pixels")
        image = f"{file}[{','.join(map(str, box))}]"
    return _Row(image, file, values.get("label", UNLABELLED), part, values.get("camera"))
