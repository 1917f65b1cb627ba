"""Small pictures inside the page."""

from __future__ import annotations

import io
import time
from base64 import b64encode

import numpy as np
from PIL import Image, ImageOps

from divconq_pl.report.material import Images

_PATIENCE = 8.0
"""Seconds that reading images may take in all."""


class Thumbnails:
    """Make small pictures of images, as long as that takes seconds and not minutes.

    Attributes:
        failed: how many could not be read.
        skipped: how many were left out since reading took too long.
    """

    def __init__(self, patience: float = _PATIENCE) -> None:
        self._left = patience
        self._made: dict[tuple[int, int, int], str] = {}
        self.failed = self.skipped = 0

    def make(self, images: Images, index: int, size: int = 64) -> str:
        """Return a picture as a data URI; empty where there is none to be had.

        Args:
            images: where it is from.
            index: which it is.
            size: pixels of its longer side.
        """
        key = (id(images), index, size)
        if images.picture is None:
            return ""
        if key not in self._made:
            if self._left <= 0:
                self.skipped += 1
                return ""
            began = time.perf_counter()
            try:
                self._made[key] = encode(images.picture(index), size)
            except Exception:  # an image may be gone or broken in any way, and a report is written all the same
                self._made[key] = ""
                self.failed += 1
            self._left -= time.perf_counter() - began
        return self._made[key]


def encode(image: object, size: int) -> str:
    """Return an image, as :func:`to_pillow` takes it, as a JPEG in a data URI, fitted into a square."""
    picture, buffer = to_pillow(image), io.BytesIO()
    grey = picture.mode in ("L", "1")
    ImageOps.contain(picture.convert("L" if grey else "RGB"), (size, size), Image.Resampling.BICUBIC).save(
        buffer, "JPEG", quality=80
    )
    return "data:image/jpeg;base64," + b64encode(buffer.getvalue()).decode()


def to_pillow(image: object) -> Image.Image:
    """Return an image: PIL, or an array H x W or H x W x 3 (uint8, or float in [0, 1])."""
    if isinstance(image, Image.Image):
        return image
    pixels = np.asarray(image)
    if pixels.dtype != np.uint8:
        pixels = (np.clip(pixels, 0, 1) * 255).round().astype(np.uint8)
    return Image.fromarray(pixels)
