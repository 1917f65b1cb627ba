"""A look at every image before a training or an evaluation begins: at headers, and at pixels where these are odd."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from hashlib import blake2b
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from pytorch_lightning.utilities import rank_zero_only
from tqdm import tqdm

from divconq_pl.data import RetrievalDataset
from divconq_pl.data.csv_file import Box, read_cropped_rgb, split_box
from divconq_pl.data.dataset import FileDataset
from divconq_pl.data.decoding import UnreadableImageError, is_wide_colour, open_image, printable, read_rgb
from divconq_pl.data.samples import join_first
from divconq_pl.errors import InputError

DARK = 64
"""No image of 16 bits that comes to this level of 255 is taken as a sign that fewer bits are used."""

ROUNDING = 8
"""How far the levels of a single colour lie apart after lossy compression."""

_ENDS = {"JPEG": b"\xff\xd9", "PNG": b"IEND"}
_UNCOMPRESSED = ("BMP", "DIB", "PPM", "TGA", "TIFF")

SKIP = "dataset.on_bad_image=skip leaves out what cannot be read"


class _Look(NamedTuple):
    """What was seen of an image: why it cannot be read, whether it has a single colour, its highest 16-bit level."""

    problem: UnreadableImageError | None = None
    is_constant: bool = False
    wide_level: int | None = None


@rank_zero_only
def check_images(parts: Sequence[RetrievalDataset]) -> None:
    """Look at the header of every image, and decode those that may be damaged, black or of a single colour.

    These are images that end before their format says so, have more than 8 bits, or whose files are so small for their
    size that they may have a single colour. A file that is damaged in its middle is found when it is read.

    Args:
        parts: the images; such that do not lie in files of their own are passed over.

    Raises:
        InputError: if an image cannot be read, or images of 16 bits use so few of them that they would be black.
    """
    readers = {
        file: part.read
        for part in parts
        if isinstance(part, FileDataset) and _is_ours(part.read)
        for file in part.files
    }
    if not readers:
        return
    with ThreadPoolExecutor() as pool:
        seen = pool.map(_look_at, readers, readers.values())
        looks = dict(
            zip(readers, tqdm(seen, "Looking at images", len(readers), unit="image", disable=None), strict=True)
        )
    if bad := [look.problem for look in looks.values() if look.problem]:
        number = f"{len(bad)} of {len(looks)} images cannot be read; the first: " if len(bad) > 1 else ""
        raise InputError(f"{number}{bad[0]}; {SKIP}")
    _refuse_dark({file: look.wide_level for file, look in looks.items() if look.wide_level is not None}, readers)
    if constant := [printable(file) for file, look in looks.items() if look.is_constant]:
        warnings.warn(
            f"{len(constant)} of {len(looks)} images have a single colour, which tells nothing: {join_first(constant)}",
            stacklevel=2,
        )


@rank_zero_only
def check_queries(tested: Sequence[RetrievalDataset]) -> None:
    """Warn of queries that are also in the gallery, as the same file or with the same bytes: they find themselves.

    Args:
        tested: the images to test on; looked at if they are query and gallery, in files.
    """
    if len(tested) != 2:
        return
    query, gallery = tested
    if not (isinstance(query, FileDataset) and isinstance(gallery, FileDataset) and _is_ours(query.read)):
        return
    located = [[_locate(image, part.read) for image in part.files] for part in (query, gallery)]
    repeated = _find_repeated(*located)
    if repeated:
        warnings.warn(
            f"{len(repeated)} of {len(query)} queries are also in the gallery, where each finds itself, which raises "
            f"Recall@K: {join_first([*map(printable, repeated)])}",
            stacklevel=2,
        )


def check_findable(parts: Sequence[RetrievalDataset], what: str, otherwise: str) -> None:
    """Refuse images of which none has another one of its class to find.

    Args:
        parts: one data set; query and gallery are compared where they are made.
        what: what they are for.
        otherwise: what works instead.

    Raises:
        InputError: if every class has a single image.
    """
    if len(parts) == 1 and len(parts[0].targets.unique()) == len(parts[0]):
        raise InputError(
            f"each of the {len(parts[0])} images {what} is the only one of its class, so none can be found; {otherwise}"
        )


def check_tested(tested: Sequence[RetrievalDataset], *, exported: bool = False) -> None:
    """Look at the images of an evaluation, and say what makes its figures mean little.

    Args:
        tested: one data set, or query and gallery.
        exported: whether their embeddings are written, for which they may be of a single class.

    Raises:
        InputError: if they cannot be read, none can be found, or there is nothing to measure and nothing to write.
    """
    labels = tested[-1].targets.unique()
    if len(labels) > 1:
        check_findable(tested, "to evaluate on", "bring two or more of some classes")
    elif not exported:
        raise InputError(
            f"all images are of one class, {tested[-1].classes[int(labels[0])]!r}, so there is nothing to measure: "
            "each finds its own class, whatever the network; export=FILE writes their embeddings"
        )
    check_images(tested)
    check_queries(tested)


def _unwrap(read: Callable[[str], Image.Image]) -> Callable[..., Image.Image]:
    return read.func if isinstance(read, partial) else read


def _is_ours(read: Callable[[str], Image.Image]) -> bool:
    return _unwrap(read) in (read_rgb, read_cropped_rgb)


def _locate(image: str, read: Callable[[str], Image.Image]) -> tuple[str, Box | None]:
    """Return the file that holds an image, and the box of it that is seen."""
    return split_box(image) if _unwrap(read) is read_cropped_rgb else (image, None)


def _look_at(name: str, read: Callable[[str], Image.Image]) -> _Look:
    options = read.keywords if isinstance(read, partial) else {}
    file, box = _locate(name, read)
    try:
        with open(file, "rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(0, size - 1024))
            tail = stream.read()
            stream.seek(0)
            with open_image(stream, options.get("max_megapixels", float("inf"))) as image:
                is_wide = is_wide_colour(image) or image.mode[0] in "IF"
                is_whole = _ENDS.get(str(image.format), b"") in tail
                is_inside = box is None or (box[2] <= image.width and box[3] <= image.height)
                is_small = image.format in _UNCOMPRESSED or size < 4096 + 0.05 * image.width * image.height
        if is_whole and is_inside and not is_wide and not is_small:
            return _Look()
        levels: Any = read(name).getextrema()
    except UnreadableImageError as error:
        return _Look(error)
    except Exception as error:  # whatever Pillow fails with; reading it gives the same with the file's name
        return _Look(UnreadableImageError(f"cannot read the image '{printable(file)}': {error}"))
    is_constant = all(high - low <= ROUNDING for low, high in levels)
    is_open = is_wide and options.get("white_level") is None
    return _Look(None, is_constant, max(high for _, high in levels) if is_open else None)


def _refuse_dark(levels: dict[str, int], readers: dict[str, Callable[[str], Image.Image]]) -> None:
    if not levels or max(levels.values()) >= DARK:
        return
    file = max(levels, key=lambda file: levels[file])
    with open_image(_locate(file, readers[file])[0]) as image:
        highest = None if is_wide_colour(image) else float(np.asarray(image).max())
    used = next((bits for bits in (8, 10, 12, 14) if highest is not None and highest < 2**bits), None)
    remedy = "convert them to 8 bits" if used is None else f"give dataset.white_level={2**used - 1}"
    raise InputError(
        f"{len(levels)} images of 16 bits, such as '{printable(file)}', are almost black: their values "
        f"{'' if highest is None else f'reach {highest:g} '}of 65535; {remedy}, or, if they are to be as dark as that, "
        "dataset.white_level=65535"
    )


def _find_repeated(query: Sequence[tuple[str, Box | None]], gallery: Sequence[tuple[str, Box | None]]) -> list[str]:
    """Return the files of queries whose bytes and box are also in the gallery; only files of one size are read."""
    sizes = {os.path.getsize(file) for file, _ in gallery} & {os.path.getsize(file) for file, _ in query}
    known = {(_digest(file), box) for file, box in gallery if os.path.getsize(file) in sizes}
    return [file for file, box in query if os.path.getsize(file) in sizes and (_digest(file), box) in known]


def _digest(file: str) -> bytes:
    with open(file, "rb") as stream:
        return blake2b(stream.read(), digest_size=16).digest()
