"""Who is in which cluster: match a clustering with the last one, split it, keep it usable."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from divconq_pl.core.features import Features, on_whole
from divconq_pl.errors import InputError

TRIALS = 30
"""How often a clustering is repeated until every cluster can give batches (as in the authors' code)."""

Cluster = Callable[..., Tensor]
"""``cluster(features, num_clusters, seed=...)`` gives the cluster of each row, like :func:`.clustering.kmeans`."""

Trials = Callable[[Features, Tensor, int], tuple[Tensor, bool]]


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
    seed: int = 0,
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
        cluster: k-means, see :data:`Cluster`; it gets a tensor if ``features`` are one, otherwise :class:`.Features`.
        flat: make all clusters at once.
        seed: seed of the first trial.

    Returns:
        The new division. It is shallower than ``depth`` where the data cannot be split so far, and has the previous
        assignment where they cannot be clustered anew.
    """
    if isinstance(features, Tensor):
        features, cluster = Features(features), on_whole(cluster)
    classes = torch.unique(labels, return_inverse=True)[1]
    trials = partial(_cluster_until_usable, cluster=cluster, seed=seed)
    if flat and previous.depth < depth:
        assignment, usable = trials(features, classes, 2**depth)
        return Division(assignment, depth) if usable else previous
    division = previous
    if previous.depth:
        assignment, usable = trials(features, classes, previous.num_clusters)
        if usable:
            division = Division(match(assignment, previous.assignment, previous.num_clusters), previous.depth)
    while division.depth < depth:
        halves = torch.zeros_like(division.assignment)
        for k in range(division.num_clusters):
            members = torch.nonzero(division.assignment == k).squeeze(1)
            half = split(features.subset(members), classes[members], trials)
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


@torch.no_grad()
def split(features: Features, classes: Tensor, trials: Trials) -> Tensor | None:
    """Split a cluster in two by 2-means.

    Where no trial gives two usable halves, the images are ordered by how much nearer they lie to one centre than to the
    other, and cut at the usable place nearest to the boundary of 2-means.

    Args:
        features: features of the cluster's images, shape (n, D).
        classes: their classes, shape (n,).
        trials: clusters the features, and tells whether the clusters are usable.

    Returns:
        0 or 1 for each image, shape (n,); None if no cut leaves two usable halves.
    """
    if len(features) < 8:
        return None
    halves, usable = trials(features, classes, 2)
    if usable:
        return halves
    with torch.autocast(features.device.type, enabled=False):
        centres = features.means(features.share(halves), 2)
        axis = centres[1] - centres[0]
        towards_one = features.gathered(torch.cat([block @ axis for block in features.blocks()]))
    order = torch.argsort(towards_one)
    first = _usable_from(classes[order])
    last = len(order) - _usable_from(classes[order].flip(0))
    if first > last:
        return None
    boundary = float(centres[1] @ centres[1] - centres[0] @ centres[0]) / 2
    cut = min(max(int((towards_one <= boundary).sum()), first), last)
    halves = torch.zeros_like(halves)
    halves[order[cut:]] = 1
    return halves


def _usable_from(classes: Tensor) -> int:
    """Return how many of the first images it takes to hold two classes twice (more than all if none suffice)."""
    by_class = torch.argsort(classes, stable=True)
    counts = torch.unique(classes, return_counts=True)[1]
    starts = counts.cumsum(0) - counts
    seconds = by_class[starts[counts > 1] + 1].sort().values
    return int(seconds[1]) + 1 if len(seconds) > 1 else len(classes) + 1


def usable_images(assignment: Tensor, labels: Tensor) -> Tensor:
    """Tell which images share their cluster with another one of their class; a lone image has no positive.

    Args:
        assignment: cluster of each image, shape (N,).
        labels: class of each image, shape (N,).

    Returns:
        A mask, bool, shape (N,).

    Example:
        >>> usable_images(torch.tensor([0, 0, 1]), torch.tensor([5, 5, 5]))
        tensor([ True,  True, False])
    """
    class_of, num_classes = _numbered(labels)
    group = assignment * num_classes + class_of
    return torch.bincount(group)[group] > 1


def classes_per_cluster(assignment: Tensor, labels: Tensor, num_clusters: int) -> Tensor:
    """Count the classes with at least two images in each cluster, shape (K,); a cluster is usable with two of them."""
    class_of, num_classes = _numbered(labels)
    counts = torch.bincount(assignment * num_classes + class_of, minlength=num_clusters * num_classes)
    return (counts.view(num_clusters, num_classes) > 1).sum(dim=1)


def _numbered(labels: Tensor) -> tuple[Tensor, int]:
    """Return classes from 0 on, and a number that is above all of them; sorted only if they are not so already."""
    if len(labels) and int(labels.min()) >= 0 and int(labels.max()) < 2 * len(labels):
        return labels, int(labels.max()) + 1
    classes, class_of = torch.unique(labels, return_inverse=True)
    return class_of, len(classes)


def check_divisible(labels: Tensor, num_clusters: int) -> None:
    """Refuse labels that no division into ``num_clusters`` usable clusters exists for.

    Each cluster needs two classes with two images each.

    Raises:
        InputError: with the counts, and the split depth that would work.
    """
    counts = torch.unique(labels, return_counts=True)[1]

    def enough(clusters: int) -> bool:
        return int(torch.clamp(counts // 2, max=clusters).sum()) >= 2 * clusters

    if not enough(1):
        several = int((counts > 1).sum())
        raise InputError(
            f"{len(labels)} images of {len(counts)} classes, {several} of them with two or more images; "
            "two such classes are needed to form positive and negative pairs"
        )
    if not enough(num_clusters):
        depth = max(d for d in range(num_clusters.bit_length()) if enough(2**d))
        raise InputError(
            f"{len(labels)} images of {len(counts)} classes cannot be divided into {num_clusters} clusters of at least "
            f"two classes with two images each; use split_depth={depth} or less"
        )


def _cluster_until_usable(
    features: Features, classes: Tensor, num_clusters: int, *, cluster: Cluster, seed: int
) -> tuple[Tensor, bool]:
    """Cluster with one seed after another until every cluster can give batches; tell whether that was reached."""
    assignment = torch.zeros(len(classes), dtype=torch.int64)
    if len(classes) < 4 * num_clusters:
        return assignment, False
    for trial in range(TRIALS):
        assignment = cluster(features, num_clusters, seed=seed + trial)
        if bool((classes_per_cluster(assignment, classes, num_clusters) >= 2).all()):
            return assignment, True
    return assignment, False
