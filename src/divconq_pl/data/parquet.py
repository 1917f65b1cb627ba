"""Images inside parquet files: read one row group at a time, to save memory."""

from __future__ import annotations

import io
import os
import threading
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from divconq_pl.data.decoding import read_rgb
from divconq_pl.errors import InputError

_lock = threading.Lock()


def read_parquet_labels(file: Path) -> list[int]:
    """Return the column ``label`` of a parquet file that also has images as bytes in ``image.bytes``.

    Raises:
        InputError: if pyarrow is not installed, or the file cannot be read or has other columns.
    """
    content = _open(str(file), os.getpid())
    paths = [content.file.schema.column(i).path for i in range(len(content.file.schema))]
    if lacking := [path for path in ("image.bytes", "label") if path not in paths]:
        raise InputError(f"{str(file)!r} has no column {lacking[0]!r}, only {paths}")
    with _reading(str(file)):
        labels: list[int] = content.file.read(["label"], use_threads=False)["label"].to_pylist()
    if wrong := [label for label in labels if not isinstance(label, int) or label < 0]:
        raise InputError(f"{str(file)!r} has the label {wrong[0]!r}; labels are whole numbers from 0 on")
    return labels


def name_parquet_image(file: Path, row: int) -> str:
    """Name a row of a parquet file, for :func:`read_parquet_rgb`."""
    return f"{file}[{row}]"


def find_parquet_file(image: str) -> str:
    """Return the file that holds an image that :func:`name_parquet_image` named."""
    return image.rpartition("[")[0]


def read_parquet_rgb(image: str) -> Image.Image:
    """Decode the bytes in ``image.bytes`` of a row of a parquet file to RGB.

    Args:
        image: file and row, as :func:`name_parquet_image` writes it.

    Raises:
        InputError: if there are none or they are not an image; it names file and row.
    """
    file, _, row = image.removesuffix("]").rpartition("[")
    process = os.getpid()
    with _lock:  # threads must not share Arrow's files
        starts = _open(file, process).starts
        group = bisect_right(starts, int(row)) - 1
        value = _read_row_group(file, group, process)[int(row) - starts[group]].as_py()
    if not value or not value["bytes"]:
        raise InputError(f"cannot read the image {image!r}: the row has no bytes")
    return read_rgb(io.BytesIO(value["bytes"]), image)


class _Opened(NamedTuple):
    file: Any
    starts: list[int]
    """First row of each row group."""


@lru_cache(maxsize=8)
def _open(file: str, process: int) -> _Opened:
    """Open a file; a worker that was forked opens it for itself."""
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise InputError(
            f'{file!r} needs pyarrow, which is not installed: pip install "divconq-pl[parquet]"'
        ) from error
    with _reading(file):
        content = parquet.ParquetFile(file, memory_map=True, pre_buffer=False)
    sizes = [content.metadata.row_group(i).num_rows for i in range(content.num_row_groups)]
    return _Opened(content, [0, *accumulate(sizes)][:-1])


@lru_cache(maxsize=2)
def _read_row_group(file: str, group: int, process: int) -> Any:
    with _reading(file):
        table = _open(file, process).file.read_row_group(group, columns=["image.bytes"], use_threads=False)
    return table.column("image")


@contextmanager
def _reading(file: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, NotImplementedError) as error:  # the kinds of error that Arrow raises
        raise InputError(f"cannot read {file!r}: {error}") from error
