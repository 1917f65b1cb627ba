"""Data sets that are rendered from characters, and kept on disk so that each is drawn once."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
import warnings
from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar, NamedTuple

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import features

from divconq_pl.data.dataset import ArrayDataset, Splits
from divconq_pl.data.splitting import split_by_class
from divconq_pl.errors import InputError
from divconq_pl.files import write_atomically

_log = logging.getLogger(__name__)


class Rendered(NamedTuple):
    """N images of characters, uint8, shape (N, size, size), with the code point and the face of each, shape (N,).

    A face is an index into ``divconq_pl.data.characters.FACES``.
    """

    images: NDArray[np.uint8]
    codes: NDArray[np.int64]
    faces: NDArray[np.int64]


class RenderedImages(ABC):
    """Render characters, keep the images, and split them by class.

    Each image has one fixed rotation, scale and shift. The same arguments give the same images in any process. They are
    kept in one file; where that cannot be written, in memory only.

    Args:
        cache_dir: the folder for that file, which may be deleted at any time; by default :func:`.cache_folder`.
        num_classes: number of classes over all parts; None for all that there are.
        rotation: largest rotation in degrees, to either side.
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

    name: ClassVar[str]
    """What is rendered, with which the name of the file begins."""
    format_version: ClassVar[int]
    """To be raised with every change of how it is rendered."""
    drawn_from: ClassVar[tuple[str, ...]]
    """The arguments that the images depend on."""

    def __init__(
        self,
        cache_dir: str | Path | None = None,
        *,
        num_classes: int | None,
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
        if num_classes is not None and num_classes < 4:
            raise InputError(f"num_classes={num_classes} is too few to train and test on; use 4 or more")
        self.cache_dir = cache_folder() if cache_dir is None else Path(cache_dir).expanduser()
        self.num_classes = num_classes
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
        return self.cache_dir / f"{self.name}-{hashlib.sha256(self._header.encode()).hexdigest()[:16]}.npz"

    def splits(self) -> Splits:
        """Return training, validation and test part, disjoint in their classes.

        Raises:
            InputError: if there are not enough characters, or too few classes for the split.
        """
        return split_by_class(
            self._label(self._load()),
            self.val_fraction,
            self.test_fraction,
            fold=self.fold,
            num_folds=self.num_folds,
            seed=self.seed,
        )

    @abstractmethod
    def _render(self) -> Rendered:
        """Draw all images."""

    @abstractmethod
    def _label(self, rendered: Rendered) -> ArrayDataset:
        """Say of which class each image is."""

    @property
    def _header(self) -> str:
        arguments = {name: getattr(self, name) for name in self.drawn_from}
        # FreeType and the typefaces come with Pillow and matplotlib.
        libraries = {"matplotlib": matplotlib.__version__, "freetype": features.version("freetype2")}
        return json.dumps({"version": self.format_version, **arguments, **libraries})

    def _load(self) -> Rendered:
        """Read the file; if it is missing or cannot be used, render the images and write it."""
        if self.cache_file.is_file():
            try:
                return self._read()
            except Exception as error:  # the archive may be damaged anywhere, so anything may come up
                _log.warning("%s cannot be used (%s); rendering the %s again", self.cache_file, error, self.name)
        rendered = self._render()
        try:
            header = np.array(self._header)
            write_atomically(self.cache_file, lambda file: np.savez(file, header=header, **rendered._asdict()))
        except OSError as error:
            warnings.warn(f"the {self.name} are kept in memory only: {error}", stacklevel=4)
        return rendered

    def _read(self) -> Rendered:
        with self.cache_file.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            if str(archive["header"]) != self._header:
                raise ValueError("made by another version or for other arguments")
            # Reading an entry to its end checks its CRC-32.
            return Rendered(archive["images"], archive["codes"], archive["faces"])


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
