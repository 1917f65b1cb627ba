"""Rendered images on disk, so that each is drawn once."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import features

_log = logging.getLogger(__name__)


class Rendered(NamedTuple):
    """N images of characters, uint8, shape (N, size, size), with the code point and the face of each, shape (N,).

    A face is an index into ``divconq_pl.data.characters.FACES``.
    """

    images: NDArray[np.uint8]
    codes: NDArray[np.int64]
    faces: NDArray[np.int64]


class RenderingCache:
    """Keep rendered images in one file; where that cannot be written, in memory only.

    Args:
        folder: where the file goes; made if it is missing. What is in it may be deleted at any time.
        name: what is rendered, with which the file's name begins: ``"glyphs"``.
        made_from: all that the images depend on, besides the libraries that draw. Other values have another file.

    Attributes:
        file: the file.
    """

    def __init__(self, folder: Path, name: str, made_from: Mapping[str, object]) -> None:
        # FreeType and the typefaces come with Pillow and matplotlib.
        libraries = {"matplotlib": matplotlib.__version__, "freetype": features.version("freetype2")}
        self._header = json.dumps({**made_from, **libraries})
        self._name = name
        self.file = folder / f"{name}-{hashlib.sha256(self._header.encode()).hexdigest()[:16]}.npz"

    def load(self, render: Callable[[], Rendered]) -> Rendered:
        """Read the file; if it is missing or cannot be used, render the images and write it."""
        if self.file.is_file():
            try:
                return self._read()
            except Exception as error:  # the archive may be damaged anywhere, so anything may come up
                _log.warning("%s cannot be used (%s); rendering the %s again", self.file, error, self._name)
        rendered = render()
        try:
            self._write(rendered)
        except OSError as error:
            folder = self.file.parent
            warnings.warn(
                f"the {self._name} are kept in memory only, {folder} cannot be written: {error}", stacklevel=4
            )
        return rendered

    def _read(self) -> Rendered:
        with self.file.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            if str(archive["header"]) != self._header:
                raise ValueError("made by another version or for other arguments")
            # Reading an entry to its end checks its CRC-32.
            rendered = Rendered(archive["images"], archive["codes"], archive["faces"])
        if not len(rendered.images) == len(rendered.codes) == len(rendered.faces):
            raise ValueError(f"unexpected shape {rendered.images.shape}")
        return rendered

    def _write(self, rendered: Rendered) -> None:
        folder = self.file.parent
        folder.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=folder, prefix=self.file.stem, suffix=".tmp")
        try:
            with os.fdopen(handle, "wb") as file:
                np.savez(file, header=np.array(self._header), **rendered._asdict())
            os.replace(temporary, self.file)  # so that no other process ever sees half a file
        except BaseException:
            os.unlink(temporary)
            raise


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
