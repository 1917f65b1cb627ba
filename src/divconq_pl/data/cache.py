"""Decoded and resized images on disk, so that a pass over all images costs reading them."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import struct
import warnings
import zlib
from collections.abc import Callable, Iterable
from functools import cache, partial
from math import prod
from pathlib import Path

import numpy as np
import PIL.features
import torch
import torchvision
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

FORMAT_VERSION = 3

_RECORD = struct.Struct("<QI")
"""What precedes the pixels of an image: the version of the file they come from, and their CRC-32."""


def cache_pixels(data: RetrievalDataset, folder: str | Path) -> RetrievalDataset:
    """Keep the pixels that the fixed part of the transform gives, and compute only the rest each time.

    Each image has a file, which is written when it is first asked for, by any number of workers and runs at once. The
    geometry of the transform (and the libraries that decode and resample) has a folder of its own, and pixels are kept
    with the size and time of the image's file, by which an edited image is noticed. Where the folder cannot be made or
    filled, a warning says so and images are decoded each time.

    Args:
        data: images in files, under a :class:`.CacheableTransform`.
        folder: where the files go; made if it is missing. What is in it may be deleted at any time.

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
        self._shape = self._pixels(int(self._rows[0])).shape
        self._kept = PixelFolder(folder / _name_folder(data, transform, self._shape), self._shape, data.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Return the transformed image and its label."""
        if self.transform is not self._cached:
            return super().__getitem__(index)
        row = int(self._rows[index])
        image, version = self._data._files[row], int(self._versions[row])
        pixels = self._kept.read(image, version)
        if pixels is None:
            pixels = self._pixels(row)
            if pixels.shape != self._shape:
                raise InputError(
                    f"the geometry of the transform gives {self._name(row)!r} the shape {tuple(pixels.shape)} and "
                    f"others {tuple(self._shape)}; use one that gives all the same, or leave cache_dir at None"
                )
            self._kept.write(image, version, pixels)
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


class PixelFolder:
    """A folder with a file for the pixels of each image: the version of the image, a checksum, the pixels.

    By the checksum a file that is half written is never used, so processes may write the same one without waiting for
    each other.

    Args:
        folder: the folder; made if it is missing.
        shape: of the pixels of an image.
        images: the names of all images that are to be kept.

    Raises:
        OSError: if the folder cannot be made, or the disk has no room for all images.
    """

    def __init__(self, folder: Path, shape: torch.Size, images: Iterable[str]) -> None:
        self._folder = folder
        self._shape = shape
        self._is_writable = True
        folder.mkdir(parents=True, exist_ok=True)
        there = set(os.listdir(folder))
        needed = sum(_name_file(image) not in there for image in images) * (_RECORD.size + prod(shape))
        if (free := shutil.disk_usage(folder).free) < needed:
            sizes = [tqdm.format_sizeof(size, "B") for size in (needed, free)]
            raise OSError(errno.ENOSPC, "{} are needed and {} are free".format(*sizes))

    def read(self, image: str, version: int) -> Tensor | None:
        """Return the pixels of an image, uint8; None if they are not there, damaged or of another version."""
        try:
            content = np.fromfile(self._folder / _name_file(image), np.uint8, _RECORD.size + prod(self._shape))
        except OSError:  # there is none, or the next write says why
            return None
        record, pixels = content[: _RECORD.size], content[_RECORD.size :]
        if pixels.size != prod(self._shape) or record.tobytes() != _RECORD.pack(version, zlib.crc32(pixels.data)):
            return None
        return torch.from_numpy(pixels).view(self._shape)

    def write(self, image: str, version: int, pixels: Tensor) -> None:
        """Keep the pixels of an image."""
        if not self._is_writable:
            return
        content = pixels.contiguous().numpy().tobytes()
        try:
            (self._folder / _name_file(image)).write_bytes(_RECORD.pack(version, zlib.crc32(content)) + content)
        except OSError as error:
            self._is_writable = False
            warnings.warn(f"images are decoded each time, since {self._folder} cannot be filled: {error}", stacklevel=3)


def _name_file(image: str) -> str:
    return hashlib.blake2b(os.path.abspath(image).encode(errors="surrogateescape"), digest_size=16).hexdigest()


def _fingerprint(file: str) -> int:
    try:
        status = os.stat(file)
    except OSError as error:
        raise InputError(f"cannot read {file!r}: {error}") from error
    digest = hashlib.blake2b(f"{status.st_size} {status.st_mtime_ns}".encode(), digest_size=8)
    return int.from_bytes(digest.digest(), "little")


def _name_folder(data: FileDataset, transform: CacheableTransform, shape: torch.Size) -> str:
    """Make a name of all that pixels depend on besides the image files."""
    libraries = [torch.__version__, torchvision.__version__, PIL.__version__, PIL.features.version("jpg")]
    options = data.read.keywords if isinstance(data.read, partial) else {}
    reader = f"{type(data).__qualname__} {_unwrap(data.read).__qualname__} {sorted(options.items())}"
    made_by = f"{FORMAT_VERSION} {reader} {transform.geometry!r} {shape} {libraries}"
    return f"pixels-{hashlib.sha256(made_by.encode()).hexdigest()[:16]}"


def _unwrap(read: Callable[[str], Image.Image]) -> Callable[..., Image.Image]:
    return read.func if isinstance(read, partial) else read
