"""A whole division once the features are there, against its k-means alone.

That is what the callback does when all clusters exist: `divide` (cluster and match with the previous clusters),
`summarise` and the construction of a `ClusterBatchSampler`.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from measuring import Goal, Row, compare, now, run_alone
from torch import Tensor

from divconq_pl.core.division import Division, divide
from divconq_pl.core.features import Features
from divconq_pl.core.kmeans import kmeans
from divconq_pl.core.sampling import ClusterBatchSampler
from divconq_pl.core.summary import summarise

IMAGES, DIM, CLASSES, GROUPS, DEPTH = 59_551, 2048, 11_318, 64, 3
"""As in the training set of Stanford Online Products with a ResNet-50."""


def make_features(images: int, dim: int, classes: int, groups: int) -> tuple[Tensor, Tensor]:
    """Draw (images, dim) unit rows around the centres of classes, which lie around those of a few groups.

    Returns:
        The rows, and the class of each.
    """
    generator = torch.Generator().manual_seed(0)
    labels = (torch.arange(images) * classes) // images
    centres = torch.randn(groups, dim, generator=generator)
    centres = centres[torch.randint(groups, (classes,), generator=generator)]
    centres += torch.randn(classes, dim, generator=generator)
    features = torch.randn(images, dim, generator=generator).mul_(2)
    for rows, classes_of_rows in zip(features.split(8192), labels.split(8192), strict=True):
        rows += centres[classes_of_rows]
        rows /= rows.norm(dim=1, keepdim=True)
    return features, labels


class TimedKmeans:
    """`kmeans`, with the seconds of its calls."""

    def __init__(self, device: str) -> None:
        self.seconds: list[float] = []
        self._device = device

    def __call__(self, features: Features, num_clusters: int, *, seed: int) -> Tensor:
        """Cluster, and note the time."""
        began = now(self._device)
        assignment = kmeans(features, num_clusters, seed=seed)
        self.seconds.append(now(self._device) - began)
        return assignment


def rows(device: str = "cpu", quick: bool = False) -> list[Row]:
    """Divide three times, and say what each part of it takes."""
    images, dim, classes, depth = (800, 16, 40, 1) if quick else (IMAGES, DIM, CLASSES, DEPTH)
    features, labels = make_features(images, dim, classes, GROUPS)
    previous = Division(kmeans(features[:, :64], 2**depth, seed=0), depth)  # similar clusters, cheaply
    shared = Features(features.to(device))
    names = ("k-means", "the rest of divide", "summary", "sampler", "the whole division")
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(1 if quick else 3):
        clustering = TimedKmeans(device)
        times = [now(device)]
        division = divide(shared, labels, previous, depth, cluster=clustering, seed=100 * turn)
        times.append(now(device))
        summarise(division, previous, labels, epoch=0)
        times.append(now(device))
        ClusterBatchSampler(division.assignment, labels, batch_size=80, images_per_class=4)
        times.append(now(device))
        parts = [later - earlier for earlier, later in pairwise(times)]
        clustered = sum(clustering.seconds)
        for name, took in zip(names, (clustered, parts[0] - clustered, *parts[1:], times[-1] - times[0]), strict=True):
            seconds[name].append(took)
    work = f"{images:,} x {dim} into {2**depth}, {classes:,} classes"
    return compare("division", work, seconds, goals={"the whole division": Goal(1.2)})


if __name__ == "__main__":
    run_alone(rows)
