"""Features of many images, of which every process holds its share."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from divconq_pl.errors import InputError

Total = Callable[[Tensor], Tensor]

BLOCK_ELEMENTS = 2**20
"""Float32 numbers that one block of rows may hold, for each thread of a CPU: 4 MB, which stay in its cache."""

_BLOCKS_AT_ONCE = 16  # on a GPU, 64 MB


def total_of_processes(tensor: Tensor) -> Tensor:
    """Sum a tensor of all processes of the default group in place, and return it."""
    torch.distributed.all_reduce(tensor)
    return tensor


_FEW_CLUSTERS = 64


class Features:
    """Features of N images, held by one process or shared by several.

    Process r of W holds rows r, r + W, r + 2W, ... and never sees the others'. What is known of every image, such as an
    assignment, is on all processes. All processes call the same methods in the same order, with the same arguments
    where these are about all images; the results are the same on all of them, whatever W is, up to the order of sums.

    Args:
        held: the rows of this process, shape (n, D), any floating type, on any device; also a memory-mapped file.
        size: N; by default those held are all.
        rank: r.
        world_size: W.
        total: sums a tensor over all processes, in place or not, and gives the same sum to each.
        device: where to compute, and what ``total`` sums; by default where the rows are.

    Raises:
        InputError: if the rows held are no matrix, or not as many as the share of this process.
    """

    def __init__(
        self,
        held: Tensor,
        *,
        size: int | None = None,
        rank: int = 0,
        world_size: int = 1,
        total: Total = total_of_processes,
        device: torch.device | None = None,
    ) -> None:
        if held.ndim != 2 or held.shape[1] == 0:
            raise InputError(f"features must have shape (N, D) with D at least 1, got {tuple(held.shape)}.")
        self._size = len(held) if size is None else size
        if len(held) != len(range(rank, self._size, world_size)):
            raise InputError(
                f"process {rank} of {world_size} holds {len(held)} of {self._size} feature rows; it must hold rows "
                f"{rank}, {rank + world_size}, ..., which are {len(range(rank, self._size, world_size))}"
            )
        self.rank, self.world_size = rank, world_size
        self.device = held.device if device is None else device
        self._held = held
        self._sum = total
        self._ids: Tensor | None = None  # of a subset: its rows, counted in the whole
        self._mine: slice | Tensor = slice(rank, None, world_size)  # the rows of this process, counted in the subset
        self._index: Tensor | None = None  # and where they are among those held
        self._copy: Tensor | None = None

    def __len__(self) -> int:
        return self._size

    @property
    def width(self) -> int:
        """D, the numbers in a row."""
        return self._held.shape[1]

    @property
    def num_held(self) -> int:
        """How many of the rows this process holds."""
        return len(self._held) if self._index is None else len(self._index)

    def subset(self, rows: Tensor) -> Features:
        """Return some of the rows, without copying them.

        Args:
            rows: their indices, int64, on the CPU.
        """
        part = copy.copy(self)
        part._size, part._copy = len(rows), None
        part._ids = rows if self._ids is None else self._ids[rows]
        if self.world_size == 1:
            part._index = part._ids
        else:
            part._mine = torch.nonzero(part._ids % self.world_size == self.rank).squeeze(1)
            part._index = part._ids[part._mine] // self.world_size
        return part

    def in_memory(self) -> Features:
        """Return the same rows as one float32 tensor per process, for going over them often; copied if they are not."""
        if self._index is None and self._held.dtype == torch.float32 and self._held.device == self.device:
            return self
        part = copy.copy(self)
        part._copy = torch.empty(self.num_held, self.width, device=self.device)
        start = 0
        for block in self.blocks():
            part._copy[start : start + len(block)] = block
            start += len(block)
        return part

    def blocks(self, width: int = 0, most: int | None = None) -> Iterator[Tensor]:
        """Yield the rows of this process as float32 blocks of bounded size on the device, at least one, maybe empty.

        Args:
            width: numbers that the caller needs for each row, if these are more than D.
            most: rows in a block, at most.
        """
        at_once = torch.get_num_threads() if self.device.type == "cpu" else _BLOCKS_AT_ONCE
        rows = max(1, at_once * BLOCK_ELEMENTS // max(width, self.width))
        rows = rows if most is None else min(rows, most)
        source = self._held if self._copy is None else self._copy
        if self._index is None or self._copy is not None:
            for block in torch.split(source, rows):
                yield block.to(self.device).float()
        else:
            for index in torch.split(self._index, rows):
                yield source[index.to(source.device)].to(self.device).float()

    def rows(self, rows: Tensor) -> Tensor:
        """Return a few of the rows, float32, shape (len(rows), D), on every process."""
        part = self.subset(rows)
        found = torch.zeros(len(rows), self.width, device=self.device)
        found[part._mine] = torch.cat(list(part.blocks()))
        return self.total(found)

    def whole(self) -> Tensor:
        """Return all rows as they are kept, shape (N, D), on every process; not copied where they are one tensor."""
        if self._copy is not None:
            rows = self._copy
        else:
            rows = self._held if self._index is None else self._held[self._index.to(self._held.device)]
        if self.world_size == 1:
            return rows
        gathered = torch.zeros(len(self), self.width, dtype=rows.dtype, device=self.device)
        gathered[self._mine] = rows.to(self.device)
        return self.total(gathered)

    def share(self, values: Tensor) -> Tensor:
        """Take from what is known of every row, shape (N,), what belongs to those of this process; on the device."""
        return values[self._mine].to(self.device)

    def gathered(self, values: Tensor) -> Tensor:
        """Undo :meth:`share`: put together what every process knows of its rows, shape (N,), on the CPU."""
        if self.world_size == 1:
            return values.cpu()
        together = torch.zeros(len(self), dtype=values.dtype, device=self.device)
        together[self._mine] = values.to(self.device)
        return self.total(together).cpu()

    def total(self, tensor: Tensor) -> Tensor:
        """Sum a tensor on the device over all processes."""
        return tensor if self.world_size == 1 else self._sum(tensor)

    def agreed(self, tensor: Tensor) -> Tensor:
        """Return what process 0 has, on all processes."""
        return self.total(tensor if self.rank == 0 else torch.zeros_like(tensor))

    def means(self, assignment: Tensor, num_clusters: int) -> Tensor:
        """Average the rows of every cluster, shape (K, D).

        Args:
            assignment: the cluster of each row of this process, see :meth:`share`.
            num_clusters: K; none of them empty.
        """
        sums = torch.zeros(num_clusters, self.width, device=self.device)
        start = 0
        for block in self.blocks(num_clusters):
            own = assignment[start : start + len(block)]
            add_by_cluster(sums, block, own)
            start += len(block)
        counts = torch.bincount(assignment, minlength=num_clusters)[:, None]
        tally = self.total(torch.cat([sums, counts], dim=1))  # one sum over the processes instead of two
        return tally[:, :-1] / tally[:, -1:]


def add_by_cluster(sums: Tensor, rows: Tensor, assignment: Tensor) -> None:
    """Add rows to the sums of their clusters, in place.

    For few clusters, and on a GPU, by a product with the one-hot assignment: all threads work on it, and scattered adds
    would depend on the order of the GPU's.

    Args:
        sums: shape (K, D).
        rows: shape (n, D).
        assignment: cluster of each row, shape (n,).
    """
    if len(sums) > _FEW_CLUSTERS and rows.device.type == "cpu":
        sums.index_add_(0, assignment, rows)
    else:
        sums += (assignment[:, None] == torch.arange(len(sums), device=rows.device)).float().T @ rows


def on_whole(cluster: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Let a clustering of a plain tensor cluster :class:`Features`.

    With several processes the features are gathered on each of them, in full, and process 0 alone clusters; there is no
    other way to serve a function that wants to see them all.

    Args:
        cluster: ``cluster(features, num_clusters, seed=...)`` gives the cluster of each row of a tensor (N, D). Further
            arguments are handed on to it.

    Returns:
        A function of the same arguments that takes :class:`Features`. It raises InputError where ``cluster`` does not
        give one cluster for each row, and on all processes where it raises on process 0.
    """

    def cluster_features(features: Features, num_clusters: int, **options: Any) -> Tensor:
        rows = features.whole()
        if features.world_size == 1:
            return _checked(cluster(rows, num_clusters, **options), len(features), num_clusters)
        assignment = torch.zeros(len(features), dtype=torch.int64)
        failure: Exception | None = None
        if features.rank == 0:
            try:
                assignment = _checked(cluster(rows, num_clusters, **options), len(features), num_clusters)
            except Exception as error:
                failure = error  # the other processes wait for word
        failed = features.total(torch.tensor([int(failure is not None)], device=features.device))
        if failure is not None:
            raise failure
        if int(failed):
            raise RuntimeError("the clustering failed on process 0, which says why")
        return features.agreed(assignment.to(features.device)).cpu()

    return cluster_features


def _checked(assignment: Tensor, size: int, num_clusters: int) -> Tensor:
    assignment = torch.as_tensor(assignment).cpu().long()
    if assignment.shape != (size,) or (size and not 0 <= int(assignment.min()) <= int(assignment.max()) < num_clusters):
        raise InputError(
            f"the clustering gave a tensor of shape {tuple(assignment.shape)} for {size} images and {num_clusters} "
            f"clusters; it must give one of 0 .. {num_clusters - 1} for each image"
        )
    return assignment
