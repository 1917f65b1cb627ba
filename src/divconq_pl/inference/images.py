"""The images that a user has: files, folders, and what is in memory."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from divconq_pl.data.decoding import MAX_MEGAPIXELS, convert_to_rgb, image_extensions, printable, read_rgb
from divconq_pl.data.listing import walk
from divconq_pl.errors import InputError

AnyImage: TypeAlias = "str | Path | BinaryIO | Image.Image | NDArray[np.uint8] | Tensor"
"""An image: its path, an open file, a Pillow image, an array (H, W, 3), or a tensor (3, H, W); see :func:`as_rgb`."""

KINDS = (
    "a path, an open file, a Pillow image, a uint8 array (height, width, 3) or (height, width), or a uint8 tensor "
    "(3, height, width) or (1, height, width)"
)


def list_files(folder: str | Path) -> list[str]:
    """List the images in a folder and in all folders below it, sorted by path; hidden ones are left out.

    Returns:
        Their paths, each of which begins with ``folder``.

    Raises:
        InputError: if there is no such folder, or no image in it.
    """
    found = [os.path.join(folder, os.fsdecode(file.path)) for file in walk(Path(folder), Counter())]
    if not found:
        ends = " ".join(image_extensions())
        raise InputError(f"{printable(str(folder))!r} holds no image, neither itself nor below; images end in {ends}")
    return sorted(found)


def iterate(images: AnyImage | Iterable[AnyImage]) -> Iterator[Any]:
    """Yield single images: of one image, a folder, a batch (an array or tensor of four dimensions) or any iterable.

    Raises:
        InputError: if it is none of these.
    """
    if isinstance(images, str | Path):
        yield from list_files(images) if Path(images).is_dir() else [images]
    elif _is_single(images):
        yield images
    else:
        if not hasattr(images, "__iter__"):
            raise InputError(f"{type(images).__name__} is no image; give {KINDS}, or several of these")
        several: Any = images
        yield from several


def as_rgb(
    image: Any, name: str, white_level: float | None = None, max_megapixels: float = MAX_MEGAPIXELS
) -> Image.Image:
    """Turn an image of any accepted kind into a Pillow image in RGB.

    Files and Pillow images are decoded as :func:`~divconq_pl.data.decoding.read_rgb` does: upright as EXIF says, gray
    of 16 bits scaled. Arrays and tensors are RGB or gray, uint8: (height, width), (height, width, 3 or 1) and
    (3 or 1, height, width).

    Args:
        image: the image.
        name: how to name it in an error, unless it is a file.
        white_level: see :func:`~divconq_pl.data.decoding.read_rgb`.
        max_megapixels: likewise.

    Raises:
        InputError: if it is of no such kind, or cannot be read; it names the image.
    """
    if isinstance(image, str | Path):
        if Path(image).is_dir():
            raise InputError(f"{printable(str(image))!r} is a folder; give it alone, not among images")
        return read_rgb(image, white_level=white_level, max_megapixels=max_megapixels)
    if hasattr(image, "read"):
        return read_rgb(image, getattr(image, "name", name), white_level=white_level, max_megapixels=max_megapixels)
    if isinstance(image, Image.Image):
        try:
            return convert_to_rgb(image, white_level)
        except Exception as error:  # a file that is decoded only now; see read_rgb
            raise InputError(f"cannot read {name}: {error}") from error
    if isinstance(image, np.ndarray | Tensor):
        return _from_values(image, name)
    raise InputError(f"{name} is a {type(image).__name__}, which is no image; give {KINDS}")


def _is_single(image: Any) -> bool:
    if isinstance(image, np.ndarray | Tensor):
        return image.ndim in (2, 3)
    return isinstance(image, Image.Image) or hasattr(image, "read")


def _from_values(image: NDArray[Any] | Tensor, name: str) -> Image.Image:
    is_tensor = isinstance(image, Tensor)
    values = image.detach().cpu().numpy() if isinstance(image, Tensor) else image
    channels_last = np.moveaxis(values, 0, -1) if is_tensor and values.ndim == 3 else values
    gray = channels_last[..., 0] if channels_last.ndim == 3 and channels_last.shape[2] == 1 else channels_last
    if values.dtype != np.uint8 or not values.size or (gray.ndim != 2 and gray.shape[2:] != (3,)):
        kind = "a tensor" if is_tensor else "an array"
        raise InputError(f"{name} is {kind} of {values.dtype}, shape {values.shape}; give {KINDS}")
    return Image.fromarray(np.ascontiguousarray(gray)).convert("RGB")
