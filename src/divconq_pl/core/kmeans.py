"""K-means: the one function that turns features into a flat assignment to clusters."""

from __future__ import annotations

import math
from functools import partial
from types import ModuleType
from typing import Literal, get_args

import torch
from torch import Tensor

from divconq_pl.core.features import Features, on_whole
from divconq_pl.core.lloyd import FaissLloyd, Lloyd, TorchLloyd, fill_empty_of_all
from divconq_pl.errors import InputError

Backend = Literal["auto", "faiss", "torch"]

_START_ROWS_PER_CLUSTER = 128
_RESTART_ROWS_PER_CLUSTER = 512
_RESTART_ROWS = 2**14  # in all, at least: the few means of few clusters need them, too
_SETTLED = 0.001


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

    In two stages: several starts by k-means++ are followed on a sample of 512 rows for each cluster (16,384 or more),
    and the one with the lowest inertia goes on with all rows until no more than one in a thousand changes its cluster.
    On all rows each start would take longer than both stages, and find clusters no better (docs/benchmarks.md). With no
    more rows than that there is one stage, and from given ``centres`` the second alone. The same seed gives the same
    assignment; no global random state is read or moved. Beyond ``max_rows`` rows the second stage has a sample, too,
    spread evenly over them, and every row then goes to the nearest centroid: beside the features and the assignment,
    only the samples take memory.

    Where several processes share the features, torch reduces sums, counts and inertia over them. Starts and samples are
    drawn from the rows of all, so the assignment does not depend on how many processes there are, up to the order of
    floating-point sums.

    Args:
        features: (N, D), any floating type, on any device. Distances are Euclidean and computed in float32: normalise
            the rows beforehand for cosine geometry. :class:`.Features` are taken to be finite.
        num_clusters: K, at most N.
        seed: of the starts.
        backend: ``"torch"``, on the device of the features; ``"auto"`` is the same, as torch was faster than faiss with
            any number of clusters; ``"faiss"``, on the GPU that holds the features when faiss can, else on the CPU.
            With several processes faiss gathers the features on each.
        iterations: most Lloyd iterations of a start, which stops early when the assignment no longer changes; the
            second stage has half as many.
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
    faiss = _import_faiss() if backend == "faiss" else None
    if faiss is not None and features.world_size > 1:
        alone = partial(kmeans, backend=backend, iterations=iterations, restarts=restarts, max_rows=max_rows)
        return on_whole(alone)(features, num_clusters, seed=seed, centres=centres)
    lloyd: Lloyd = TorchLloyd() if faiss is None else FaissLloyd(faiss, features.device)
    generator = torch.Generator().manual_seed(seed)
    # Inside an autocast region the products would be rounded to half precision, and distances with them.
    with torch.autocast(features.device.type, enabled=False):
        rows = _sample(features, max(max_rows, _START_ROWS_PER_CLUSTER * num_clusters), generator)
        for_starts = max(_RESTART_ROWS, _RESTART_ROWS_PER_CLUSTER * num_clusters)
        settled = int(_SETTLED * len(rows)) if len(rows) > for_starts else 0
        if centres is not None:
            start = features.agreed(centres.to(features.device).float())
            centroids, _ = lloyd.solve(rows.in_memory(), start, iterations, settled)
        else:
            few = _sample(rows, for_starts, generator)
            centroids = _best_restart(lloyd, few.in_memory(), num_clusters, iterations, restarts, generator)
            if len(few) < len(rows):
                centroids, _ = lloyd.solve(rows.in_memory(), centroids, -(-iterations // 2), settled)
        found = lloyd.nearest(features, centroids)
        assignment, _ = fill_empty_of_all(features, *found, num_clusters)
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


def _import_faiss() -> ModuleType:
    try:
        import faiss
    except ModuleNotFoundError as error:
        raise InputError(
            "backend='faiss' needs faiss, which is not installed: "
            'pip install "divconq-pl[cpu]" (or "divconq-pl[gpu]"), or use backend=\'torch\'.'
        ) from error
    module: ModuleType = faiss
    return module


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


def _best_restart(
    lloyd: Lloyd, rows: Features, num_clusters: int, iterations: int, restarts: int, generator: torch.Generator
) -> Tensor:
    """Return the centroids with the lowest inertia; the first of those that differ by no more than rounding."""
    best, lowest = torch.empty(0), math.inf
    for _ in range(restarts):
        start = _plus_plus_start(rows, num_clusters, generator)
        centroids, inertia = lloyd.solve(rows, start, iterations)
        if not len(best) or inertia < lowest * (1 - 1e-6):
            best, lowest = centroids, inertia
    return best
