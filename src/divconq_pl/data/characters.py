"""Characters in matplotlib's typefaces: which there are, and how one is drawn."""

from __future__ import annotations

import unicodedata
from collections import Counter
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.ft2font import FT2Font
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

# matplotlib's other typefaces are left out on purpose: they put boxes or other symbols where a character belongs.
REGULAR_FACES = ("DejaVuSans", "DejaVuSansMono", "DejaVuSerif", "STIXGeneral")
FACES = (
    *(f"DejaVuSans{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSansMono{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSerif{style}" for style in ("", "-Bold", "-Italic", "-BoldItalic")),
    *(f"STIXGeneral{style}" for style in ("", "Italic", "Bol", "BolIta")),
)

# Shares of the image size: the em, and the margin that ink never enters.
_EM, _MARGIN = 0.9, 1 / 32
_SCALES, _SHIFT = (0.85, 1.0), 1 / 32
_OVERSAMPLING = 2


@cache
def characters(min_faces: int) -> list[int]:
    """Return the code points that can be told apart, ascending, the first of each group of look-alikes.

    They are letters, numbers, symbols and punctuation. Two characters are look-alikes if a regular face draws them with
    the same ink, such as A, Greek Alpha and Cyrillic A.

    Args:
        min_faces: how many of the 16 faces must cover a character.
    """
    counts = Counter(code for face in FACES for code in _covered(face))
    fonts = {face: load_font(face, 48) for face in REGULAR_FACES}
    seen: set[tuple[str, tuple[int, int], bytes]] = set()
    found = []
    for code in sorted(code for code, count in counts.items() if count >= min_faces):
        if unicodedata.category(chr(code))[0] not in "LNSP":
            continue
        drawn = {face: draw(face, font, code) for face, font in fonts.items()}
        looks = {(face, glyph.size, glyph.tobytes()) for face, glyph in drawn.items() if glyph is not None}
        if looks and not looks & seen:
            found.append(code)
        seen |= looks
    return found


def name_of(code: int) -> str:
    """Return the number and name of a character.

    Example:
        >>> name_of(ord("A"))
        'U+0041 LATIN CAPITAL LETTER A'
    """
    return f"U+{code:04X} {unicodedata.name(chr(code))}"


def load_fonts(size: int) -> list[ImageFont.FreeTypeFont]:
    """Return the 16 faces at the scale that :func:`place` expects for images of ``size`` pixels."""
    return [load_font(face, round(_EM * size * _OVERSAMPLING)) for face in FACES]


def draw_in_all(fonts: list[ImageFont.FreeTypeFont], code: int) -> dict[int, Image.Image]:
    """Draw a character in each face that covers it.

    Args:
        fonts: as :func:`load_fonts` gives them.
        code: code point of the character.

    Returns:
        From the index of a face in ``FACES`` to the character, cropped to its ink.
    """
    drawn = ((face, draw(FACES[face], font, code)) for face, font in enumerate(fonts))
    return {face: glyph for face, glyph in drawn if glyph is not None}


def load_font(face: str, pixels: int) -> ImageFont.FreeTypeFont:
    """Return a face whose em is ``pixels`` high."""
    # The basic layout is the one that every build of Pillow has.
    return ImageFont.truetype(_path(face), pixels, layout_engine=ImageFont.Layout.BASIC)


def draw(face: str, font: ImageFont.FreeTypeFont, code: int) -> Image.Image | None:
    """Draw a character in white on black, cropped to its ink; None if the face does not cover it or leaves it blank."""
    if code not in _covered(face):
        return None
    left, top, right, bottom = map(int, font.getbbox(chr(code)))
    pad = 4  # a slanted or hinted glyph may leave its box
    image = Image.new("L", (max(1, right - left) + 2 * pad, max(1, bottom - top) + 2 * pad))
    ImageDraw.Draw(image).text((pad - left, pad - top), chr(code), fill=255, font=font)
    box = image.getbbox()
    return image.crop(box) if box else None


def place(ink: Image.Image, size: int, rotation: float, jitter: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Put a character near the middle of an image, without cutting it.

    Args:
        ink: the character at twice the scale.
        size: size of the image.
        rotation: largest rotation in degrees.
        jitter: what it gets of the largest rotation, scale, shift to the right and shift down, each in [-1, 1].

    Returns:
        The image, uint8, shape (size, size).
    """
    angle = np.deg2rad(rotation * jitter[0])
    cos, sin = np.cos(angle), np.sin(angle)
    canvas = size * _OVERSAMPLING
    room = canvas * (1 - 2 * _MARGIN)
    width, height = ink.width * abs(cos) + ink.height * abs(sin), ink.width * abs(sin) + ink.height * abs(cos)
    scale = min(np.interp(jitter[1], (-1, 1), _SCALES), room / width, room / height)
    slack = np.clip((room - scale * np.array([width, height])) / 2, 0, _SHIFT * canvas)
    x, y = canvas / 2 + jitter[2:] * slack
    # Image.transform wants the way back: from a pixel of the canvas to the one of the glyph.
    a, b, c, d = cos / scale, sin / scale, -sin / scale, cos / scale
    pad = 2  # for the interpolation at the edges of the ink
    source = Image.new("L", (ink.width + 2 * pad, ink.height + 2 * pad))
    source.paste(ink, (pad, pad))
    shift_x, shift_y = source.width / 2 - a * x - b * y, source.height / 2 - c * x - d * y
    placed = source.transform(
        (canvas, canvas), Image.Transform.AFFINE, (a, b, shift_x, c, d, shift_y), Image.Resampling.BICUBIC
    )
    return np.asarray(placed.reduce(_OVERSAMPLING))


def _path(face: str) -> str:
    return str(Path(matplotlib.get_data_path(), "fonts", "ttf", f"{face}.ttf"))


@cache
def _covered(face: str) -> frozenset[int]:
    return frozenset(FT2Font(_path(face)).get_charmap())
