"""What each cluster of a division holds."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageOps

from divconq_pl.app.plots.tree import colour_of
from divconq_pl.errors import InputError
from divconq_pl.report.material import name_commonest
from divconq_pl.report.thumbnails import to_pillow

Picture = Callable[[int], Any]
"""From the index of an image to the image: PIL, or an array H x W or H x W x 3 (uint8, or float in [0, 1])."""

_TILE, _GAP = 72, 5  # pixels
_TILE_INCHES = 0.42
_MARGIN, _TITLE, _HEADING = 0.3, 0.3, 0.6  # inches
_LINE = 0.16  # inches of a further line of a title
_CLEAR = 0.7
"""Share from which on a cluster is said to hold one group."""


def montage(
    images: Picture,
    assignment: ArrayLike,
    *,
    per_cluster: int = 24,
    groups: ArrayLike | None = None,
    group_names: Sequence[str] = (),
    classes: ArrayLike | None = None,
    title: str = "What each learner trains on",
) -> Figure:
    """Show a block of images for each cluster of a division, under its number and size.

    The images are taken evenly over the cluster in the order of the data set, so that many classes are seen.

    Args:
        images: from index to image.
        assignment: cluster of every image, shape (N,); negative where an image is left out.
        per_cluster: images shown of each.
        groups: what else is known of each image, such as its side, shape (N,); the commonest is named with its share.
        group_names: the name of each group.
        classes: class of each image, shape (N,), to say how many each cluster has.
        title: heading.

    Returns:
        The figure.

    Raises:
        InputError: if there is no cluster to show.
    """
    clusters = np.asarray(assignment)
    shown = sorted(set(clusters[clusters >= 0].tolist()))
    members = {k: np.flatnonzero(clusters == k) for k in shown}
    if not shown:
        raise InputError("there is no image to show in any cluster: give an assignment with clusters from 0 on")

    tile_columns = math.ceil(math.sqrt(1.5 * per_cluster))
    tile_rows = math.ceil(per_cluster / tile_columns)
    block_columns = _columns(len(shown), tile_columns / tile_rows)
    block_rows = math.ceil(len(shown) / block_columns)
    width, height = tile_columns * _TILE_INCHES, tile_rows * _TILE_INCHES
    total_width = max(block_columns * (width + _MARGIN) + _MARGIN, 4.5)
    above = _TITLE + (0 if groups is None else _LINE)
    total_height = block_rows * (height + above + _MARGIN / 2) + _HEADING + _MARGIN / 2
    left = (total_width - block_columns * (width + _MARGIN) + _MARGIN) / 2

    figure = Figure(figsize=(total_width, total_height))
    figure.text(0.5, 1 - 0.33 / total_height, title, ha="center", va="center", fontsize=13, weight="bold")
    for place, k in enumerate(shown):
        row, column = divmod(place, block_columns)
        x = left + column * (width + _MARGIN)
        y = total_height - _HEADING - row * (height + above + _MARGIN / 2) - above - height
        ground = [round(255 * channel) for channel in colour_of(k, int(clusters.max()) + 1)]  # as in the tree
        axes = figure.add_axes((x / total_width, y / total_height, width / total_width, height / total_height))
        axes.imshow(_sheet(images, _spread(members[k], per_cluster), tile_rows, tile_columns, ground), aspect="auto")
        axes.set(xticks=[], yticks=[], frame_on=False)
        count = len(members[k])
        heading = f"cluster {k}  ·  {count:,} image{'s' if count > 1 else ''}"
        if classes is not None:
            distinct = len(np.unique(np.asarray(classes)[members[k]]))
            heading += f", {distinct:,} class{'es' if distinct > 1 else ''}"
        if groups is not None:
            heading += f"\n{name_commonest(np.asarray(groups)[members[k]], group_names, most=2, clear=_CLEAR)}"
        axes.set_title(heading, fontsize=9, loc="left", pad=4)
    return figure


def square(image: Any, size: int) -> NDArray[np.uint8]:
    """Return an image as RGB, fitted into a white square.

    Args:
        image: PIL image, or array H x W or H x W x 3 (uint8, or float in [0, 1]).
        size: pixels of a side.

    Returns:
        Shape (size, size, 3).
    """
    picture = to_pillow(image).convert("RGB")
    return np.asarray(ImageOps.pad(picture, (size, size), Image.Resampling.BICUBIC, color="white"))


def _sheet(
    images: Picture, indices: NDArray[np.int64], rows: int, columns: int, ground: Sequence[int]
) -> NDArray[np.uint8]:
    step = _TILE + _GAP
    sheet = np.full((rows * step + _GAP, columns * step + _GAP, 3), ground, dtype=np.uint8)
    for place, index in enumerate(indices):
        top, left = (step * part + _GAP for part in divmod(place, columns))
        sheet[top : top + _TILE, left : left + _TILE] = square(images(int(index)), _TILE)
    return sheet


def _spread(members: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    if len(members) <= count:
        return members
    places = np.linspace(0, len(members) - 1, count).round().astype(np.int64)
    return np.take(members, places)


def _columns(blocks: int, aspect: float) -> int:
    """Choose how many blocks stand side by side so that the page is about 4 : 3."""
    return min(blocks, max(1, round(math.sqrt(blocks * 4 / 3 / aspect))))
