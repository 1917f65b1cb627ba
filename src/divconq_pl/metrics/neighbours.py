"""Exact nearest neighbours of L2-normalised embeddings, streamed over blocks of queries."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from divconq_pl.errors import InputError

FEW = 100
"""Up to so many neighbours a search for them alone is faster than ranking the whole gallery."""

_BLOCK_BYTES = 64 * 2**20


def neighbours(queries: Tensor, gallery: Tensor | None = None, *, k: int) -> Tensor:
    """Find each query's k nearest gallery images by Euclidean distance of the L2-normalised embeddings.

    Equally near images come in the order of their index. (Distances that differ only by rounding count as different.)
    torch searches, also on CPUs, where it was up to three times as fast as faiss (docs/benchmarks.md).

    Args:
        queries: embeddings, shape (Q, d), of any float type and memory layout; compared in float32.
        gallery: embeddings to search, shape (G, d). None means leave-one-out: the other queries are the gallery, and
            each query itself is left out by its index, so that an exact duplicate of it still counts as a neighbour.
        k: how many neighbours; where there are fewer images, all of them are returned.

    Returns:
        Gallery indices, nearest first, int64, shape (Q, min(k, available)), on the device of ``queries``.

    Raises:
        InputError: if shapes do not fit, k is below 1, or an embedding is NaN or infinite.

    Example:
        >>> neighbours(torch.tensor([[1.0, 0.0], [0.0, 1.0], [3.0, 1.0]]), k=2).tolist()
        [[2, 1], [2, 0], [0, 1]]
    """
    if k < 1:
        raise InputError(f"k={k} asks for no neighbours; use 1 or more")
    return torch.cat(list(neighbour_blocks(queries, gallery, k)))


@torch.no_grad()
def neighbour_blocks(queries: Tensor, gallery: Tensor | None, k: int, asked: Tensor | None = None) -> Iterator[Tensor]:
    """Yield what :func:`neighbours` returns in blocks of queries, so that one block at a time is in memory.

    Args:
        queries: as for :func:`neighbours`.
        gallery: likewise.
        k: likewise.
        asked: indices of the queries to search for, in the order of the result; by default all of them.
    """
    queries = check_unit_rows(queries, "queries")
    if asked is None:
        asked = torch.arange(len(queries), device=queries.device)
    leave_out = gallery is None
    gallery = queries if gallery is None else check_unit_rows(gallery, "gallery").to(queries.device)
    if gallery.shape[1] != queries.shape[1]:
        raise InputError(
            f"queries of width {queries.shape[1]} cannot be compared with a gallery of width {gallery.shape[1]}; "
            "embed both with the same model"
        )
    k = min(k, len(gallery) - leave_out)
    yield from _search(queries, asked, leave_out, gallery, k)


def unit_rows(embeddings: Tensor) -> Tensor:
    """Return embeddings in float32 with rows of length 1 (rows of zeros stay zero), shape (N, d)."""
    embeddings = embeddings.float()
    # Scaled by its largest entry first, a row of 1e30 or 1e-30 keeps its direction in float32.
    peak = embeddings.abs().amax(dim=1, keepdim=True)
    return normalize(embeddings / peak.where(peak > 0, 1.0))


def check_unit_rows(embeddings: Tensor, name: str) -> Tensor:
    """Check that embeddings can be compared, and return their :func:`unit_rows`.

    Args:
        embeddings: shape (N, d) with N >= 1.
        name: what the user calls them.

    Raises:
        InputError: if the shape is another, or a row is NaN or infinite.
    """
    if embeddings.ndim != 2 or not len(embeddings):
        raise InputError(
            f"{name} of shape {tuple(embeddings.shape)} cannot be compared; give (images, d), at least one image"
        )
    embeddings = embeddings.detach().float()
    broken = (~embeddings.isfinite().all(dim=1)).nonzero().flatten()
    if len(broken):
        raise InputError(
            f"{len(broken)} of {len(embeddings)} rows of {name} are NaN or infinite, the first is row "
            f"{int(broken[0])}; the training has diverged (try a lower learning rate) or the images are broken"
        )
    return unit_rows(embeddings)


def _search(queries: Tensor, asked: Tensor, leave_out: bool, gallery: Tensor, k: int) -> Iterator[Tensor]:
    """Compare with the whole gallery at once; with ``leave_out`` a query is not to find the image of its own index."""
    find, bytes_each = (_find_largest, 4) if k <= FEW else (_rank, 20)
    rows = min(len(asked), max(1, _BLOCK_BYTES // (bytes_each * len(gallery))))
    buffer = queries.new_empty(rows, len(gallery))
    for block in asked.split(max(1, rows)):
        # out= also keeps a surrounding autocast from rounding the similarities to 16 bits.
        similarities = torch.mm(queries[block], gallery.T, out=buffer[: len(block)])
        if leave_out:
            similarities.scatter_(1, block[:, None], -torch.inf)
        yield find(similarities, k)


def _rank(similarities: Tensor, k: int) -> Tensor:
    """Return what :func:`_find_largest` does, by sorting whole numbers, whose cost hardly depends on k.

    A number holds the similarity in its upper half, as bits that sort as it does, and how early the index is below.
    """
    bits = similarities.add_(0.0).view(torch.int32)  # -0.0 becomes 0.0, which it equals
    width = bits.shape[1]
    keys = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).long()
    keys = keys.bitwise_left_shift_(32).bitwise_or_(torch.arange(width - 1, -1, -1, device=bits.device))
    if keys.device.type == "cpu":
        numbers = keys.numpy()  # NumPy sorts several times as fast as torch, but with one thread
        threads = torch.get_num_threads()
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(lambda rows: _sort_largest(rows, k), np.array_split(numbers, threads)))
        keys = torch.from_numpy(numbers[:, width - k :]).flip(1)
    else:
        keys = keys.topk(k, dim=1).values
    return width - 1 - (keys & 0xFFFFFFFF)


def _sort_largest(numbers: NDArray[np.int64], k: int) -> None:
    """Put each row's k largest numbers at its end, ascending, in place."""
    if k:
        numbers.partition(-k, axis=1)
        numbers[:, -k:].sort(axis=1)


def _find_largest(similarities: Tensor, k: int) -> Tensor:
    """Return the column indices of each row's k largest values, descending, equal ones by lower index first."""
    values, indices = similarities.topk(min(k + 1, similarities.shape[1]), dim=1)
    values, beyond, indices = values[:, :k], values[:, k:], indices[:, :k]
    # Where the k-th largest value occurs more often than there is room for, topk picks any.
    cut = (beyond == values[:, -1:]).any(dim=1)
    if cut.any():
        rows, last = similarities[cut], values[cut, -1:]
        index = torch.arange(1, rows.shape[1] + 1, dtype=torch.int32, device=rows.device)
        order = torch.where(rows > last, 0, torch.where(rows == last, index, len(index) + 1))
        indices[cut] = order.topk(k, dim=1, largest=False).indices
        values[cut] = rows.gather(1, indices[cut])
    return _sort_by_value(values, indices)


def _sort_by_value(values: Tensor, indices: Tensor) -> Tensor:
    """Sort each row's indices by value, descending, equal ones by lower index first."""
    indices, by_index = indices.sort(dim=1)
    by_value = values.gather(1, by_index).argsort(dim=1, descending=True, stable=True)
    return indices.gather(1, by_value)
