"""K-means: the one function that turns features into a flat assignment to clusters."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from types import ModuleType
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from divconq_pl.core.features import Features, on_whole
from divconq_pl.errors import InputError

Backend = Literal["auto", "faiss", "torch"]

_START_ROWS_PER_CLUSTER = 128


@torch.no_grad()
def kmeans(
    features: Tensor | Features,
    num_clusters: int,
    *,
    seed: int,
    backend: Backend = "auto",
    iterations: int = 20,
    restarts: int = 3,
    max_rows: int = 2**17,
    centres: Tensor | None = None,
) -> Tensor:
    """Assign every row of ``features`` to one of ``num_clusters`` clusters, none of them empty.

    Both backends begin every restart with k-means++ and keep the restart with the lowest inertia; given ``centres``,
    they begin with these, once. The same seed gives the same assignment; no global random state is read or moved.
    Beyond ``max_rows`` rows the centroids are found on a sample, spread evenly over the rows, and every row then goes
    to the nearest one: beside the features and the assignment, only the sample takes memory.

    Where several processes share the features, torch reduces sums, counts and inertia over them. Starts and samples are
    drawn from the rows of all, so the assignment does not depend on how many processes there are, up to the order of
    floating-point sums.

    Args:
        features: (N, D), any floating type, on any device. Distances are Euclidean and computed in float32: normalise
            the rows beforehand for cosine geometry. :class:`.Features` are taken to be finite.
        num_clusters: K, at most N.
        seed: of the starts.
        backend: ``"faiss"`` (on the GPU that holds the features when faiss can, else on the CPU), ``"torch"`` (on the
            device of the features), or ``"auto"``: faiss where it is installed, can run on that device and a single
            process holds the features, else torch. ``"faiss"`` with several processes gathers the features on each.
        iterations: most Lloyd iterations in one restart; it stops early when the assignment no longer changes.
        restarts: number of starts.
        max_rows: most rows to find the centroids on, though at least 128 for each cluster.
        centres: (K, D), centroids to start from, the same on all processes; cluster k grows out of row k.

    Returns:
        (N,) int64 on the CPU, cluster of every row, each of 0 .. K-1 at least once.

    Raises:
        InputError: fewer rows than clusters, features or centres that are not finite, centres of another shape, or a
            backend that is not installed.

    Example:
        >>> features = torch.tensor([[0.0, 0.1], [5.0, 5.0], [0.1, 0.0], [5.1, 5.0]])
        >>> assignment = kmeans(features, 2, seed=0)
        >>> bool(assignment[0] == assignment[2] != assignment[1])
        True
    """
    if isinstance(features, Tensor):
        _check_finite(features := Features(features))
    _check_arguments(features, num_clusters, backend, iterations, restarts, max_rows)
    if centres is not None:
        _check_centres(centres, num_clusters, features.width)
    if num_clusters == 1:
        return torch.zeros(len(features), dtype=torch.int64)
    faiss = None
    if backend == "faiss" or (backend == "auto" and features.world_size == 1):
        faiss = _find_faiss(features.device, required=backend == "faiss")
    if faiss is not None and features.world_size > 1:
        alone = partial(kmeans, backend=backend, iterations=iterations, restarts=restarts, max_rows=max_rows)
        return on_whole(alone)(features, num_clusters, seed=seed, centres=centres)
    generator = torch.Generator().manual_seed(seed)
    # Inside an autocast region the products would be rounded to half precision, and distances with them.
    with torch.autocast(features.device.type, enabled=False):
        sample = _sample(features, max(max_rows, _START_ROWS_PER_CLUSTER * num_clusters), generator).in_memory()
        starts: Iterator[Tensor] = (_plus_plus_start(sample, num_clusters, generator) for _ in range(restarts))
        if centres is not None:
            starts = iter([features.agreed(centres.to(features.device).float())])
        if faiss is None:
            norms = _norms(sample)
            centroids = _best(_lloyd(sample, norms, start, iterations) for start in starts)
            found = _nearest(features, centroids)
        else:
            solver = _faiss_solver(faiss, sample, num_clusters, iterations)
            centroids = _best(_train_faiss(solver, sample, starts))
            found = _nearest_faiss(solver, features, centroids)
        assignment, _ = _fill_empty_of_all(features, *found, num_clusters)
        return features.gathered(assignment.int()).long()


def _check_arguments(
    features: Features, num_clusters: int, backend: str, iterations: int, restarts: int, max_rows: int
) -> None:
    if min(num_clusters, iterations, restarts, max_rows) < 1:
        raise InputError(
            "num_clusters, iterations, restarts and max_rows must be at least 1, "
            f"got {num_clusters}, {iterations}, {restarts} and {max_rows}."
        )
    if len(features) < num_clusters:
        raise InputError(
            f"{len(features)} images cannot fill {num_clusters} clusters: use at most {len(features)} clusters "
            "(a smaller split depth) or more images."
        )
    if backend not in get_args(Backend):
        raise InputError(f"Unknown clustering backend {backend!r}: use 'auto', 'faiss' or 'torch'.")


def _check_centres(centres: Tensor, num_clusters: int, width: int) -> None:
    if centres.shape != (num_clusters, width) or not centres.isfinite().all():
        raise InputError(
            f"the centres to start from, of shape {tuple(centres.shape)}, must be {num_clusters} finite rows, one for "
            f"each cluster, of {width} numbers."
        )


def _check_finite(features: Features) -> None:
    sums = torch.cat([block.sum(dim=1) for block in features.blocks()])
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


def _sample(features: Features, num_rows: int, generator: torch.Generator) -> Features:
    """Draw a row at random from each of ``num_rows`` stretches of equal length; take all rows if there are no more.

    All rows are equally likely. Where two stretches meet within a row, both may draw it.
    """
    if len(features) <= num_rows:
        return features
    places = torch.rand(num_rows, generator=generator, dtype=torch.float64) + torch.arange(num_rows)
    return features.subset((places * (len(features) / num_rows)).long().clamp_max(len(features) - 1))


def _plus_plus_start(features: Features, num_clusters: int, generator: torch.Generator) -> Tensor:
    """Draw K starting centroids, (K, D) float32, by k-means++ (Arthur and Vassilvitskii, 2007).

    They are drawn from a uniform sample of the rows: on all rows the start would cost as much as several iterations,
    and it would favour single outliers, which make useless clusters.
    """
    num_rows = min(len(features), _START_ROWS_PER_CLUSTER * num_clusters)
    rows = features.rows(torch.randperm(len(features), generator=generator)[:num_rows])
    centroids = rows[:1]
    # The sample is in random order: its first row is a uniform draw.
    nearest = torch.full((num_rows,), torch.inf)
    for _ in range(num_clusters - 1):
        distance = torch.cdist(rows, centroids[-1:], compute_mode="donot_use_mm_for_euclid_dist").square()
        nearest = torch.minimum(nearest, distance.flatten().cpu())
        weights = nearest if nearest.any() else torch.ones_like(nearest)
        chosen = int(torch.multinomial(weights, 1, generator=generator))
        centroids = torch.cat([centroids, rows[chosen : chosen + 1]])
    return features.agreed(centroids)  # GPUs of different kinds may differ in the last bit, and then in a draw


def _best(runs: Iterable[tuple[Tensor, float]]) -> Tensor:
    """Return the centroids with the lowest inertia; the first of those that differ by no more than rounding."""
    best, lowest = None, float("inf")
    for centroids, inertia in runs:
        if best is None or inertia < lowest * (1 - 1e-6):
            best, lowest = centroids, inertia
    assert best is not None
    return best


def _faiss_solver(faiss: ModuleType, features: Features, num_clusters: int, iterations: int) -> Any:
    num_rows = len(features)
    options = {"niter": iterations, "min_points_per_centroid": 1, "max_points_per_centroid": num_rows}
    if hasattr(faiss.ClusteringParameters, "check_input_data_for_NaNs"):
        options["check_input_data_for_NaNs"] = False  # done once by us; faiss would repeat it at every restart
    solver = faiss.Kmeans(features.width, num_clusters, **options)
    if features.device.type == "cuda" and faiss.get_num_gpus() > 0:
        # Kmeans(gpu=...) can only count GPUs from 0; every rank of a run must use its own.
        solver.index = faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), features.device.index, solver.index)
    return solver


def _train_faiss(solver: Any, features: Features, starts: Iterator[Tensor]) -> Iterator[tuple[Tensor, float]]:
    rows = features.whole().cpu().contiguous().numpy()  # no copy for contiguous float32 rows on the CPU
    for start in starts:
        inertia = solver.train(rows, init_centroids=start.cpu().numpy())
        yield torch.from_numpy(solver.centroids), float(inertia)


def _nearest_faiss(solver: Any, features: Features, centroids: Tensor) -> tuple[Tensor, Tensor]:
    solver.index.reset()
    solver.index.add(centroids.numpy())
    found = [solver.index.search(block.cpu().contiguous().numpy(), 1) for block in features.blocks()]
    distances, assignments = (torch.from_numpy(np.concatenate(parts)[:, 0]) for parts in zip(*found, strict=True))
    return assignments.to(features.device), distances.to(features.device)


def _norms(features: Features) -> Tensor:
    return torch.cat([block.square().sum(dim=1) for block in features.blocks()])


def _lloyd(features: Features, norms: Tensor, centroids: Tensor, iterations: int) -> tuple[Tensor, float]:
    """Alternate assignment and means from one start; return the centroids and their inertia."""
    num_clusters = len(centroids)
    assignment, distance = _fill_empty_of_all(features, *_nearest(features, centroids, norms), num_clusters)
    for _ in range(iterations):
        previous = assignment
        centroids = features.means(assignment, num_clusters)
        assignment, distance = _fill_empty_of_all(features, *_nearest(features, centroids, norms), num_clusters)
        if not int(features.total((assignment != previous).sum())):
            break
    return centroids, float(features.total(distance.sum()))


def _nearest(features: Features, centroids: Tensor, norms: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Find the nearest centroid of every row of this process, and the squared distance to it."""
    squares = centroids.square().sum(dim=1)
    found = []
    for block in features.blocks(len(centroids)):
        nearest = torch.addmm(squares, block, centroids.T, alpha=-2).min(dim=1)
        distance = nearest.values + block.square().sum(dim=1) if norms is None else nearest.values
        found.append((nearest.indices, distance))
    assignment, distance = (torch.cat(parts) for parts in zip(*found, strict=True))
    return assignment, (distance if norms is None else distance + norms).clamp_min(0)


def _fill_empty_of_all(
    features: Features, assignment: Tensor, distance: Tensor, num_clusters: int
) -> tuple[Tensor, Tensor]:
    """Do the same as :func:`_fill_empty` for the rows of all processes."""
    counts = features.total(torch.bincount(assignment, minlength=num_clusters))
    if counts.all():
        return assignment, distance
    filled = _fill_empty(features.gathered(assignment), features.gathered(distance), num_clusters)
    return features.share(filled[0]), features.share(filled[1])


def _fill_empty(assignment: Tensor, distance: Tensor, num_clusters: int) -> tuple[Tensor, Tensor]:
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
