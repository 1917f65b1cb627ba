"""The clusterings a user can choose by name, and where a division's clustering starts."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor

from divconq_pl.core.features import Features, on_whole
from divconq_pl.core.kmeans import kmeans
from divconq_pl.errors import InputError

Cluster = Callable[..., Tensor]
"""``cluster(features, num_clusters, seed=...)`` gives the cluster of each row, like :func:`.kmeans`.

One that can start from given centres also takes ``centres=...``, shape (K, D).
"""

Start = Literal["anew", "same_seed", "previous"]
"""Where the clustering of a division starts: with other seeds than the last one, with the same seeds as in the authors'
code, or at the centres of the last division's clusters."""


def cluster_randomly(features: Features, num_clusters: int, *, seed: int) -> Tensor:
    """Put every row into one of ``num_clusters`` equally likely clusters, whatever its features: a control.

    Args:
        features: N rows; only their number matters.
        num_clusters: K.
        seed: of the draw.

    Returns:
        (N,) int64 on the CPU, cluster of every row.

    Example:
        >>> cluster_randomly(Features(torch.zeros(6, 1)), 2, seed=0).tolist()
        [0, 1, 1, 0, 1, 1]
    """
    return torch.randint(num_clusters, (len(features),), generator=torch.Generator().manual_seed(seed))


CLUSTERINGS: dict[str, Cluster] = {
    "auto": partial(kmeans, backend="auto"),
    "faiss": partial(kmeans, backend="faiss"),
    "torch": partial(kmeans, backend="torch"),
    "random": cluster_randomly,
}
"""What ``clustering=NAME`` stands for: functions of :class:`.Features`, a number of clusters and a seed."""


def choose_clustering(clustering: str | Cluster, start: Start = "anew") -> Cluster:
    """Return the clustering of :class:`.Features` that a user chose: one of :data:`CLUSTERINGS`, or a function.

    ``kmeans`` itself, also with options (``partial(kmeans, max_rows=...)``), works on the features where they are; any
    other function gets them as a plain tensor, see :func:`.on_whole`.

    Args:
        clustering: a name or a function.
        start: where it will have to start.

    Raises:
        InputError: if a name is unknown, or the clustering cannot start from given centres and has to.
    """
    check_start(start)
    if isinstance(clustering, str):
        if clustering not in CLUSTERINGS:
            raise InputError(f"clustering={clustering!r} is unknown; choose {_listed(CLUSTERINGS)}, or give a function")
        cluster = CLUSTERINGS[clustering]
    else:
        innermost = clustering.func if isinstance(clustering, partial) else clustering
        cluster = clustering if innermost is kmeans else on_whole(clustering)
    if start == "previous" and not _takes_centres(cluster if isinstance(clustering, str) else clustering):
        raise InputError(
            f"start='previous' hands over the centres of the last division, which clustering={clustering!r} does not "
            "take as an argument centres; choose start='anew' or 'same_seed'"
        )
    return cluster


def check_start(start: str) -> None:
    """Refuse what is no :data:`Start`.

    Raises:
        InputError: with the choices.
    """
    if start not in get_args(Start):
        raise InputError(f"start={start!r} is unknown; choose {_listed(get_args(Start))}")


def _takes_centres(function: Cluster) -> bool:
    parameters = inspect.signature(function).parameters
    return "centres" in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def _listed(names: Iterable[str]) -> str:
    *most, last = map(repr, names)
    return f"{', '.join(most)} or {last}"
