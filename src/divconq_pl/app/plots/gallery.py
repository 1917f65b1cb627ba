"""Queries and the images nearest to them, right and wrong."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import wrap

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.textpath import TextPath
from numpy.typing import ArrayLike

from divconq_pl.app.plots.montage import Picture, square
from divconq_pl.errors import InputError

_RIGHT, _WRONG, _QUERY = "#1a8a4a", "#c62f2f", "#44546a"
_CELL, _NAME, _APART, _HEADING, _EDGE = 1.15, 0.31, 0.3, 0.95, 0.15  # inches
_PIXELS = 192
_LETTERS, _FONT = 20, 6.5


def gallery(
    images: Picture,
    names: Sequence[object],
    queries: Sequence[int],
    neighbours: ArrayLike,
    hits: ArrayLike,
    *,
    gallery_images: Picture | None = None,
    gallery_names: Sequence[object] | None = None,
    title: str = "Nearest neighbours in the embedding",
) -> Figure:
    """Show queries, one a row, with their nearest neighbours: right ones ticked green, wrong ones crossed red.

    Args:
        images: from index to image, for the queries.
        names: class of every image, as text or number (an underscore is shown as a blank).
        queries: which images the rows show, n of them.
        neighbours: indices of their neighbours, nearest first, shape (n, k).
        hits: whether each is of the query's class, shape (n, k).
        gallery_images: from index to image for the neighbours, where they come from another set than the queries.
        gallery_names: class of every image of that set.
        title: heading.

    Returns:
        The figure.

    Raises:
        InputError: if there is no query, or the shapes do not fit.
    """
    found, right = np.asarray(neighbours), np.asarray(hits).astype(bool)
    rows = len(queries)
    if not rows or found.ndim != 2 or found.shape != right.shape or len(found) != rows:
        raise InputError(
            f"{rows} queries, neighbours of shape {found.shape} and hits of shape {right.shape} make no picture: "
            "give n >= 1 queries and two arrays (n, k)"
        )
    found_images = gallery_images or images
    found_names = names if gallery_names is None else gallery_names

    width = 2 * _EDGE + _APART + (1 + found.shape[1]) * _CELL
    height = _HEADING + rows * (_CELL + _NAME) + _EDGE / 2
    figure = Figure(figsize=(max(width, 5.5), height))
    top = 1 - 0.3 / height
    figure.text(0.5, top, title, ha="center", va="center", fontsize=13, weight="bold")
    legend = (("✓ same class as the query", _RIGHT, 0.49, "right"), ("✗ another class", _WRONG, 0.53, "left"))
    for text, colour, x, side in legend:
        figure.text(x, top - 0.27 / height, text, ha=side, va="center", fontsize=9, color=colour)

    scale, left = figure.get_figwidth(), (figure.get_figwidth() - width) / 2 + _EDGE
    for row, query in enumerate(queries):
        y = height - _HEADING - (row + 1) * (_CELL + _NAME) + _NAME
        for column in range(1 + found.shape[1]):
            x = left + column * _CELL + (_APART if column else 0)
            size = _CELL - 0.13
            axes = figure.add_axes((x / scale, y / height, size / scale, size / height))
            if not column:
                _show(axes, images(query), names[query], _QUERY, "")
            else:
                index, hit = int(found[row, column - 1]), right[row, column - 1]
                colour, mark = (_RIGHT, "✓") if hit else (_WRONG, "✗")
                _show(axes, found_images(index), found_names[index], colour, mark)
            if not row:
                axes.set_title(f"{column}" if column else "query", fontsize=9, color=_QUERY, pad=5)
    return figure


def _show(axes: Axes, image: object, name: object, colour: str, mark: str) -> None:
    axes.imshow(square(image, _PIXELS))
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set(color=colour, linewidth=3 if mark else 1.5)
    lines = wrap(str(name).replace("_", " "), _LETTERS, max_lines=2, placeholder="…")
    widest = max((TextPath((0, 0), line, size=_FONT).get_extents().width / 72 for line in lines), default=0)
    fitting = _FONT * min(1, (_CELL - 0.05) / max(widest, 0.01))
    axes.set_xlabel("\n".join(lines), fontsize=fitting, labelpad=4)
    if mark:
        badge = {"boxstyle": "square,pad=0.18", "facecolor": colour, "edgecolor": "none"}
        text = axes.text(0.965, 0.965, mark, transform=axes.transAxes, color="white", fontsize=9, bbox=badge)
        text.set(ha="right", va="top")
