"""Normalised mutual information of classes and clusters."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from sklearn.metrics import normalized_mutual_info_score
from torch import Tensor

from divconq_pl.core.kmeans import kmeans
from divconq_pl.errors import InputError
from divconq_pl.metrics.neighbours import check_unit_rows

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

    10 runs do what the authors' code does (CompVis/metric-learning-divide-and-conquer-improved): the mean over the
    seeds 0 to 9, k-means from one start and of at most 100 iterations each, arithmetic normalisation. That code
    clusters query and gallery together; give both concatenated.

    This is slow where there are many classes: with the 11 thousand of Stanford Online Products, one k-means takes
    minutes.

    Args:
        embeddings: shape (N, d); L2-normalised here.
        labels: classes, shape (N,).
        runs: k-means runs to average over; usually 10.
        seed: seed of the first run; the others follow with seed + 1, seed + 2, ...
        cluster: ``cluster(features, num_clusters, seed=...)`` gives the cluster of each row; by default
            :func:`.core.kmeans.kmeans`.

    Returns:
        NMI in [0, 1], the mean over the runs.

    Raises:
        InputError: if shapes do not fit, runs is below 1, or an embedding is NaN or infinite.
    """
    if runs < 1:
        raise InputError(f"NMI cannot be averaged over runs={runs}; use 1 or more")
    if labels.ndim != 1 or len(labels) != len(embeddings):
        raise InputError(
            f"labels of shape {tuple(labels.shape)} do not fit {len(embeddings)} embeddings; give one for each"
        )
    features = check_unit_rows(embeddings, "embeddings")
    num_classes = len(torch.unique(labels))
    scores = []
    for run in range(runs):
        clusters = (cluster or _PAPERS_KMEANS)(features, num_classes, seed=seed + run)
        scores.append(normalized_mutual_info_score(labels.cpu().numpy(), clusters.cpu().numpy()))
    return float(sum(scores) / runs)
