"""What batches with positives and negatives can be drawn from."""

from __future__ import annotations

import torch
from torch import Tensor

from divconq_pl.errors import InputError


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
