"""From an image file to RGB, as a viewer shows it."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image

from divconq_pl.errors import InputError

try:
    from pillow_heif import register_heif_opener
except ImportError:  # the extra heic
    pass
else:
    register_heif_opener()

MAX_MEGAPIXELS = 179.0
"""The largest image that is read unless asked for, which is about Pillow's own limit."""

FORMATS = {"AVIF", "BMP", "DIB", "GIF", "HEIF", "JPEG", "JPEG2000", "PNG", "PPM", "QOI", "TGA", "TIFF", "WEBP"}
"""The file formats that hold pictures, as Pillow calls them."""

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What shows an image upright, by its orientation in EXIF."""

_PHOTOMETRIC = 262  # the tag of TIFF whose value 0 says that 0 is white
_RANGES = (1, 255, 1023, 4095, 16383, 65535)

_lifting = threading.Lock()


class UnreadableImageError(InputError):
    """Name an image that is missing, damaged, or whose values have no known meaning."""


def image_extensions() -> tuple[str, ...]:
    """List in lower case how the names of images end that the Pillow at hand can decode."""
    known = Image.registered_extensions()
    return tuple(sorted(end for end, kind in known.items() if kind in FORMATS and kind in Image.OPEN))


def printable(name: str) -> str:
    r"""Return a name in which bytes that are not UTF-8 are written as ``\xe9``, so that any file can hold it.

    Example:
        >>> printable(b"caf\xe9".decode(errors="surrogateescape"))
        'caf\\xe9'
    """
    return name.encode(errors="surrogateescape").decode(errors="backslashreplace")


def name_extra(endings: Iterable[str]) -> str:
    """Say what to install where endings of files are of a format that only an extra reads; empty where none is.

    Example:
        >>> name_extra([".mp4"])
        ''
    """
    lacking = {".heic", ".heif"} & set(endings) - set(image_extensions())
    return f'pip install "divconq-pl[heic]" to read {" ".join(sorted(lacking))}' if lacking else ""


def read_rgb(
    file: str | Path | BinaryIO,
    name: str | None = None,
    *,
    white_level: float | None = None,
    max_megapixels: float = MAX_MEGAPIXELS,
) -> Image.Image:
    """Decode an image file to RGB of 8 bits, as a viewer shows it.

    It is turned as its EXIF orientation says. Gray of more than 8 bits is scaled linearly, from 0 to what is white by
    the file's format. Of an animation the first frame is taken; transparent pixels keep their own colour.

    Args:
        file: path of the file, or the open file.
        name: how to name it in an error; by default its path.
        white_level: the value that is white in gray images of more than 8 bits; higher ones are white, too. Needed for
            whole numbers of 32 bits and for floating point, of which no format says it.
        max_megapixels: the largest image to read; a small file may claim to be a huge one.

    Raises:
        UnreadableImageError: if the file is missing, damaged, no image, too large, or nothing says which value is
            white; it names the file.
    """
    try:
        with open_image(file, max_megapixels) as image:
            return convert_to_rgb(image, white_level)
    except Exception as error:  # each of Pillow's decoders fails in its own way, from OSError to struct.error
        shown = printable(name or str(file))
        hint = name_extra([Path(shown).suffix.lower()])
        raise UnreadableImageError(f"cannot read the image '{shown}': {hint or error}") from error


def convert_to_rgb(image: Image.Image, white_level: float | None = None) -> Image.Image:
    """Convert an opened image to RGB of 8 bits, as :func:`read_rgb` does.

    Raises:
        ValueError: if nothing says which value is white; Pillow raises others.
    """
    white, inverted = white_level or find_white_level(image), is_white_zero(image)
    if white_level not in (None, 65535) and is_wide_colour(image):
        level = f"white_level={white_level:g}"
        raise ValueError(f"it has several channels of 16 bits, and {level} is for gray; convert it to 8 bits")
    image.load()
    upright = _turn_upright(image)
    if image.mode[0] in "IF":
        return _scale_gray(np.asarray(upright), white, inverted)
    if image.mode == "P" and "transparency" in image.info:  # Pillow would warn of what is lost
        return upright.convert("RGBA").convert("RGB")
    return upright.convert("RGB")


def check_limits(white_level: float | None, max_megapixels: float) -> None:
    """Refuse values that :func:`read_rgb` cannot take.

    Raises:
        InputError: it names the value.
    """
    for name, value in (("white_level", white_level), ("max_megapixels", max_megapixels)):
        if value is not None and not value > 0:
            raise InputError(f"{name}={value} must be above 0")


@contextmanager
def open_image(file: str | Path | BinaryIO, max_megapixels: float = MAX_MEGAPIXELS) -> Iterator[Image.Image]:
    """Open an image without decoding its pixels.

    Raises:
        ValueError: if it is larger than allowed; Pillow raises others.
    """
    try:
        image = Image.open(file)
    except Image.DecompressionBombError:
        if not isinstance(file, str | Path):
            file.seek(0)
        with _lifting:  # Pillow's limit is one for the whole process
            limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            try:
                image = Image.open(file)
            finally:
                Image.MAX_IMAGE_PIXELS = limit
    with image:
        if (size := image.width * image.height / 1e6) > max_megapixels:
            raise ValueError(
                f"it has {size:.1f} megapixels; use max_megapixels={-(-size // 1):.0f} to read more than "
                f"{max_megapixels:g}"
            )
        yield image


def find_white_level(image: Image.Image) -> float | None:
    """Return which value is white in an opened gray image of more than 8 bits, by its format; None if that is open."""
    raw = _raw_mode(image)
    if raw.startswith("I;12"):
        return 4095
    is_stretched = image.mode == "I" and image.format == "PPM"  # by Pillow, from the file's own maximum
    is_unsigned = raw.startswith("I;16") and not raw.endswith("S")
    return 65535 if is_stretched or is_unsigned or image.mode.startswith("I;16") else None


def is_wide_colour(image: Image.Image) -> bool:
    """Tell whether an opened image has colours of 16 bits, of which Pillow reads the upper 8."""
    return ";16" in _raw_mode(image) and image.mode[0] not in "IF"


def is_white_zero(image: Image.Image) -> bool:
    """Tell whether an opened TIFF of more than 8 bits says that 0 is white, which Pillow leaves to us."""
    return getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == 0


def _raw_mode(image: Image.Image) -> str:
    """Return how pixels lie in the file, as Pillow calls it, such as ``I;16B``; empty where it does not say."""
    tiles = getattr(image, "tile", None)
    arguments = tiles[0][3] if tiles else ""
    return str(arguments[0] if isinstance(arguments, tuple) and arguments else arguments)


def _turn_upright(image: Image.Image) -> Image.Image:
    try:
        turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # a damaged block of EXIF, which viewers pass over, fails in as many ways as an image
        return image
    return image if turn is None else image.transpose(turn)


def _scale_gray(values: np.ndarray, white: float | None, inverted: bool) -> Image.Image:
    low, high = float(values.min()), float(values.max())
    if not 0 <= low <= high < float("inf"):
        raise ValueError(f"its values run from {low:g} to {high:g}; only such from 0 on can be read")
    if white is None:
        guess = next((white for white in _RANGES if high <= white), high)
        raise ValueError(
            f"its values, {low:g} to {high:g}, are {values.dtype}, of which nothing says what is white; give it, such "
            f"as dataset.white_level={guess:g}"
        )
    scaled = np.clip(values.astype(np.float32) * (255 / white) + 0.5, 0, 255).astype(np.uint8)
    return Image.fromarray(255 - scaled if inverted else scaled).convert("RGB")
