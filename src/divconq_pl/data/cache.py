"""Decoded and resized images on disk, so that a pass over all images costs reading them."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import shutil
import struct
import warnings
import weakref
import zlib
from collections.abc import Callable
from functools import cache, partial
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import PIL.features
import torch
import torchvision
from filelock import FileLock
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from divconq_pl.data.csv_file import read_cropped_rgb, split_box
from divconq_pl.data.dataset import FileDataset, RetrievalDataset
from divconq_pl.data.parquet import find_parquet_file, read_parquet_rgb
from divconq_pl.data.transforms import CacheableTransform
from divconq_pl.errors import InputError

_FILE_OF: dict[Callable[[str], Image.Image], Callable[[str], str]] = {
    read_parquet_rgb: find_parquet_file,
    read_cropped_rgb: lambda image: split_box(image)[0],
}
"""How to find the file that holds an image, where it is not named by its path."""

_log = logging.getLogger(__name__)

FORMAT_VERSION = 2

_HEADER_SIZE = 256
_RECORD = struct.Struct("<QI")
"""The record of an image: the version of its file, 0 while there are no pixels; the CRC-32 of the pixels."""


def cache_pixels(data: RetrievalDataset, folder: str | Path) -> RetrievalDataset:
    """Keep the pixels that the fixed part of the transform gives, and compute only the rest each time.

    The pixels lie in one file, which has room for all images from the beginning and is filled as they are first asked
    for, by any number of workers and runs at once. The name of the file depends on the names of the images and the
    geometry of the transform (and the libraries that decode and resample), and each image is kept with the size and
    time of its file, so that none is ever out of date. Where the file cannot be made or filled, a warning says so
    and images are decoded each time.

    Args:
        data: images in files, under a :class:`.CacheableTransform`.
        folder: where the file goes; made if it is missing. What is in it may be deleted at any time.

    Returns:
        The same images, labels and names; each tensor is bit for bit what it is without the cache.

    Raises:
        InputError: if ``data`` is of another kind, an image cannot be read, or the geometry gives images of different
            shapes.
    """
    transform = data.transform
    if not isinstance(data, FileDataset) or not isinstance(transform, CacheableTransform):
        raise InputError(
            f"cache_dir={str(folder)!r} needs images in files and a CacheableTransform, such as image_test gives, but "
            f"got {type(data).__name__} and {type(transform).__name__}; leave cache_dir at None"
        )
    try:
        return CachedDataset(data, transform, Path(folder).expanduser())
    except OSError as error:
        warnings.warn(f"images are decoded each time, since {folder} cannot hold them: {error}", stacklevel=2)
        return data


class CachedDataset(RetrievalDataset):
    """Images whose pixels are kept; under another transform they are decoded again. Made by :func:`cache_pixels`."""

    def __init__(self, data: FileDataset, transform: CacheableTransform, folder: Path) -> None:
        super().__init__(data.targets, data.classes, transform, groups=data.groups, group_names=data.group_names)
        self._data = data
        self._rows = data._rows
        self._cached = transform
        self._versions = np.zeros(len(data._files), dtype=np.uint64)
        file_of, version = _FILE_OF.get(_unwrap(data.read), str), cache(_fingerprint)
        for row in self._rows.tolist():
            self._versions[row] = version(file_of(data._files[row]))
        shape = self._pixels(int(self._rows[0])).shape
        self._file = PixelFile(folder, shape, _describe_pixels(data, transform), self._versions)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Return the transformed image and its label."""
        is_kept = self.transform is self._cached
        if not is_kept:
            return super().__getitem__(index)
        row = int(self._rows[index])
        pixels = self._file.read(row)
        if pixels is None:
            pixels = self._pixels(row)
            if pixels.shape != self._file.shape:
                raise InputError(
                    f"the geometry of the transform gives {self._name(row)!r} the shape {tuple(pixels.shape)} and "
                    f"others {tuple(self._file.shape)}; use one that gives all the same, or leave cache_dir at None"
                )
            self._file.write(row, pixels)
        return self._cached.finish(pixels), int(self.targets[index])

    def _pixels(self, row: int) -> Tensor:
        pixels: Tensor = self._cached.geometry(self._image(row))
        if pixels.dtype != torch.uint8:
            raise InputError(f"the geometry of the transform gives {pixels.dtype}, and only torch.uint8 can be cached")
        return pixels

    def _image(self, row: int) -> Image.Image:
        return self._data._image(row)

    def _name(self, row: int) -> str:
        return self._data._name(row)


class PixelFile:
    """One file with room for the pixels of N images: a header, N records, N times the pixels.

    It is read and written without being mapped into memory, since a mapped file ends the process where the disk runs
    full or fails. A record is written after its pixels and holds their checksum, so that half an image is never used.

    Args:
        folder: the folder it lies in.
        shape: of the pixels of an image.
        description: what the pixels depend on besides the contents of the image files.
        versions: a number that changes with each image file, shape (N,); 0 where the image is not used.

    Raises:
        OSError: if the file does not exist and cannot be made.
    """

    def __init__(self, folder: Path, shape: torch.Size, description: str, versions: NDArray[np.uint64]) -> None:
        self.shape = shape
        self._versions = versions
        key = hashlib.sha256(f"{len(versions)} {shape} {description}".encode()).hexdigest()
        self.path = folder / f"pixels-{key[:16]}.cache"
        header = {"images": len(versions), "shape": list(shape), "sha256 of what they are": key}
        self._header = json.dumps(header).encode().ljust(_HEADER_SIZE)
        self._first = _HEADER_SIZE + _RECORD.size * len(versions)
        self._size = self._first + prod(shape) * len(versions)
        self._reported: set[str] = set()
        if not hasattr(os, "pread"):
            raise OSError("this system cannot read from a position in a file")
        if not self._is_whole():
            folder.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{self.path}.lock"):
                if not self._is_whole():  # no other process has made it meanwhile
                    self._make()
        self._writable, self._descriptor = self._open()
        self._report_changes()

    def read(self, row: int) -> Tensor | None:
        """Return the pixels of an image, uint8; None if they are not there or out of date."""
        try:
            record = os.pread(self._descriptor, _RECORD.size, self._record_at(row))
            if len(record) < _RECORD.size:
                return None
            version, checksum = _RECORD.unpack(record)
            if version != int(self._versions[row]):
                return None
            pixels = bytearray(os.pread(self._descriptor, prod(self.shape), self._pixels_at(row)))
        except OSError as error:
            self._report(f"cannot be read ({error})")
            return None
        if zlib.crc32(pixels) != checksum:
            self._report("has damaged pixels")
            return None
        return torch.frombuffer(pixels, dtype=torch.uint8).view(self.shape)

    def write(self, row: int, pixels: Tensor) -> None:
        """Keep the pixels of an image."""
        if not self._writable:
            return
        content = pixels.contiguous().numpy().tobytes()
        record = _RECORD.pack(int(self._versions[row]), zlib.crc32(content))
        try:
            for part, at in ((content, self._pixels_at(row)), (record, self._record_at(row))):
                if os.pwrite(self._descriptor, part, at) < len(part):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            self._writable = False
            warnings.warn(f"images are decoded each time, since {self.path} cannot be filled: {error}", stacklevel=2)

    def _record_at(self, row: int) -> int:
        return _HEADER_SIZE + _RECORD.size * row

    def _pixels_at(self, row: int) -> int:
        return self._first + prod(self.shape) * row

    def _is_whole(self) -> bool:
        try:
            with self.path.open("rb") as file:
                if file.read(_HEADER_SIZE) == self._header and os.fstat(file.fileno()).st_size == self._size:
                    return True
        except FileNotFoundError:
            return False
        self._report("is damaged and made anew")
        return False

    def _make(self) -> None:
        if (free := shutil.disk_usage(self.path.parent).free) < self._size:
            needed, left = tqdm.format_sizeof(self._size, "B"), tqdm.format_sizeof(free, "B")
            raise OSError(errno.ENOSPC, f"{needed} are needed and {left} are free")
        temporary = self.path.with_suffix(".tmp")
        try:
            with temporary.open("wb") as file:
                file.write(self._header)
                file.flush()
                if hasattr(os, "posix_fallocate"):  # says at once whether there is room
                    os.posix_fallocate(file.fileno(), 0, self._size)
                file.truncate(self._size)
            os.replace(temporary, self.path)
        finally:
            temporary.unlink(missing_ok=True)

    def _open(self) -> tuple[bool, int]:
        writable = os.access(self.path, os.W_OK)
        descriptor = os.open(self.path, os.O_RDWR if writable else os.O_RDONLY)
        weakref.finalize(self, os.close, descriptor)
        return writable, descriptor

    def _report_changes(self) -> None:
        records = os.pread(self._descriptor, _RECORD.size * len(self._versions), _HEADER_SIZE)
        kept = np.frombuffer(records, dtype=[("version", "<u8"), ("checksum", "<u4")])["version"]
        if changed := int(((kept != self._versions) & (kept != 0) & (self._versions != 0)).sum()):
            _log.warning("%d images changed since they came into %s; they are decoded again", changed, self.path)

    def _report(self, what: str) -> None:
        if what not in self._reported:
            self._reported.add(what)
            _log.warning("%s %s; the images are decoded again", self.path, what)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_descriptor": -1}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._writable, self._descriptor = self._open()


def _fingerprint(file: str) -> int:
    try:
        status = os.stat(file)
    except OSError as error:
        raise InputError(f"cannot read {file!r}: {error}") from error
    digest = hashlib.blake2b(f"{status.st_size} {status.st_mtime_ns}".encode(), digest_size=8)
    return int.from_bytes(digest.digest(), "little") or 1


def _describe_pixels(data: FileDataset, transform: CacheableTransform) -> str:
    """Name all that pixels depend on besides the contents of the files."""
    names = hashlib.sha256("\0".join(os.path.abspath(file) for file in data._files).encode(errors="surrogateescape"))
    libraries = [torch.__version__, torchvision.__version__, PIL.__version__, PIL.features.version("jpg")]
    options = data.read.keywords if isinstance(data.read, partial) else {}
    reader = f"{type(data).__qualname__} {_unwrap(data.read).__qualname__} {sorted(options.items())}"
    return f"{FORMAT_VERSION} {reader} {names.hexdigest()} {transform.geometry!r} {libraries}"


def _unwrap(read: Callable[[str], Image.Image]) -> Callable[..., Image.Image]:
    return read.func if isinstance(read, partial) else read
