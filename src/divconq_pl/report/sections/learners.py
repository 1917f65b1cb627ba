"""Each learner in numbers: its data, its loss, and what its subspace is worth by itself."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from divconq_pl.core.masks import LearnedSubspaces
from divconq_pl.core.subspaces import FixedSubspaces, RandomSubspaces, Subspaces
from divconq_pl.metrics.retrieval import retrieval_metrics
from divconq_pl.report.material import Material, Missing
from divconq_pl.report.svg import colour_of, draw_heat, draw_rows
from divconq_pl.report.thumbnails import Thumbnails

_MOST_LEARNERS, _SAMPLE = 16, 3000


def show_learners(material: Material, thumbnails: Thumbnails) -> dict[str, Any]:
    """Return a row for each learner, and how much their subspaces say the same."""
    if material.assignment is None or material.train is None or not material.divisions:
        raise Missing("nothing was divided, so there is one learner")
    labels, assignment = material.train.labels, material.assignment
    count = int(assignment.max()) + 1
    losses: dict[int, float] = next(
        (noted["losses"] for noted in reversed(material.epochs) if 0 in noted["losses"]), {}
    )
    rows = [
        {
            "number": k,
            "colour": colour_of(k, count),
            "loss": losses.get(k),
            **describe_cluster(labels, assignment, k),
        }
        for k in range(min(count, _MOST_LEARNERS))
    ]
    subspaces = _at_depth(material.subspaces, count)
    shown: dict[str, Any] = {"rows": rows, "hidden": count - len(rows), "whole": None, "heat": None, "masks": None}
    if subspaces is not None and material.embeddings and material.test is not None and len(material.embeddings) == 1:
        values, sample = sample_classes(material.embeddings[0], material.test.labels)
        shown["whole"] = _recall(values, sample)
        shown["sampled"] = len(sample) < len(material.test.labels)
        for row in rows:
            row["alone"], row["without"] = _judge_subspace(subspaces, row["number"], values, sample)
        names = [str(k) for k in range(len(rows))]
        shown["heat"] = draw_heat(correlate(subspaces, values, len(rows)), names, label="correlation between subspaces")
        if isinstance(subspaces, LearnedSubspaces):
            masks = _read_weights(subspaces, values.shape[1], len(rows))
            shown["masks"] = draw_rows(order_columns(masks).double().numpy(), names, label="values of the masks")
            shown["cosine"] = _mean_cosine(masks)
    return shown


def describe_cluster(labels: NDArray[np.int64], assignment: NDArray[np.int64], cluster: int) -> dict[str, Any]:
    """Describe the images of a cluster.

    Args:
        labels: class of each image.
        assignment: cluster of each image.
        cluster: which.

    Returns:
        ``images``; ``classes`` it has any image of; ``purity``, the share of its images whose class is nowhere else
        more frequent; ``entropy`` of its classes, from 0 (one class) to 1 (all alike); ``kept``, the share of the
        positive pairs of its images whose other image is in it, too; None where they have none.

    Example:
        >>> describe_cluster(np.array([0, 0, 0, 1]), np.array([0, 0, 1, 1]), 0)
        {'images': 2, 'classes': 1, 'purity': 1.0, 'entropy': 0.0, 'kept': 0.5}
    """
    clusters, classes = int(assignment.max()) + 1, int(labels.max()) + 1
    counts = np.bincount(labels * clusters + assignment, minlength=classes * clusters).reshape(classes, clusters)
    own, everywhere = counts[:, cluster], counts.sum(axis=1)
    present = own[own > 0]
    shares = present / max(present.sum(), 1)
    entropy = float(-(shares * np.log(shares)).sum() / np.log(len(shares))) if len(shares) > 1 else 0.0
    pairs = int((own * (everywhere - 1)).sum())
    return {
        "images": int(own.sum()),
        "classes": len(present),
        "purity": float(own[own == counts.max(axis=1)].sum() / max(own.sum(), 1)),
        "entropy": entropy,
        "kept": float((own * (own - 1)).sum() / pairs) if pairs else None,
    }


def sample_classes(embeddings: Tensor, labels: NDArray[np.int64], most: int = _SAMPLE) -> tuple[Tensor, Tensor]:
    """Take whole classes, drawn with a fixed seed, until there are enough images; all where there are few."""
    embeddings, given = embeddings.detach().cpu().float(), torch.from_numpy(np.asarray(labels)[: len(embeddings)])
    if len(given) <= most:
        return embeddings, given
    classes, counts = given.unique(return_counts=True)
    order = torch.randperm(len(classes), generator=torch.Generator().manual_seed(0))
    taken = order[counts[order].cumsum(0) <= most]
    rows = torch.isin(given, classes[taken if len(taken) else order[:2]]).nonzero().squeeze(1)[: 2 * most]
    return embeddings[rows], given[rows]


def _at_depth(subspaces: Subspaces | None, count: int) -> Subspaces | None:
    """Return a copy of the subspaces with so many learners, where they can be looked at one by one."""
    if subspaces is None or isinstance(subspaces, RandomSubspaces):
        return None
    copied = copy.deepcopy(subspaces).cpu()
    depth = count.bit_length() - 1
    if isinstance(copied, FixedSubspaces) and copied.depth != depth <= copied.split_depth:
        copied.set_depth(depth)
    return copied if copied.depth == depth else None


@torch.no_grad()
def _judge_subspace(subspaces: Subspaces, learner: int, values: Tensor, labels: Tensor) -> tuple[float, float | None]:
    """Return Recall@1 of a subspace alone, and of the embedding without it (None where learners share coordinates)."""
    subspaces.activate(learner)
    alone = subspaces.narrow(values, 1)
    subspaces.activate(None)
    outside = subspaces.outside([learner])
    rest = None if outside is None or not len(outside) else _recall(values[:, outside], labels)
    return _recall(alone, labels), rest


def _recall(values: Tensor, labels: Tensor) -> float:
    return retrieval_metrics(values, labels, ks=(1,), map_at_r=False)["recall_at_1"]


@torch.no_grad()
def correlate(subspaces: Subspaces, values: Tensor, count: int) -> NDArray[np.float64]:
    """Return how alike subspaces are: the mean absolute correlation of their coordinates, weighted as they weigh them.

    Args:
        subspaces: of the learners.
        values: embeddings, shape (N, d).
        count: how many learners to compare.

    Returns:
        From 0 to 1, shape (count, count).
    """
    correlation = torch.corrcoef(values.T).abs().nan_to_num()
    weights = _read_weights(subspaces, values.shape[1], count)
    shares = weights / weights.sum(dim=1, keepdim=True).clamp(min=1e-12)
    return (shares @ correlation @ shares.T).double().numpy()


@torch.no_grad()
def _read_weights(subspaces: Subspaces, width: int, count: int) -> Tensor:
    """Return how much each learner sees of each coordinate, the most being 1, shape (count, width)."""
    rows = []
    for k in range(count):
        subspaces.activate(k)
        seen = subspaces.narrow(torch.eye(width), 1).abs().sum(dim=1)
        rows.append(seen / seen.max().clamp(min=1e-12))
    subspaces.activate(None)
    return torch.stack(rows)


def order_columns(masks: Tensor, most: int = 128) -> Tensor:
    """Put coordinates in the order of the learner that weighs them most, and neighbours together where there are many.

    Args:
        masks: shape (learners, coordinates).
        most: columns to return at most.

    Example:
        >>> order_columns(torch.tensor([[0.0, 1.0, 0.5], [1.0, 0.0, 0.2]]))
        tensor([[1.0000, 0.5000, 0.0000],
                [0.0000, 0.2000, 1.0000]])
    """
    order = sorted(range(masks.shape[1]), key=lambda j: (int(masks[:, j].argmax()), -float(masks[:, j].max())))
    return torch.stack([part.mean(dim=1) for part in masks[:, order].tensor_split(min(most, masks.shape[1]), dim=1)], 1)


def _mean_cosine(masks: Tensor) -> float | None:
    unit = torch.nn.functional.normalize(masks)
    above, below = torch.triu_indices(len(masks), len(masks), 1)
    pairs = (unit @ unit.T)[above, below]
    return float(pairs.mean()) if len(pairs) else None
