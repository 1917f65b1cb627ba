"""What came of a division, in numbers and in one line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

import torch
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from torch import Tensor

from divconq_pl.core.division import Division
from divconq_pl.core.features import Features
from divconq_pl.core.usable import classes_per_cluster, usable_images

_LONGEST_LIST, _MOST_FLOWS = 8, 1024


def summarise(division: Division, previous: Division, labels: Tensor, *, epoch: int) -> dict[str, Any]:
    """Describe a division and how it differs from the one before.

    Args:
        division: the new division.
        previous: the division before it.
        labels: classes of the images, shape (N,).
        epoch: the epoch that begins with it.

    Returns:
        ``epoch``; ``clusters``, their number; ``sizes`` and ``classes``, the images and the classes with two or more
        images of each cluster; ``parents``, the previous cluster that each descends from; ``left_out``, images that are
        the only one of their class in their cluster; ``moved``, images that are not in a child of the cluster they were
        in; ``nmi`` and ``ari``, agreement of the clusters that the images come from with those they were in (None if
        that was a single one); and what a gain was seen to depend on: ``pairs_kept``, the share of positive pairs (two
        images of one class) that lie within one cluster (None if there is no such pair), ``classes_per_cluster``, the
        mean of ``classes``, and ``nmi_classes``, the normalised mutual information of clusters and classes; ``flow``,
        see :func:`find_flow`.
    """
    ratio = division.num_clusters // previous.num_clusters or 1
    parents = torch.arange(division.num_clusters) // ratio
    origin = parents[division.assignment]
    was, now = previous.assignment.numpy(), origin.numpy()
    single = previous.num_clusters == 1
    classes = classes_per_cluster(division.assignment, labels, division.num_clusters)
    return {
        "epoch": epoch,
        "clusters": division.num_clusters,
        "sizes": torch.bincount(division.assignment, minlength=division.num_clusters).tolist(),
        "classes": classes.tolist(),
        "parents": parents.tolist(),
        "left_out": int((~usable_images(division.assignment, labels)).sum()),
        "moved": int((origin != previous.assignment).sum()),
        "nmi": None if single else float(normalized_mutual_info_score(was, now)),
        "ari": None if single else float(adjusted_rand_score(was, now)),
        "pairs_kept": find_pairs_kept(division.assignment, labels),
        "classes_per_cluster": float(classes.double().mean()),
        "flow": find_flow(previous, division),
        "nmi_classes": float(normalized_mutual_info_score(labels.numpy(), division.assignment.numpy())),
    }


def find_flow(previous: Division, division: Division) -> list[list[int]] | None:
    """Count the images that went from each cluster to each of the next division.

    Returns:
        For each previous cluster the images that each new one has of it; None where there are more than 1,024 numbers.

    Example:
        >>> before, after = Division(torch.tensor([0, 0, 1, 1]), 1), Division(torch.tensor([0, 1, 1, 1]), 1)
        >>> find_flow(before, after)
        [[1, 1], [0, 2]]
    """
    rows, columns = previous.num_clusters, division.num_clusters
    if rows * columns > _MOST_FLOWS:
        return None
    both = torch.bincount(previous.assignment * columns + division.assignment, minlength=rows * columns)
    return both.view(rows, columns).tolist()


def find_central(features: Features, assignment: Tensor, num_clusters: int, count: int = 16) -> list[list[int]]:
    """Find the images nearest to the centre of each cluster, in cosine similarity, nearest first.

    Args:
        features: of all images, L2-normalised; may be shared by several processes, which all call this.
        assignment: cluster of each image, shape (N,).
        num_clusters: K.
        count: images of each cluster, at most.

    Example:
        >>> points = Features(torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.96, 0.28], [0.0, 1.0]]))
        >>> find_central(points, torch.tensor([0, 0, 0, 1]), 2, count=2)
        [[2, 0], [3]]
    """
    own, start, parts = features.share(assignment), 0, []
    centres = torch.nn.functional.normalize(features.means(own, num_clusters))
    for block in features.blocks():
        parts.append((block * centres[own[start : start + len(block)]]).sum(1))
        start += len(block)
    similarity = features.gathered(torch.cat(parts)).cpu()
    members = [torch.nonzero(assignment == k).squeeze(1) for k in range(num_clusters)]
    return [own[similarity[own].argsort(descending=True, stable=True)[:count]].tolist() for own in members]


def find_pairs_kept(assignment: Tensor, labels: Tensor) -> float | None:
    """Return the share of positive pairs, two images of one class, that lie within one cluster.

    A class of n images, of which the clusters hold n_1, n_2, ..., has n (n - 1) / 2 pairs and keeps the sum of
    n_k (n_k - 1) / 2.

    Args:
        assignment: cluster of each image, shape (N,).
        labels: class of each image, shape (N,).

    Returns:
        A number from 0 to 1, the share over all classes together; None if no class has two images.

    Example:
        >>> find_pairs_kept(torch.tensor([0, 0, 1, 1]), torch.tensor([5, 5, 5, 9]))
        0.3333333333333333
    """
    classes = torch.unique(labels, return_inverse=True)[1]
    in_class = torch.bincount(classes)
    in_both = torch.bincount(assignment * len(in_class) + classes)
    pairs, kept = (int((counts * (counts - 1)).sum()) for counts in (in_class, in_both))
    return kept / pairs if pairs else None


def division_line(summary: Mapping[str, Any]) -> str:
    """Describe a division in one line.

    Args:
        summary: `epoch`; `sizes` and `classes`, images and classes per cluster; `moved`, images that changed cluster
            since the last division. Said where present (and not None): `number`, which division of the run this is;
            `left_out`, images that are the only one of their class in their cluster; `nmi` with the last division;
            `pairs_kept`, the share of positive pairs within a cluster; `seconds_features`, `seconds_kmeans`,
            `seconds_rest`, what it took.

    Returns:
        The line, without a line break. More than 8 clusters are summed up by minimum, median and maximum.

    Example:
        >>> division_line({"number": 3, "epoch": 6, "sizes": [41, 38], "classes": [9, 8], "moved": 5, "nmi": 0.871})
        'division 3 | epoch 6 | 2 clusters: 41 38 images, 9 8 classes | 5 images moved, NMI 0.87'
    """
    sizes, classes = summary["sizes"], summary["classes"]
    number = summary.get("number")
    parts = ["division" if number is None else f"division {number}", f"epoch {summary['epoch']}"]

    clusters = f"{_count(len(sizes), 'cluster')}: {_listed(sizes)} images, {_listed(classes)} classes"
    parts.append(clusters + (" (min / median / max)" if len(sizes) > _LONGEST_LIST else ""))

    changes = [f"{_count(summary['moved'], 'image')} moved"]
    if summary.get("left_out"):
        changes.append(f"{_count(summary['left_out'], 'lone image')} left out")
    if summary.get("nmi") is not None:
        changes.append(f"NMI {summary['nmi']:.2f}")
    if summary.get("pairs_kept") is not None:
        changes.append(f"{100 * summary['pairs_kept']:.0f} % of positive pairs kept")
    parts.append(", ".join(changes))

    names = {"seconds_features": "features", "seconds_kmeans": "k-means", "seconds_rest": "rest"}
    times = [f"{name} {_seconds(summary[key])}" for key, name in names.items() if summary.get(key) is not None]
    if times:
        parts.append(", ".join(times))
    return " | ".join(parts)


def _listed(values: Sequence[int]) -> str:
    if len(values) <= _LONGEST_LIST:
        return " ".join(str(value) for value in values)
    return f"{min(values)} / {median(values):.0f} / {max(values)}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _seconds(value: float) -> str:
    if value < 0.095:
        return f"{value:.2f} s"
    return f"{value:.1f} s" if value < 9.95 else f"{value:.0f} s"
