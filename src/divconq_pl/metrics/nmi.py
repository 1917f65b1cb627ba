"""Normalised mutual information of classes and clusters."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from sklearn.metrics import normalized_mutual_info_score
from torch import Tensor

from divconq_pl.core.kmeans import kmeans
from divconq_pl.errors import InputError
from divconq_pl.metrics.neighbours import checked_unit_rows

_PAPERS_KMEANS = partial(kmeans, iterations=100, restarts=1)


def nmi(
    embeddings: Tensor,
    labels: Tensor,
    *,
    runs: int = 1,
    seed: int = 0,
    cluster: Callable[..., Tensor] | None = None,
) -> float:
    """Compute the normalised mutual information of classes and as many k-means clusters.

    With 10 runs as in the authors' code (CompVis/metric-learning-divide-and-conquer-improved): the mean over the seeds
    0 to 9, each one start of at most 100 iterations, arithmetic normalisation. Of a test set with query and gallery
    theirs clusters both together; give both concatenated.

    Dear: with the 11 thousand classes of Stanford Online Products one k-means takes minutes.

    Args:
        embeddings: Shape (N, d); L2-normalised here.
        labels: Classes, shape (N,).
        runs: k-means runs to average over; the usual protocol takes 10.
        seed: Seed of the first run; the others follow with seed + 1, seed + 2, ...
        cluster: `cluster(features, num_clusters, seed=...)` giving one cluster index per row, in place of this
            package's `kmeans`.

    Returns:
        NMI in [0, 1] with arithmetic normalisation, the mean over the runs.

    Raises:
        InputError: If shapes do not fit, runs is below 1, or an embedding is NaN or infinite.
    """
    if runs < 1:
        raise InputError(f"NMI cannot be averaged over runs = {runs}: give at least 1")
    if labels.ndim != 1 or len(labels) != len(embeddings):
        raise InputError(
            f"labels of shape {tuple(labels.shape)} do not fit {len(embeddings)} embeddings: give one for each"
        )
    features = checked_unit_rows(embeddings, "embeddings")
    num_classes = len(torch.unique(labels))
    scores = []
    for run in range(runs):
        clusters = (cluster or _PAPERS_KMEANS)(features, num_classes, seed=seed + run)
        scores.append(normalized_mutual_info_score(labels.cpu().numpy(), clusters.cpu().numpy()))
    return float(sum(scores) / runs)
