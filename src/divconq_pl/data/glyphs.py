"""Unicode glyphs: a retrieval data set that is rendered from matplotlib's typefaces, with nothing to download.

A class is a character, its images are the typefaces that cover it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
import tempfile
import unicodedata
import warnings
from collections import Counter
from functools import cache
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
import torch
from matplotlib.ft2font import FT2Font
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, features
from tqdm import tqdm

from divconq_pl.data.dataset import ArrayDataset, Splits
from divconq_pl.data.splitting import split_by_class
from divconq_pl.errors import InputError

_log = logging.getLogger(__name__)

FORMAT_VERSION = 1

# matplotlib's other typefaces are left out on purpose: they put boxes or other symbols where a character belongs.
REGULAR_FACES = ("DejaVuSans", "DejaVuSansMono", "DejaVuSerif", "STIXGeneral")
FACES = (
    *(f"DejaVuSans{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSansMono{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSerif{style}" for style in ("", "-Bold", "-Italic", "-BoldItalic")),
    *(f"STIXGeneral{style}" for style in ("", "Italic", "Bol", "BolIta")),
)
MIN_FACES = 12

# Shares of the image size: the em, and the margin that ink never enters.
_EM, _MARGIN = 0.9, 1 / 32
_SCALES, _SHIFT = (0.85, 1.0), 1 / 32
_OVERSAMPLING = 2


class _Rendered(NamedTuple):
    """Images with the code point and the face (index into FACES) of each."""

    images: NDArray[np.uint8]
    codes: NDArray[np.int64]
    faces: NDArray[np.int64]


class Glyphs:
    """Render characters as a retrieval data set: class = character, instance = typeface.

    Classes are drawn at random among the letters, numbers, symbols and punctuation that 12 of the 16 faces cover, so
    that scripts are mixed; of characters that look the same (A, Greek Alpha, Cyrillic A) only the first is used. Each
    image is white on black and has one fixed rotation, scale and shift. The same arguments give the same images in any
    process. They are kept in a cache folder; where that cannot be written, in memory only.

    Args:
        root: the cache folder; by default :func:`cache_folder`.
        num_classes: number of characters over all parts; None for all, about 2,100.
        images_per_class: upper bound on the images of a class, drawn at random; None for all, 12 to 16.
        rotation: largest rotation in degrees, to either side. With 180 the orientation becomes a strong latent factor
            (and a rotated 6 a 9).
        size: height and width of the images in pixels.
        val_fraction: share of the classes for validation, 0 for none.
        test_fraction: share of the classes for the test.
        fold: for cross-validation, in place of ``val_fraction``: which of ``num_folds`` equal shares of the classes
            that are not for the test is for validation.
        num_folds: number of folds.
        seed: seed of all draws.

    Raises:
        InputError: for arguments out of range.
    """

    def __init__(
        self,
        root: str | Path | None = None,
        *,
        num_classes: int | None = 1000,
        images_per_class: int | None = None,
        rotation: float = 15.0,
        size: int = 32,
        val_fraction: float = 0.2,
        test_fraction: float = 0.3,
        fold: int | None = None,
        num_folds: int = 4,
        seed: int = 0,
    ) -> None:
        if not 0 <= rotation <= 180:
            raise InputError(f"rotation={rotation} is out of range; use 0 to 180 degrees")
        if size < 8:
            raise InputError(f"size={size} is too small to tell characters apart; use 8 pixels or more")
        if images_per_class is not None and images_per_class < 2:
            raise InputError(f"images_per_class={images_per_class} leaves no pair of a class; use 2 or more")
        if num_classes is not None and num_classes < 4:
            raise InputError(f"num_classes={num_classes} is too few to train and test on; use 4 or more")
        self.root = cache_folder() if root is None else Path(root).expanduser()
        self.num_classes = num_classes
        self.images_per_class = images_per_class
        self.rotation = float(rotation)
        self.size = size
        self.val_fraction = val_fraction
        self.test_fraction = test_fraction
        self.fold = fold
        self.num_folds = num_folds
        self.seed = seed

    @property
    def cache_file(self) -> Path:
        """Where the images are kept; the name depends on all that they depend on."""
        return self.root / f"glyphs-{hashlib.sha256(self._header.encode()).hexdigest()[:16]}.npz"

    def splits(self) -> Splits:
        """Return training, validation and test part, disjoint in their classes.

        Raises:
            InputError: if there are not as many characters, or too few for the split.
        """
        rendered = self._load()
        codes = list(dict.fromkeys(rendered.codes.tolist()))
        label = {code: i for i, code in enumerate(codes)}
        names = [f"U+{code:04X} {unicodedata.name(chr(code))}" for code in codes]
        data = ArrayDataset(
            rendered.images,
            torch.tensor([label[code] for code in rendered.codes.tolist()]),
            names,
            origins=[FACES[face] for face in rendered.faces.tolist()],
        )
        return split_by_class(
            data,
            self.val_fraction,
            self.test_fraction,
            fold=self.fold,
            num_folds=self.num_folds,
            seed=self.seed,
        )

    @property
    def _header(self) -> str:
        """All that the images depend on; FreeType and the typefaces come with Pillow and matplotlib."""
        return json.dumps(
            {
                "version": FORMAT_VERSION,
                "num_classes": self.num_classes,
                "images_per_class": self.images_per_class,
                "rotation": self.rotation,
                "size": self.size,
                "seed": self.seed,
                "matplotlib": matplotlib.__version__,
                "freetype": features.version("freetype2"),
            }
        )

    def _load(self) -> _Rendered:
        if self.cache_file.is_file():
            try:
                return self._read()
            except Exception as error:  # the archive may be damaged anywhere, so anything may come up
                _log.warning("%s cannot be used (%s); rendering the glyphs again", self.cache_file, error)
        rendered = self._render()
        try:
            self._write(rendered)
        except OSError as error:
            warnings.warn(f"the glyphs are kept in memory only, {self.root} cannot be written: {error}", stacklevel=3)
        return rendered

    def _read(self) -> _Rendered:
        with self.cache_file.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            if str(archive["header"]) != self._header:
                raise ValueError("made by another version or for other arguments")
            # Reading an entry to its end checks its CRC-32.
            rendered = _Rendered(archive["images"], archive["codes"], archive["faces"])
        n = len(rendered.codes)
        if rendered.images.shape != (n, self.size, self.size) or rendered.faces.shape != (n,):
            raise ValueError(f"unexpected shape {rendered.images.shape}")
        return rendered

    def _write(self, rendered: _Rendered) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=self.root, prefix=self.cache_file.stem, suffix=".tmp")
        try:
            with os.fdopen(handle, "wb") as file:
                np.savez(file, header=np.array(self._header), **rendered._asdict())
            os.replace(temporary, self.cache_file)  # so that no other process ever sees half a file
        except BaseException:
            os.unlink(temporary)
            raise

    def _render(self) -> _Rendered:
        available = characters()
        n = len(available) if self.num_classes is None else self.num_classes
        if n > len(available):
            raise InputError(f"num_classes={n}, but there are {len(available)} characters; use at most as many")
        fonts = [_font(face, round(_EM * self.size * _OVERSAMPLING)) for face in FACES]
        drawn = np.random.default_rng(self.seed).permutation(available)[:n]
        images, codes, faces = [], [], []
        for code in tqdm(drawn.tolist(), desc="Rendering glyphs", unit="class", disable=None):
            covered = {f: glyph for f, font in enumerate(fonts) if (glyph := _ink(FACES[f], font, code)) is not None}
            rng = np.random.default_rng([self.seed, code])
            jitter = rng.uniform(-1, 1, size=(len(FACES), 4))
            chosen = list(covered)
            if self.images_per_class is not None:
                keep = np.random.default_rng([self.seed, code, 1]).permutation(len(chosen))[: self.images_per_class]
                chosen = [chosen[i] for i in sorted(keep)]
            for f in chosen:
                images.append(_place(covered[f], self.size, self.rotation, jitter[f]))
                codes.append(code)
                faces.append(f)
        return _Rendered(np.stack(images), np.array(codes, dtype=np.int64), np.array(faces, dtype=np.int64))


@cache
def characters() -> list[int]:
    """Return the code points that can be classes, ascending, the first of each group of look-alikes.

    Two characters are look-alikes if a regular face draws them with the same ink.
    """
    counts = Counter(code for face in FACES for code in _covered(face))
    fonts = {face: _font(face, 48) for face in REGULAR_FACES}
    seen: set[tuple[str, tuple[int, int], bytes]] = set()
    found = []
    for code in sorted(code for code, count in counts.items() if count >= MIN_FACES):
        if unicodedata.category(chr(code))[0] not in "LNSP":
            continue
        drawn = {face: _ink(face, font, code) for face, font in fonts.items()}
        looks = {(face, glyph.size, glyph.tobytes()) for face, glyph in drawn.items() if glyph is not None}
        if looks and not looks & seen:
            found.append(code)
        seen |= looks
    return found


def cache_folder() -> Path:
    """Return the folder for data that can be made again: ``$DIVCONQ_CACHE``, or the platform's place for caches."""
    if given := os.environ.get("DIVCONQ_CACHE"):
        return Path(given).expanduser()
    home = Path(os.path.expanduser("~"))
    if given := os.environ.get("XDG_CACHE_HOME"):
        base = Path(given)
    elif sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = home / "Library" / "Caches"
    else:
        base = home / ".cache"
    return base / "divconq_pl"


def _path(face: str) -> str:
    return str(Path(matplotlib.get_data_path(), "fonts", "ttf", f"{face}.ttf"))


@cache
def _covered(face: str) -> frozenset[int]:
    return frozenset(FT2Font(_path(face)).get_charmap())


def _font(face: str, pixels: int) -> ImageFont.FreeTypeFont:
    # The basic layout is the one that every build of Pillow has.
    return ImageFont.truetype(_path(face), pixels, layout_engine=ImageFont.Layout.BASIC)


def _ink(face: str, font: ImageFont.FreeTypeFont, code: int) -> Image.Image | None:
    """Draw a character, cropped to its ink; None if the face does not cover it or leaves it blank."""
    if code not in _covered(face):
        return None
    left, top, right, bottom = map(int, font.getbbox(chr(code)))
    pad = 4  # a slanted or hinted glyph may leave its box
    image = Image.new("L", (max(1, right - left) + 2 * pad, max(1, bottom - top) + 2 * pad))
    ImageDraw.Draw(image).text((pad - left, pad - top), chr(code), fill=255, font=font)
    box = image.getbbox()
    return image.crop(box) if box else None


def _place(ink: Image.Image, size: int, rotation: float, jitter: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Put a glyph near the middle of an image, without cutting it.

    Args:
        ink: the glyph at twice the scale.
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
