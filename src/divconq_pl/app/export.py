"""Embeddings in a file, with what is needed to work on with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from divconq_pl.data import RetrievalDataset
from divconq_pl.errors import InputError
from divconq_pl.files import write_atomically

PARTS = ("query", "gallery")


@dataclass(frozen=True)
class _Table:
    """One row per image, all parts one after the other."""

    embeddings: NDArray[np.float32]
    labels: NDArray[np.int64]
    classes: list[str]
    paths: list[str]
    part: list[str] | None


def check_export(path: str | Path) -> None:
    """Refuse a file that cannot be exported to, before anything is computed.

    Raises:
        InputError: if the suffix is unknown, the file exists, or pyarrow is needed and not installed.
    """
    path = Path(path)
    if path.suffix not in (".npz", ".parquet"):
        raise InputError(f"export={str(path)!r} has no suffix that says how to write it; use .npz or .parquet")
    if path.exists():
        raise InputError(f"export={str(path)!r} exists, and nothing is overwritten; choose another file")
    if path.suffix == ".parquet":
        try:
            import pyarrow.parquet  # noqa: F401
        except ModuleNotFoundError as error:
            raise InputError(
                f"export={str(path)!r} needs pyarrow, which is not installed: pip install pyarrow, or use .npz"
            ) from error


def export_embeddings(path: str | Path, embeddings: Sequence[Tensor], parts: Sequence[RetrievalDataset]) -> Path:
    """Write embeddings with labels, class names and paths, atomically.

    An ``.npz`` file holds the arrays ``embeddings``, float32, (N, d); ``labels``, int64, (N,); ``classes``, text, (C,),
    the name of each label; ``paths``, text, (N,); and, for two parts, ``part``, ``query`` or ``gallery``, text, (N,).
    It loads with ``numpy.load(path)``, without pickle. A ``.parquet`` file holds one row per image with the columns
    ``embedding``, ``label``, ``class``, ``path`` and, for two parts, ``part``.

    Args:
        path: the file; missing folders are made.
        embeddings: L2-normalised, shape (N, d): one tensor, or one each for query and gallery.
        parts: the images embedded, likewise; more images than embeddings are left out at the end.

    Returns:
        The path.

    Raises:
        InputError: as :func:`check_export`.
    """
    check_export(path)
    path = Path(path)
    sizes = [len(rows) for rows in embeddings]
    table = _Table(
        np.concatenate([rows.cpu().numpy() for rows in embeddings]).astype(np.float32, copy=False),
        np.concatenate([data.targets[:n].numpy() for data, n in zip(parts, sizes, strict=True)]),
        parts[0].classes,
        [data.name_of(i) for data, n in zip(parts, sizes, strict=True) for i in range(n)],
        [name for name, n in zip(PARTS, sizes, strict=True) for _ in range(n)] if len(parts) > 1 else None,
    )
    write = _write_npz if path.suffix == ".npz" else _write_parquet
    return write_atomically(path, lambda file: write(file, table))


def _write_npz(file: BinaryIO, table: _Table) -> None:
    arrays: dict[str, Any] = {
        "embeddings": table.embeddings,
        "labels": table.labels,
        "classes": np.array(table.classes, dtype=np.str_),
        "paths": np.array(table.paths, dtype=np.str_),
    }
    if table.part is not None:
        arrays["part"] = np.array(table.part, dtype=np.str_)
    np.savez(file, **arrays)


def _write_parquet(file: BinaryIO, table: _Table) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {
        "embedding": pa.FixedSizeListArray.from_arrays(pa.array(table.embeddings.ravel()), table.embeddings.shape[1]),
        "label": pa.array(table.labels),
        "class": pa.array([table.classes[label] for label in table.labels]),
        "path": pa.array(table.paths),
    }
    if table.part is not None:
        columns["part"] = pa.array(table.part)
    pq.write_table(pa.table(columns), file)
