"""Embeddings in a file, with what is needed to work on with them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from torch import Tensor

from divconq_pl.data import RetrievalDataset
from divconq_pl.errors import InputError
from divconq_pl.files import write_atomically

PARTS = ("query", "gallery")


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
    counted = [(data, len(rows)) for data, rows in zip(parts, embeddings, strict=True)]
    arrays: dict[str, Any] = {
        "embeddings": np.concatenate([rows.cpu().numpy() for rows in embeddings]).astype(np.float32, copy=False),
        "labels": np.concatenate([data.targets[:n].numpy() for data, n in counted]),
        "classes": np.array(parts[0].classes, dtype=np.str_),
        "paths": np.array([data.name_of(i) for data, n in counted for i in range(n)], dtype=np.str_),
    }
    if len(parts) > 1:
        arrays["part"] = np.repeat(PARTS, [n for _, n in counted])
    if path.suffix == ".npz":
        return write_atomically(path, lambda file: np.savez(file, **arrays))
    return write_atomically(path, lambda file: _write_parquet(file, **arrays))


def _write_parquet(file: BinaryIO, embeddings: Any, labels: Any, classes: Any, paths: Any, **part: Any) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {
        "embedding": pa.FixedSizeListArray.from_arrays(pa.array(embeddings.ravel()), embeddings.shape[1]),
        "label": labels,
        "class": classes[labels],
        "path": paths,
        **part,
    }
    pq.write_table(pa.table(columns), file)
