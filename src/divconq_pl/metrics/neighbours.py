"""Exact nearest neighbours of L2-normalised embeddings, streamed over blocks of queries."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType

import torch
from torch import Tensor
from torch.nn.functional import normalize

from divconq_pl.errors import InputError

_BLOCK_BYTES = 64 * 2**20


def neighbours(queries: Tensor, gallery: Tensor | None = None, *, k: int, block_size: int | None = None) -> Tensor:
    """Find each query's k nearest gallery images by Euclidean distance of the L2-normalised embeddings.

    Equally near images come in the order of their index. (Distances that differ only by rounding count as different.)
    On CPUs faiss searches where it is installed; anywhere else torch does.

    Args:
        queries: Embeddings, shape (Q, d), of any float type and memory layout; compared in float32.
        gallery: Embeddings to search, shape (G, d). None means leave-one-out: the other queries are the gallery, and
            each query itself is left out by its index, so that an exact duplicate of it still counts as a neighbour.
        k: How many neighbours. With fewer images to be found, all of them are returned.
        block_size: Queries compared at a time; by default as many as keep one block at 64 MB.

    Returns:
        Gallery indices, nearest first, int64, shape (Q, min(k, available)), on the device of `queries`.

    Raises:
        InputError: If shapes do not fit, k or block_size is below 1, or an embedding is NaN or infinite.

    Example:
        >>> neighbours(torch.tensor([[1.0, 0.0], [0.0, 1.0], [3.0, 1.0]]), k=2).tolist()
        [[2, 1], [2, 0], [0, 1]]
    """
    if k < 1:
        raise InputError(f"k = {k} neighbours cannot be looked for: give a k of at least 1")
    return torch.cat(list(neighbour_blocks(queries, gallery, k, block_size)))


@torch.no_grad()
def neighbour_blocks(
    queries: Tensor, gallery: Tensor | None, k: int, block_size: int | None = None
) -> Iterator[Tensor]:
    """Yield what :func:`neighbours` returns, block by block, so that no more than a block is ever in memory."""
    own = torch.arange(len(queries), device=queries.device) if gallery is None else None
    queries = checked_unit_rows(queries, "queries")
    gallery = queries if gallery is None else checked_unit_rows(gallery, "gallery").to(queries.device)
    if gallery.shape[1] != queries.shape[1]:
        raise InputError(
            f"queries of width {queries.shape[1]} cannot be compared with a gallery of width {gallery.shape[1]}: "
            "embed both with the same model"
        )
    if block_size is not None and block_size < 1:
        raise InputError(f"block_size = {block_size} compares nothing: give at least 1, or None")
    k = min(k, len(gallery) - (own is not None))
    faiss = _find_faiss() if queries.device.type == "cpu" and k > 0 else None
    if faiss is None:
        yield from _by_torch(queries, own, gallery, k, block_size)
    else:
        yield from _by_faiss(faiss, queries, own, gallery, k, block_size)


def _find_faiss() -> ModuleType | None:
    try:
        import faiss
    except ModuleNotFoundError:
        return None
    module: ModuleType = faiss
    return module


def unit_rows(embeddings: Tensor) -> Tensor:
    """Return embeddings in float32 with rows of length 1 (rows of zeros stay zero), shape (N, d)."""
    embeddings = embeddings.float()
    # Scaled by its largest entry first, a row of 1e30 or 1e-30 keeps its direction in float32.
    peak = embeddings.abs().amax(dim=1, keepdim=True)
    return normalize(embeddings / peak.where(peak > 0, 1.0))


def checked_unit_rows(embeddings: Tensor, name: str) -> Tensor:
    """Return :func:`unit_rows` of embeddings that can be compared.

    Args:
        embeddings: Shape (N, d) with N >= 1.
        name: What the user calls them.

    Raises:
        InputError: If the shape is another, or a row is NaN or infinite.
    """
    if embeddings.ndim != 2 or not len(embeddings):
        raise InputError(f"{name} of shape {tuple(embeddings.shape)} cannot be compared: give (images, d), images >= 1")
    embeddings = embeddings.detach().float()
    broken = (~embeddings.isfinite().all(dim=1)).nonzero().flatten()
    if len(broken):
        raise InputError(
            f"{len(broken)} of {len(embeddings)} rows of {name} are NaN or infinite, the first is row "
            f"{int(broken[0])}: training has diverged (try a lower learning rate) or the images are broken"
        )
    return unit_rows(embeddings)


def _by_torch(
    queries: Tensor, own: Tensor | None, gallery: Tensor, k: int, block_size: int | None = None
) -> Iterator[Tensor]:
    """Compare with the whole gallery at once; ``own`` is the gallery index that each query must not find."""
    rows = min(len(queries), block_size or max(1, _BLOCK_BYTES // (4 * len(gallery))))
    buffer = queries.new_empty(rows, len(gallery))
    for start in range(0, len(queries), rows):
        block = queries[start : start + rows]
        # out= also keeps a surrounding autocast from rounding the similarities to 16 bits.
        similarities = torch.mm(block, gallery.T, out=buffer[: len(block)])
        if own is not None:
            similarities.scatter_(1, own[start : start + rows, None], -torch.inf)
        yield _largest(similarities, k)


def _by_faiss(
    faiss: ModuleType, queries: Tensor, own: Tensor | None, gallery: Tensor, k: int, block_size: int | None
) -> Iterator[Tensor]:
    """Let faiss search, which never holds all similarities of a query, and put right what it leaves open in ties."""
    index = faiss.IndexFlatIP(gallery.shape[1])
    index.add(gallery.contiguous().numpy())
    wanted = min(k + 1 + (own is not None), len(gallery))
    rows = block_size or max(1, _BLOCK_BYTES // (16 * wanted))
    for start in range(0, len(queries), rows):
        block = queries[start : start + rows]
        values, found = map(torch.from_numpy, index.search(block.contiguous().numpy(), wanted))
        itself = None if own is None else own[start : start + rows]
        if itself is not None:
            others = found != itself[:, None]
            others[others.all(dim=1), -1] = False  # so many are as near that faiss has not met the query itself
            values, found = (x[others].view(len(block), wanted - 1) for x in (values, found))
        equal = values[:, 1:] == values[:, :-1]
        cut = equal[:, k - 1] if values.shape[1] > k else equal.new_zeros(len(block))
        found, tied = found[:, :k], equal[:, : k - 1].any(dim=1)
        if tied.any():
            found[tied] = _in_order(values[tied, :k], found[tied])
        if cut.any():
            # Of those as near as the last one, faiss takes any.
            again = _by_torch(block[cut], None if itself is None else itself[cut], gallery, k)
            found[cut] = torch.cat(list(again))
        yield found


def _largest(similarities: Tensor, k: int) -> Tensor:
    """Return the column indices of each row's k largest values, descending, equal ones by lower index first."""
    values, indices = similarities.topk(min(k + 1, similarities.shape[1]), dim=1)
    values, beyond, indices = values[:, :k], values[:, k:], indices[:, :k]
    # topk takes an arbitrary one where the k-th largest value occurs more often than there is room for.
    cut = (beyond == values[:, -1:]).any(dim=1)
    if cut.any():
        rows, last = similarities[cut], values[cut, -1:]
        index = torch.arange(1, rows.shape[1] + 1, dtype=torch.int32, device=rows.device)
        order = torch.where(rows > last, 0, torch.where(rows == last, index, len(index) + 1))
        indices[cut] = order.topk(k, dim=1, largest=False).indices
        values[cut] = rows.gather(1, indices[cut])
    return _in_order(values, indices)


def _in_order(values: Tensor, indices: Tensor) -> Tensor:
    """Sort each row's indices by value, descending, equal ones by lower index first."""
    indices, by_index = indices.sort(dim=1)
    by_value = values.gather(1, by_index).argsort(dim=1, descending=True, stable=True)
    return indices.gather(1, by_value)
