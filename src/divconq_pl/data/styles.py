"""Styles in which an image of a character can be painted, each to be told from the others at a glance."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Grid = NDArray[np.float64]
"""A number for each pixel, shape (size, size): its x or y, or its gray value, 0 black to 1 white."""


def paint(ink: NDArray[np.uint8], style: str) -> NDArray[np.uint8]:
    """Put a character on the background of a style.

    Args:
        ink: the character in white on black, shape (size, size).
        style: a key of :data:`STYLES`.

    Returns:
        The image, of the same shape.
    """
    background, colour = STYLES[style]
    share = ink / 255
    # A cell of the pattern is an eighth of the image.
    x, y = np.meshgrid(*(np.arange(size) * 8 / size for size in ink.shape[::-1]))
    return ((share * colour + (1 - share) * background(x, y)) * 255).round().astype(np.uint8)


def _plain(gray: float) -> Callable[[Grid, Grid], Grid]:
    return lambda x, y: np.full_like(x, gray)


def _where(odd: Callable[[Grid, Grid], NDArray[np.bool_]], dark: float, light: float) -> Callable[[Grid, Grid], Grid]:
    return lambda x, y: np.where(odd(x, y), light, dark)


def _odd(z: Grid) -> NDArray[np.bool_]:
    odd: NDArray[np.bool_] = np.floor(z) % 2 == 1
    return odd


STYLES: dict[str, tuple[Callable[[Grid, Grid], Grid], float]] = {
    "white on black": (_plain(0), 1),
    "black on white": (_plain(1), 0),
    "horizontal stripes": (_where(lambda x, y: _odd(y), 0, 0.55), 1),
    "checkerboard": (_where(lambda x, y: _odd(x) ^ _odd(y), 0.45, 1), 0),
    "vertical stripes": (_where(lambda x, y: _odd(x), 0.45, 1), 0),
    "dots": (_where(lambda x, y: (x % 2 - 1) ** 2 + (y % 2 - 1) ** 2 < 0.5, 0, 0.55), 1),
    "diagonal stripes": (_where(lambda x, y: _odd((x + y) / 1.5), 0, 0.55), 1),
    "gradient": (lambda x, y: 0.3 + 0.7 * y / 8, 0),
}
"""From the name of a style to its background, a function of x and y in eighths of the image, and the ink's gray."""
