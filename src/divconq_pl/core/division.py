"""Who is in which cluster: match a clustering with the last one, and split it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from divconq_pl.core.clustering import Cluster, Start, check_start
from divconq_pl.core.features import Features, on_whole
from divconq_pl.core.splitting import TRIALS, cluster_until_usable, split
from divconq_pl.core.units import Units


@dataclass(frozen=True)
class Division:
    """An assignment of every training image to one of ``2 ** depth`` clusters, one for each learner.

    Attributes:
        assignment: cluster of each image, int64, shape (N,).
        depth: depth of the tree of clusters.
    """

    assignment: Tensor
    depth: int

    @property
    def num_clusters(self) -> int:
        """K, the number of clusters and of learners."""
        return 1 << self.depth

    @classmethod
    def undivided(cls, num_images: int) -> Division:
        """Return the division in which everything is one cluster."""
        return cls(torch.zeros(num_images, dtype=torch.int64), 0)

    def merged(self, depth: int) -> Division:
        """Return the division at a smaller depth, in which siblings share a cluster."""
        return Division(self.assignment >> (self.depth - depth), depth)


def divide(
    features: Tensor | Features,
    labels: Tensor,
    previous: Division,
    depth: int,
    *,
    cluster: Cluster,
    flat: bool = False,
    start: Start = "anew",
    whole_classes: bool = False,
    seed: int = 0,
    epoch: int = 0,
) -> Division:
    """Divide the images anew: cluster, match with the previous division, split down to ``depth``.

    Top-down, the features are clustered into as many clusters as there were, which are matched with those so that
    learners keep their data, and then halved until there are ``2 ** depth`` (TPAMI 2021; the children of learner k are
    2k and 2k + 1). Flat, they are clustered into ``2 ** depth`` at once (CVPR 2019). Every clustering is repeated with
    other seeds until each cluster can give batches, at most 30 times. Where several processes share the features, all
    of them call this and get the same division.

    Args:
        features: features of the images, shape (N, D).
        labels: classes of the images, shape (N,).
        previous: the division so far.
        depth: depth to reach.
        cluster: k-means, see :data:`.Cluster`; it gets a tensor if ``features`` are one, otherwise :class:`.Features`.
        flat: make all clusters at once.
        start: where the clustering starts. ``"anew"``: with other seeds in each epoch; ``"same_seed"``: with the same
            ones, as in the authors' code; ``"previous"``: at the centres that the previous clusters have in the present
            features, and with other seeds only where that leaves an unusable cluster. Splits always use seeds.
        whole_classes: cluster the means of the classes instead of the images, so that no class is cut.
        seed: seed of all divisions.
        epoch: the epoch that begins with this division.

    Returns:
        The new division. It is shallower than ``depth`` where the data cannot be split so far, and has the previous
        assignment where they cannot be clustered anew.

    Raises:
        InputError: if ``start`` is unknown.
    """
    check_start(start)
    if isinstance(features, Tensor):
        features, cluster = Features(features), on_whole(cluster)
    classes = torch.unique(labels, return_inverse=True)[1]
    units_of = Units.of_classes if whole_classes else Units.of_images
    first_seed = seed if start == "same_seed" else seed + TRIALS * epoch
    trials = partial(cluster_until_usable, cluster=cluster, seed=first_seed)

    if flat and previous.depth < depth:
        units = units_of(features, classes)
        assignment, usable = trials(units, 2**depth)
        return Division(assignment[units.unit_of], depth) if usable else previous

    division = previous
    if previous.depth:
        units, num_clusters = units_of(features, classes), previous.num_clusters
        centres = units.find_centres(previous.assignment, num_clusters) if start == "previous" else None
        assignment, usable = trials(units, num_clusters, centres=centres)
        if usable:
            renamed = match(assignment[units.unit_of], previous.assignment, num_clusters)
            division = Division(renamed, previous.depth)

    while division.depth < depth:
        halves = torch.zeros_like(division.assignment)
        for k in range(division.num_clusters):
            members = torch.nonzero(division.assignment == k).squeeze(1)
            half = split(units_of(features.subset(members), classes[members]), trials)
            if half is None:
                return division
            halves[members] = half
        division = Division(2 * division.assignment + halves, division.depth + 1)
    return division


def match(new: Tensor, old: Tensor, num_clusters: int) -> Tensor:
    """Rename new clusters after the old ones so that as many images as possible stay where they were.

    The cost of pairing two clusters is the number of images in exactly one of them; the sum is minimised by linear
    assignment (the Hungarian method).

    Args:
        new: new clusters, shape (N,).
        old: old clusters, shape (N,).
        num_clusters: K; both hold values 0..K-1.

    Returns:
        The new clusters under their old names, shape (N,).

    Example:
        >>> match(torch.tensor([1, 1, 0]), torch.tensor([0, 0, 1]), 2)
        tensor([0, 0, 1])
    """
    both = torch.bincount(new * num_clusters + old, minlength=num_clusters**2).view(num_clusters, num_clusters)
    in_exactly_one = both.sum(1, keepdim=True) + both.sum(0, keepdim=True) - 2 * both
    rows, names = linear_sum_assignment(in_exactly_one.numpy())
    renamed = torch.empty(num_clusters, dtype=torch.int64)
    renamed[torch.from_numpy(rows)] = torch.from_numpy(names)
    return renamed[new]
