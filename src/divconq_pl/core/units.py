"""What goes into a cluster as a whole: single images, or all images of a class."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from divconq_pl.core.features import Features
from divconq_pl.core.usable import classes_per_cluster

_ROWS = 1024
"""Rows averaged at a time; the cost of the product with their one-hot classes grows with it."""


@dataclass(frozen=True)
class Units:
    """Images to be clustered, and what of them has to stay together.

    Attributes:
        features: of each unit, U rows; for a class the mean of its images.
        classes: class of each image, 0 or more, shape (N,).
        unit_of: unit of each image, shape (N,).
    """

    features: Features
    classes: Tensor
    unit_of: Tensor

    @classmethod
    def of_images(cls, features: Features, classes: Tensor) -> Units:
        """Let every image go where it likes."""
        return cls(features, classes, torch.arange(len(classes)))

    @classmethod
    def of_classes(cls, features: Features, classes: Tensor) -> Units:
        """Keep the images of a class together."""
        present, unit_of = torch.unique(classes, return_inverse=True)
        return cls(average_classes(features, unit_of, len(present)), classes, unit_of)

    def __len__(self) -> int:
        """Return U, the number of units."""
        return len(self.features)

    def are_usable(self, assignment: Tensor, num_clusters: int) -> bool:
        """Tell whether each cluster has two classes with two images, given the cluster of each unit."""
        return bool((classes_per_cluster(assignment[self.unit_of], self.classes, num_clusters) >= 2).all())

    def find_centres(self, assignment: Tensor, num_clusters: int) -> Tensor | None:
        """Average the units of each cluster, shape (K, D); None if a cluster has none.

        Args:
            assignment: cluster of each image, shape (N,); a class that is cut counts in the last of its clusters.
            num_clusters: K.
        """
        of_unit = torch.zeros(len(self), dtype=torch.int64).scatter_reduce(0, self.unit_of, assignment, "amax")
        if not torch.bincount(of_unit, minlength=num_clusters).all():
            return None
        with torch.autocast(self.features.device.type, enabled=False):
            return self.features.means(self.features.share(of_unit), num_clusters)


@torch.no_grad()
def average_classes(features: Features, class_of: Tensor, num_classes: int) -> Features:
    """Return the mean of each class as :class:`.Features` of C rows, shared by the same processes.

    Sums are products with the one-hot classes of few rows at a time: scattered adds would depend on the order of a
    GPU's threads, and all classes at once would take too long.

    Args:
        features: features of N images.
        class_of: class of each image, each of 0 .. C-1 at least once, shape (N,).
        num_classes: C.
    """
    own = features.share(class_of)
    sums = torch.zeros(num_classes, features.width, device=features.device)
    start = 0
    with torch.autocast(features.device.type, enabled=False):
        for block in features.blocks(most=_ROWS):
            present, place = torch.unique(own[start : start + len(block)], return_inverse=True)
            places = torch.arange(len(present), device=features.device)
            sums[present] += (places[:, None] == place).float() @ block
            start += len(block)
    counts = torch.bincount(class_of, minlength=num_classes)[:, None].to(features.device)
    means = features.total(sums) / counts
    rank, world_size = features.rank, features.world_size
    return Features(means[rank::world_size], size=num_classes, rank=rank, world_size=world_size, total=features.total)
