"""Clusters that batches can be drawn from: cluster until they are usable, and split one in two."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from divconq_pl.core.clustering import Cluster
from divconq_pl.core.units import Units

TRIALS = 30
"""How often a clustering is repeated until every cluster can give batches (as in the authors' code)."""

Trials = Callable[[Units, int], tuple[Tensor, bool]]


def cluster_until_usable(
    units: Units, num_clusters: int, *, cluster: Cluster, seed: int, centres: Tensor | None = None
) -> tuple[Tensor, bool]:
    """Cluster with one seed after another until every cluster can give batches.

    Args:
        units: what is clustered.
        num_clusters: K.
        cluster: see :data:`.Cluster`.
        seed: seed of the first trial.
        centres: where the first trial starts, shape (K, D); the others start anew.

    Returns:
        The cluster of each unit, shape (U,), and whether all clusters are usable.
    """
    assignment = torch.zeros(len(units), dtype=torch.int64)
    if len(units) < 2 * num_clusters or len(units.classes) < 4 * num_clusters:
        return assignment, False
    for trial in range(TRIALS):
        start = {} if trial or centres is None else {"centres": centres}
        assignment = cluster(units.features, num_clusters, seed=seed + trial, **start)
        if units.are_usable(assignment, num_clusters):
            return assignment, True
    return assignment, False


@torch.no_grad()
def split(units: Units, trials: Trials) -> Tensor | None:
    """Split a cluster in two by 2-means.

    Where no trial gives two usable halves, the units are ordered by how much nearer they lie to one centre than to the
    other, and cut at the usable place nearest to the boundary of 2-means.

    Args:
        units: what is in the cluster, of n images.
        trials: clusters units, and tells whether the clusters are usable.

    Returns:
        0 or 1 for each image, shape (n,); None if no cut leaves two usable halves.
    """
    if len(units) < 4 or len(units.classes) < 8:
        return None
    halves, usable = trials(units, 2)
    if not usable:
        cut = _cut(units, halves)
        if cut is None:
            return None
        halves = cut
    return halves[units.unit_of]


def _cut(units: Units, halves: Tensor) -> Tensor | None:
    """Cut the units in order from one half to the other where both sides are usable; None if there is no such place."""
    centres = units.find_centres(halves[units.unit_of], 2)
    if centres is None:
        return None
    features = units.features
    with torch.autocast(features.device.type, enabled=False):
        axis = centres[1] - centres[0]
        towards_one = features.gathered(torch.cat([block @ axis for block in features.blocks()]))
        boundary = float(centres[1] @ centres[1] - centres[0] @ centres[0]) / 2
    order = torch.argsort(towards_one)
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order))
    classes = units.classes[torch.argsort(place[units.unit_of], stable=True)]
    ends = torch.bincount(place[units.unit_of]).cumsum(0)  # the images in the first units
    first = int(torch.searchsorted(ends, _usable_from(classes))) + 1
    last = int(torch.searchsorted(ends, len(classes) - _usable_from(classes.flip(0)), right=True))
    if first > last:
        return None
    cut = min(max(int((towards_one <= boundary).sum()), first), last)
    return (place >= cut).long()


def _usable_from(classes: Tensor) -> int:
    """Return how many of the first images it takes to hold two classes twice (more than all if none suffice)."""
    by_class = torch.argsort(classes, stable=True)
    counts = torch.unique(classes, return_counts=True)[1]
    starts = counts.cumsum(0) - counts
    seconds = by_class[starts[counts > 1] + 1].sort().values
    return int(seconds[1]) + 1 if len(seconds) > 1 else len(classes) + 1
