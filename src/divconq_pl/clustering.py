"""K-means: the one function that turns features into a flat assignment to clusters."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType
from typing import Literal

import torch
from torch import Tensor

from divconq_pl.errors import InputError

Backend = Literal["auto", "faiss", "torch"]

_BLOCK_ELEMENTS = 16 * 2**20  # float32 numbers that one block of rows may hold: 64 MB
_START_ROWS_PER_CLUSTER = 128


@torch.no_grad()
def kmeans(
    features: Tensor,
    num_clusters: int,
    *,
    seed: int,
    backend: Backend = "auto",
    iterations: int = 20,
    restarts: int = 3,
) -> Tensor:
    """Assign every row of ``features`` to one of ``num_clusters`` clusters, none of them empty.

    Both backends begin every restart with k-means++ and keep the restart with the lowest inertia. The same seed gives
    the same assignment; no global random state is read or moved.

    Args:
        features: (N, D), any floating type, on any device. Distances are Euclidean and computed in float32: normalise
            the rows beforehand for cosine geometry.
        num_clusters: K, at most N.
        seed: of the starts.
        backend: ``"faiss"`` (on the GPU that holds the features when faiss can, else on the CPU), ``"torch"`` (on the
            device of the features), or ``"auto"``: faiss where it is installed and can run on that device, else torch.
        iterations: most Lloyd iterations in one restart; it stops early when the assignment no longer changes.
        restarts: number of starts.

    Returns:
        (N,) int64 on the CPU, cluster of every row, each of 0 .. K-1 at least once.

    Raises:
        InputError: fewer rows than clusters, features that are not finite, or a backend that is not installed.

    Example:
        >>> features = torch.tensor([[0.0, 0.1], [5.0, 5.0], [0.1, 0.0], [5.1, 5.0]])
        >>> assignment = kmeans(features, 2, seed=0)
        >>> bool(assignment[0] == assignment[2] != assignment[1])
        True
    """
    _check_arguments(features, num_clusters, backend, iterations, restarts)
    if num_clusters == 1:
        return torch.zeros(len(features), dtype=torch.int64)
    _check_finite(features)
    faiss = None if backend == "torch" else _find_faiss(features.device, required=backend == "faiss")
    generator = torch.Generator().manual_seed(seed)
    # Inside an autocast region the products would be rounded to half precision, and distances with them.
    with torch.autocast(features.device.type, enabled=False):
        starts = (_plus_plus_start(features, num_clusters, generator) for _ in range(restarts))
        if faiss is None:
            return _kmeans_torch(features, starts, iterations).cpu()
        return _kmeans_faiss(faiss, features, num_clusters, starts, iterations)


def _check_arguments(features: Tensor, num_clusters: int, backend: str, iterations: int, restarts: int) -> None:
    if features.ndim != 2 or features.shape[1] == 0:
        raise InputError(f"features must have shape (N, D) with D at least 1, got {tuple(features.shape)}.")
    if num_clusters < 1 or iterations < 1 or restarts < 1:
        raise InputError(
            "num_clusters, iterations and restarts must be at least 1, "
            f"got {num_clusters}, {iterations} and {restarts}."
        )
    if len(features) < num_clusters:
        raise InputError(
            f"{len(features)} images cannot fill {num_clusters} clusters: use at most {len(features)} clusters "
            "(a smaller split depth) or more images."
        )
    if backend not in ("auto", "faiss", "torch"):
        raise InputError(f"Unknown clustering backend {backend!r}: use 'auto', 'faiss' or 'torch'.")


def _check_finite(features: Tensor) -> None:
    sums = features.sum(dim=1, dtype=torch.promote_types(features.dtype, torch.float32))
    rows = (~sums.isfinite()).nonzero()
    if len(rows):
        raise InputError(
            f"{len(rows)} of {len(features)} feature rows hold NaN or Inf, the first is row {int(rows[0])}: "
            "check for a diverged loss or a bad image; a lower learning rate or 32-bit precision usually helps."
        )


def _find_faiss(device: torch.device, *, required: bool) -> ModuleType | None:
    """Import faiss; ``None`` when it is not required and cannot serve this device."""
    try:
        import faiss
    except ModuleNotFoundError as error:
        if required:
            raise InputError(
                "backend='faiss' needs faiss, which is not installed: "
                'pip install "divconq-pl[cpu]" (or "divconq-pl[gpu]"), or use backend=\'torch\'.'
            ) from error
        return None
    can_serve = device.type == "cpu" or (device.type == "cuda" and faiss.get_num_gpus() > 0)
    return faiss if required or can_serve else None


def _plus_plus_start(features: Tensor, num_clusters: int, generator: torch.Generator) -> Tensor:
    """Draw K starting centroids, (K, D) float32, by k-means++ (Arthur and Vassilvitskii, 2007).

    They are drawn from a uniform sample of the rows: on all rows the start would cost as much as several iterations,
    and it would favour single outliers, which make useless clusters.
    """
    num_rows = min(len(features), _START_ROWS_PER_CLUSTER * num_clusters)
    sample = torch.randperm(len(features), generator=generator)[:num_rows]
    rows = features[sample.to(features.device)].float()
    centroids = rows[:1]
    # The sample is in random order: its first row is a uniform draw.
    nearest = torch.full((num_rows,), torch.inf)
    for _ in range(num_clusters - 1):
        distance = torch.cdist(rows, centroids[-1:], compute_mode="donot_use_mm_for_euclid_dist").square()
        nearest = torch.minimum(nearest, distance.flatten().cpu())
        weights = nearest if nearest.any() else torch.ones_like(nearest)
        chosen = int(torch.multinomial(weights, 1, generator=generator))
        centroids = torch.cat([centroids, rows[chosen : chosen + 1]])
    return centroids


def _kmeans_faiss(
    faiss: ModuleType, features: Tensor, num_clusters: int, starts: Iterator[Tensor], iterations: int
) -> Tensor:
    num_rows, dim = features.shape
    options = {"niter": iterations, "min_points_per_centroid": 1, "max_points_per_centroid": num_rows}
    if hasattr(faiss.ClusteringParameters, "check_input_data_for_NaNs"):
        options["check_input_data_for_NaNs"] = False  # done once by us; faiss would repeat it at every restart
    solver = faiss.Kmeans(dim, num_clusters, **options)
    if features.device.type == "cuda" and faiss.get_num_gpus() > 0:
        # Kmeans(gpu=...) can only count GPUs from 0; every rank of a run must use its own.
        solver.index = faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), features.device.index, solver.index)
    rows = features.cpu().float().contiguous().numpy()  # no copy for contiguous float32 rows on the CPU
    best_inertia, best_centroids = float("inf"), None
    for start in starts:
        inertia = solver.train(rows, init_centroids=start.cpu().numpy())
        if best_centroids is None or inertia < best_inertia:
            best_inertia, best_centroids = inertia, solver.centroids
    solver.centroids = best_centroids
    distance, assignment = solver.assign(rows)
    return _fill_empty(torch.from_numpy(assignment), torch.from_numpy(distance), num_clusters)[0]


def _kmeans_torch(features: Tensor, starts: Iterator[Tensor], iterations: int) -> Tensor:
    norms = torch.cat(
        [block.float().square().sum(dim=1) for block in torch.split(features, _block_rows(features.shape[1]))]
    )
    runs = (_lloyd(features, norms, start, iterations) for start in starts)
    return min(runs, key=lambda run: run[1])[0]


def _lloyd(features: Tensor, norms: Tensor, centroids: Tensor, iterations: int) -> tuple[Tensor, float]:
    """Alternate assignment and means from one start; return the assignment and its inertia."""
    assignment, distance = _nearest(features, norms, centroids)
    for _ in range(iterations):
        previous = assignment
        centroids = _means(features, assignment, len(centroids))
        assignment, distance = _nearest(features, norms, centroids)
        if torch.equal(assignment, previous):
            break
    return assignment, float(distance.sum())


def _nearest(features: Tensor, norms: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor]:
    """Find the nearest centroid of every row, and the squared distance to it; no cluster stays empty."""
    squares = centroids.square().sum(dim=1)
    blocks = torch.split(features, _block_rows(max(centroids.shape)))
    nearest = [torch.addmm(squares, block.float(), centroids.T, alpha=-2).min(dim=1) for block in blocks]
    distance = (torch.cat([found.values for found in nearest]) + norms).clamp_min(0)
    return _fill_empty(torch.cat([found.indices for found in nearest]), distance, len(centroids))


def _means(features: Tensor, assignment: Tensor, num_clusters: int) -> Tensor:
    """Average the rows of every cluster.

    A product with the one-hot assignment: sums by scattered adds would depend on the order of the GPU's threads.
    """
    clusters = torch.arange(num_clusters, device=features.device)
    rows = _block_rows(max(num_clusters, features.shape[1]))
    sums = torch.zeros(num_clusters, features.shape[1], device=features.device)
    for block, labels in zip(torch.split(features, rows), torch.split(assignment, rows), strict=True):
        sums += (labels[:, None] == clusters).float().T @ block.float()
    return sums / torch.bincount(assignment, minlength=num_clusters)[:, None]


def _block_rows(width: int) -> int:
    """Count the rows that fit into a block when each needs ``width`` numbers."""
    return max(1, _BLOCK_ELEMENTS // width)


def _fill_empty(assignment: Tensor, distance: Tensor, num_clusters: int) -> tuple[Tensor, Tensor]:
    """Give every empty cluster the row farthest from its centroid, out of a cluster that keeps another row."""
    counts = torch.bincount(assignment, minlength=num_clusters).tolist()
    empty = [cluster for cluster, count in enumerate(counts) if count == 0]
    if not empty:
        return assignment, distance
    assignment, distance = assignment.clone(), distance.clone()
    farthest_first = iter(distance.argsort(descending=True, stable=True).tolist())
    for cluster in empty:
        # A cluster seen with one row never gains another, so the rows passed over need no second look.
        row = next(row for row in farthest_first if counts[int(assignment[row])] > 1)
        counts[int(assignment[row])] -= 1
        counts[cluster] = 1
        assignment[row], distance[row] = cluster, 0
    return assignment, distance
