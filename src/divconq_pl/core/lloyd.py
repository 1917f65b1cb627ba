"""Lloyd's algorithm: alternate between assigning rows to their nearest centroid and averaging, in torch or in faiss."""

from __future__ import annotations

from types import ModuleType
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from divconq_pl.core.features import Features, add_by_cluster


class Lloyd(Protocol):
    """What iterates: in torch, or in a library."""

    def solve(self, features: Features, centroids: Tensor, iterations: int, settled: int = 0) -> tuple[Tensor, float]:
        """Iterate from given centroids until no more than ``settled`` rows change their cluster, or at most so often.

        Returns:
            The centroids, (K, D) float32, and the sum of the squared distances to them.
        """

    def nearest(self, features: Features, centroids: Tensor) -> tuple[Tensor, Tensor]:
        """Find the nearest centroid of every row of this process, and the squared distance to it."""


class TorchLloyd:
    """Reads the rows of this process once in an iteration, and sums over the processes once or twice."""

    def solve(self, features: Features, centroids: Tensor, iterations: int, settled: int = 0) -> tuple[Tensor, float]:
        """See :class:`Lloyd`."""
        norms = torch.cat([_squares(block) for block in features.blocks()])
        found = _step(features, norms, centroids)
        for _ in range(iterations):
            previous, centroids = found.assignment, found.means
            found = _step(features, norms, centroids)
            if int(features.total((found.assignment != previous).sum())) <= settled:
                break
        return centroids, float(features.total(found.distance.sum()))

    def nearest(self, features: Features, centroids: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`Lloyd`."""
        return _nearest(features, centroids)


class FaissLloyd:
    """Does all iterations, whatever changes, on one process.

    Args:
        faiss: the module.
        device: where the features are; faiss computes there if it can, else on the CPU.
    """

    def __init__(self, faiss: ModuleType, device: torch.device) -> None:
        self._faiss = faiss
        self._gpu = device.index if device.type == "cuda" and faiss.get_num_gpus() > 0 else None
        self._resources = None if self._gpu is None else faiss.StandardGpuResources()

    def solve(self, features: Features, centroids: Tensor, iterations: int, settled: int = 0) -> tuple[Tensor, float]:
        """See :class:`Lloyd`."""
        rows = features.whole().float().cpu().contiguous().numpy()  # no copy for contiguous float32 rows on the CPU
        options = {"niter": iterations, "min_points_per_centroid": 1, "max_points_per_centroid": len(rows)}
        if hasattr(self._faiss.ClusteringParameters, "check_input_data_for_NaNs"):
            options["check_input_data_for_NaNs"] = False  # done once by us; faiss would repeat it at every call
        solver = self._faiss.Kmeans(features.width, len(centroids), **options)
        if self._gpu is not None:
            # Kmeans(gpu=...) can only count GPUs from 0; every rank of a run must use its own.
            solver.index = self._faiss.index_cpu_to_gpu(self._resources, self._gpu, solver.index)
        inertia = solver.train(rows, init_centroids=centroids.cpu().numpy())
        return torch.from_numpy(solver.centroids), float(inertia)

    def nearest(self, features: Features, centroids: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`Lloyd`."""
        index = self._faiss.IndexFlatL2(features.width)
        if self._gpu is not None:
            index = self._faiss.index_cpu_to_gpu(self._resources, self._gpu, index)
        index.add(centroids.cpu().numpy())
        found = [index.search(block.cpu().contiguous().numpy(), 1) for block in features.blocks()]
        distance, assignment = (torch.from_numpy(np.concatenate(parts)[:, 0]) for parts in zip(*found, strict=True))
        return assignment.to(features.device), distance.to(features.device)


class _Step(NamedTuple):
    assignment: Tensor
    distance: Tensor
    means: Tensor  # of the rows so assigned


def _step(features: Features, norms: Tensor, centroids: Tensor) -> _Step:
    sums = torch.zeros_like(centroids)
    assignment, distance = _nearest(features, centroids, norms, sums)
    counts = torch.bincount(assignment, minlength=len(centroids))[:, None]
    tally = features.total(torch.cat([sums, counts], dim=1))  # one sum over the processes instead of two
    if tally[:, -1].all():
        return _Step(assignment, distance, tally[:, :-1] / tally[:, -1:])
    assignment, distance = fill_empty_of_all(features, assignment, distance, len(centroids))
    return _Step(assignment, distance, features.means(assignment, len(centroids)))


def _nearest(
    features: Features, centroids: Tensor, norms: Tensor | None = None, sums: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Find the nearest centroids, and add every row to the sum of its cluster while it is at hand."""
    squares = _squares(centroids)
    # Room for all rows at once: small results that stay, between large blocks that go, would leave memory in pieces.
    assignment = torch.empty(features.num_held, dtype=torch.int64, device=features.device)
    distance = torch.empty(features.num_held, device=features.device)
    start = 0
    for block in features.blocks(len(centroids)):
        own = slice(start, start + len(block))
        start += len(block)
        products = torch.addmm(squares, block, centroids.T, alpha=-2)
        torch.min(products, dim=1, out=(distance[own], assignment[own]))
        if norms is None:
            distance[own] += _squares(block)
        if sums is not None:
            add_by_cluster(sums, block, assignment[own])
    return assignment, (distance if norms is None else distance + norms).clamp_min_(0)


def _squares(rows: Tensor) -> Tensor:
    """Return the squared length of each row; unlike a sum of squares, this makes no copy of the rows."""
    lengths: Tensor = torch.linalg.vector_norm(rows, dim=1)
    return lengths.square()


def fill_empty_of_all(
    features: Features, assignment: Tensor, distance: Tensor, num_clusters: int
) -> tuple[Tensor, Tensor]:
    """Do the same as :func:`fill_empty` for the rows of all processes."""
    counts = features.total(torch.bincount(assignment, minlength=num_clusters))
    if counts.all():
        return assignment, distance
    filled = fill_empty(features.gathered(assignment), features.gathered(distance), num_clusters)
    return features.share(filled[0]), features.share(filled[1])


def fill_empty(assignment: Tensor, distance: Tensor, num_clusters: int) -> tuple[Tensor, Tensor]:
    """Give every empty cluster the row farthest from its centroid, out of a cluster that keeps another row."""
    counts = torch.bincount(assignment, minlength=num_clusters).tolist()
    empty = [cluster for cluster, count in enumerate(counts) if count == 0]
    if not empty:
        return assignment, distance
    assignment, distance = assignment.clone(), distance.clone()
    order = distance.argsort(descending=True, stable=True)
    farthest_first = (row for few in order.split(1024) for row in few.tolist())
    for cluster in empty:
        # A cluster seen with one row never gains another, so the rows passed over need no second look.
        row = next(row for row in farthest_first if counts[int(assignment[row])] > 1)
        counts[int(assignment[row])] -= 1
        counts[cluster] = 1
        assignment[row], distance[row] = cluster, 0
    return assignment, distance
