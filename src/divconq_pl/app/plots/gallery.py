"""Queries and the images nearest to them, right and wrong."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from textwrap import wrap

import numpy as np
from matplotlib.backend_bases import RendererBase
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.image import FigureImage
from matplotlib.textpath import TextPath
from matplotlib.transforms import Affine2D
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from divconq_pl.app.plots.montage import Picture, square
from divconq_pl.errors import InputError

_RIGHT, _WRONG, _QUERY = "#1a8a4a", "#c62f2f", "#44546a"
_CELL, _SIZE, _NAME, _APART, _HEADING, _EDGE = 1.15, 1.0, 0.42, 0.3, 0.95, 0.15  # inches
_DPI, _FRAME = 150, 5  # pixels
_LETTERS, _LINES, _FONT = 20, 2, 6.5


def gallery(
    images: Picture,
    names: Sequence[object],
    queries: Sequence[int],
    neighbours: ArrayLike,
    hits: ArrayLike,
    *,
    gallery_images: Picture | None = None,
    gallery_names: Sequence[object] | None = None,
    distances: ArrayLike | None = None,
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
        distances: of each neighbour to its query, shape (n, k), written below it.
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
    figure = Figure(figsize=(max(width, 5.5), height), dpi=_DPI)
    top = 1 - 0.3 / height
    figure.text(0.5, top, title, ha="center", va="center", fontsize=13, weight="bold")
    legend = (("✓ same class as the query", _RIGHT, 0.49, "right"), ("✗ another class", _WRONG, 0.53, "left"))
    for text, colour, x, side in legend:
        figure.text(x, top - 0.27 / height, text, ha=side, va="center", fontsize=9, color=colour)

    # One picture of all images, pixel by pixel: an axes for each, or scaling it, would take seconds.
    left = (figure.get_figwidth() - width) / 2 + _EDGE
    page = np.full((round(height * _DPI), round(figure.get_figwidth() * _DPI), 3), 255, np.uint8)
    axes = figure.add_axes((0, 0, 1, 1), zorder=-1, xlim=(0, figure.get_figwidth()), ylim=(height, 0))
    axes.set_axis_off()
    for row, query in enumerate(queries):
        y = _HEADING + row * (_CELL + _NAME)
        for column in range(1 + found.shape[1]):
            x = left + column * _CELL + (_APART if column else 0)
            if column:
                index, hit = int(found[row, column - 1]), right[row, column - 1]
                colour, mark = (_RIGHT, "✓") if hit else (_WRONG, "✗")
                image, label = found_images(index), shorten(found_names[index])
                if distances is not None:
                    label += f"\n{np.asarray(distances)[row, column - 1]:.2f}"
            else:
                image, label, colour, mark = images(query), shorten(names[query]), _QUERY, ""
            _paste(page, image, x, y, colour)
            middle = x + _SIZE / 2
            size = _FONT * min(1, _SIZE / max(map(_measure, label.split("\n"))))
            axes.text(middle, y + _SIZE + 0.06, label, fontsize=size, ha="center", va="top", gid="name")
            if mark:
                badge = {"boxstyle": "square,pad=0.18", "facecolor": colour, "edgecolor": "none"}
                written = axes.text(x + _SIZE - 0.05, y + 0.05, mark, color="white", fontsize=9, bbox=badge, gid="mark")
                written.set(ha="right", va="top")
            if not row:
                head = f"{column}" if column else "query"
                axes.text(middle, y - 0.12, head, fontsize=9, color=_QUERY, ha="center", gid="column")
    figure.add_artist(_Page(figure, page))
    return figure


class _Page(FigureImage):
    """Pixels of a whole figure, put into it as they are, or scaled where it is drawn in another resolution."""

    def __init__(self, figure: Figure, page: NDArray[np.uint8]) -> None:
        super().__init__(figure, zorder=-2)
        self.set_data(page)

    def make_image(
        self, renderer: RendererBase, magnification: float = 1.0, unsampled: bool = False
    ) -> tuple[np.ndarray, float, float, Affine2D]:
        width, height = (round(side * magnification) for side in renderer.get_canvas_width_height())
        page = Image.fromarray(np.asarray(self.get_array())).resize((width, height))  # its own size costs nothing
        return np.asarray(page.convert("RGBA"))[::-1], 0, 0, Affine2D()  # renderers begin at the bottom


def shorten(name: object) -> str:
    r"""Break a name into two lines; leave out its middle where it is longer, for names often differ at their ends.

    Example:
        >>> shorten("LATIN CAPITAL LETTER W WITH CIRCUMFLEX")
        'LATIN CAPITAL LETTER\nW WITH CIRCUMFLEX'
        >>> shorten("LATIN_SMALL_LETTER_O_WITH_CIRCUMFLEX_AND_HOOK_ABOVE")
        'LATIN SMALL LETTER O\n… AND HOOK ABOVE'
    """
    text = str(name).replace("_", " ")
    lines = wrap(text, _LETTERS)
    if len(lines) > _LINES:
        end = text[2 - _LETTERS :]
        words = end.split(" ", 1) if " " in end and text[1 - _LETTERS] != " " else ["", end]
        lines = [lines[0], f"… {words[-1].strip()}"]
    return "\n".join(lines)


def _paste(page: NDArray[np.uint8], image: object, x: float, y: float, colour: str) -> None:
    top, left, side = round(y * _DPI), round(x * _DPI), round(_SIZE * _DPI)
    page[top : top + side, left : left + side] = [round(255 * channel) for channel in to_rgb(colour)]
    inner = side - 2 * _FRAME
    page[top + _FRAME : top + side - _FRAME, left + _FRAME : left + side - _FRAME] = square(image, inner)


@cache
def _measure(line: str) -> float:
    """Return how wide a line is, in inches."""
    outline = TextPath((0, 0), line, size=_FONT).vertices if line.strip() else np.empty((0, 2))
    return max(0.01, float(np.ptp(outline[:, 0])) / 72) if len(outline) else 0.01
