"""Room for the rows of a large matrix, filled batch by batch."""

from __future__ import annotations

import errno
import mmap
import os
import shutil
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from divconq_pl.errors import InputError


class RowStore:
    """Rows that arrive batch by batch, in memory or in a memory-mapped file; room for all is made with the first.

    Args:
        num_rows: how many there will be.
        folder: of the file, made if there is none; by default the rows stay float32 in memory, where they came from.
            The file holds float16 and has no name: it is gone with the tensor, or the process, whatever ends it.
    """

    def __init__(self, num_rows: int, folder: str | Path | None = None) -> None:
        self._num_rows = num_rows
        self._folder = folder
        self._rows = torch.empty(0, 0)
        self._filled = 0

    def __len__(self) -> int:
        """Count the rows that have arrived."""
        return self._filled

    @property
    def rows(self) -> Tensor:
        """Those that have arrived, shape (len, D)."""
        return self._rows[: self._filled]

    def append(self, rows: Tensor) -> None:
        """Add rows, shape (n, D).

        Raises:
            InputError: if there is no room for all rows, or there are more than were told.
        """
        if not self._rows.shape[1]:
            self._rows = make_room(self._num_rows, rows.shape[1], self._folder, rows.device)
        end = self._filled + len(rows)
        if end > self._num_rows:
            raise InputError(f"{end} or more feature rows came where {self._num_rows} images were to be looked at")
        self._rows[self._filled : end] = rows
        self._filled = end


def make_room(
    num_rows: int,
    width: int,
    folder: str | Path | None = None,
    device: torch.device | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Return an uninitialised matrix, shape (num_rows, width): float16 in a mapped file if there is a folder for it.

    Raises:
        InputError: if there is no room for it.
    """
    if folder is not None:
        return mapped(folder, num_rows, width)
    try:
        return torch.empty(num_rows, width, device=device, dtype=dtype)
    except RuntimeError as error:
        raise InputError(
            f"the features of {num_rows} images, {width} numbers each, take {_size(dtype.itemsize * num_rows * width)} "
            f"and do not fit in the memory of {str(device)!r}; keep them in a file with feature_store='<folder>'"
        ) from error


def mapped(folder: str | Path, num_rows: int, width: int) -> Tensor:
    """Map a new float16 file without a name into memory, with its room on the disk reserved.

    Returns:
        A tensor of shape (num_rows, width). The file lives as long as its memory is in use.

    Raises:
        InputError: if the folder cannot be written to, or has too little room.
    """
    folder = Path(folder).expanduser()
    size = 2 * num_rows * width
    if not size:
        return torch.empty(num_rows, width, dtype=torch.float16)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
        if free < size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        with tempfile.TemporaryFile(dir=folder) as file:
            file.truncate(size)
            if hasattr(os, "posix_fallocate"):  # or a disk that fills up later would end the process without a word
                os.posix_fallocate(file.fileno(), 0, size)
            memory = mmap.mmap(file.fileno(), size)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise InputError(
                f"feature_store={str(folder)!r} has {_size(shutil.disk_usage(folder).free)} free, and the features of "
                f"{num_rows} images, {width} numbers each, take {_size(size)}; name a folder with more room"
            ) from error
        raise InputError(
            f"feature_store={str(folder)!r} cannot be used ({error}); name a folder that can be written to"
        ) from error
    return torch.frombuffer(memory, dtype=torch.float16).view(num_rows, width)


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.3g} GB"
