"""The nearest of many embeddings: compared with all, or, beyond a million, with those of the nearest lists."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

MAX_FLAT = 1_000_000
"""Beyond so many images they are searched by inverted lists."""

Block = tuple[np.ndarray, Tensor]
"""Numbers of images, int64 (n,), and their embeddings, float32 of unit length (n, d)."""

Answer = tuple[Tensor, Tensor]
"""Similarities, (Q, k), descending, and numbers of images, int64, (Q, k); -1 where there are fewer."""

_LISTS = 4.0
_TRAINED_ON = 40  # embeddings for each list
_VISITED = 16  # one list in so many, and so many at least
_PART = 500_000  # embeddings that are sorted into lists in memory


class Searcher(Protocol):
    """Finds nearest images."""

    def search(self, queries: Tensor, k: int) -> Answer:
        """Find the k nearest images of queries (Q, d) of unit length."""


def has_faiss() -> bool:
    """Tell whether faiss is installed, which makes inverted lists."""
    return find_spec("faiss") is not None


class Flat:
    """Compare with every embedding.

    Args:
        blocks: gives the embeddings, block by block.
        keep: hold them in memory; False reads them again for each search.
    """

    def __init__(self, blocks: Callable[[], Iterable[Block]], *, keep: bool = True) -> None:
        kept = list(blocks()) if keep else None
        self._blocks = blocks if kept is None else lambda: kept

    def search(self, queries: Tensor, k: int) -> Answer:
        """Find the k nearest."""
        answers = []
        for numbers, rows in self._blocks():
            values, places = (queries @ rows.T).topk(min(k, len(rows)), dim=1)
            answers.append((values, torch.from_numpy(numbers)[places]))
        return merge(answers, len(queries), k)


def merge(answers: Sequence[Answer], num_queries: int, k: int) -> Answer:
    """Put the answers of several parts of the images together."""
    values = torch.cat([torch.full((num_queries, k), -torch.inf), *(values for values, _ in answers)], dim=1)
    numbers = torch.cat([torch.full((num_queries, k), -1), *(numbers for _, numbers in answers)], dim=1)
    best, order = values.topk(k, dim=1)
    return best, numbers.gather(1, order)


class Inverted:
    """Compare with the embeddings of the nearest lists only, which stay on disk.

    Args:
        files: what :func:`build_inverted` wrote.
        gone: numbers of images that are not to be found.
    """

    def __init__(self, files: Sequence[Path], gone: Sequence[int]) -> None:
        import faiss

        self._gone = torch.tensor(gone, dtype=torch.int64)
        how = faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY
        self._parts: list[Any] = [faiss.read_index(str(file), how) for file in files]
        for part in self._parts:
            part.nprobe = min(part.nlist, max(_VISITED, part.nlist // _VISITED))

    def search(self, queries: Tensor, k: int) -> Answer:
        """Find the k nearest."""
        return merge([self._search_part(part, queries, k) for part in self._parts], len(queries), k)

    def _search_part(self, part: Any, queries: Tensor, k: int) -> Answer:
        """Ask for more, until what is gone has not taken the place of others."""
        wanted = k
        while True:
            values, numbers = map(torch.from_numpy, part.search(queries.numpy(), wanted))
            found = (numbers >= 0) & ~torch.isin(numbers, self._gone)
            is_short = (found.sum(dim=1) < k) & (numbers >= 0).all(dim=1)
            if not is_short.any():
                return values.where(found, -torch.inf), numbers.where(found, -1)
            wanted *= 4


def count_lists(count: int) -> int:
    """Choose how many lists so many images are sorted into: four times the square root, as faiss recommends.

    Example:
        >>> count_lists(4_000_000)
        8000
    """
    return max(1, round(_LISTS * math.sqrt(count)))


def build_inverted(file: Path, sample: Tensor, blocks: Iterable[Block], count: int) -> int:
    """Sort embeddings into lists around centroids, and write them in parts, of which one is in memory at a time.

    Args:
        file: where they go, with the number of the part at its end, see :func:`name_parts`.
        sample: :func:`count_sample` embeddings, on which the centroids are found.
        blocks: all embeddings.
        count: how many there are.

    Returns:
        How many parts there are.
    """
    import faiss

    dim, parts = sample.shape[1], 0
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(dim), dim, count_lists(count), faiss.METRIC_INNER_PRODUCT)
    index.cp.spherical = True
    index.train(sample.numpy())
    for numbers, rows in blocks:
        index.add_with_ids(rows.numpy(), numbers)
        if index.ntotal >= _PART:
            faiss.write_index(index, str(name_parts(file, parts + 1)[-1]))
            index.reset()
            parts += 1
    if index.ntotal:
        faiss.write_index(index, str(name_parts(file, parts + 1)[-1]))
        parts += 1
    return parts


def name_parts(file: Path, count: int) -> list[Path]:
    """Return the files of so many parts."""
    return [file.with_name(f"{file.name}.{part}") for part in range(count)]


def count_sample(count: int) -> int:
    """Return how many of so many embeddings the centroids are found on."""
    return min(count, _TRAINED_ON * count_lists(count))
