"""Re-identification: mAP and CMC with matches of the query's own camera left out, and k-reciprocal re-ranking."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from divconq_pl.errors import InputError
from divconq_pl.metrics.neighbours import check_unit_rows

_BLOCK_BYTES = 64 * 2**20


@torch.no_grad()
def reidentification_metrics(
    distances: Tensor,
    labels: Tensor,
    cameras: Tensor,
    gallery_labels: Tensor,
    gallery_cameras: Tensor,
    *,
    ks: Sequence[int] = (1, 5, 10),
) -> dict[str, float]:
    """Compute mAP and CMC as Market-1501 does: gallery images of the query's class AND camera are left out.

    A query without a match in another camera is left out. Average precision is the mean of the precision at each match
    over the whole ranking. Equally near images come in the order of their index. Source: Zheng et al., Scalable Person
    Re-identification, ICCV 2015, as evaluated by fast-reid and Torchreid (their Python versions).

    Args:
        distances: of queries to gallery images, shape (Q, G).
        labels: classes of the queries, shape (Q,).
        cameras: their cameras, shape (Q,).
        gallery_labels: classes of the gallery, shape (G,); distractors have one that no query has.
        gallery_cameras: their cameras, shape (G,).
        ks: the ranks of CMC.

    Returns:
        ``map`` and ``cmc_<K>`` for each K, as fractions in [0, 1]; NaN where no query has a
        match in another camera.

    Raises:
        InputError: if shapes do not fit, or a K is below 1.

    Example:
        >>> distances, ids = torch.tensor([[0.1, 0.2, 0.3]]), torch.tensor([7, 8, 7])
        >>> cameras = torch.tensor([1, 1, 2])
        >>> reidentification_metrics(distances, ids[:1], cameras[:1], ids, cameras, ks=(1, 2))
        {'map': 0.5, 'cmc_1': 0.0, 'cmc_2': 1.0}
    """
    if distances.shape != (len(labels), len(gallery_labels)) or any(k < 1 for k in ks):
        raise InputError(
            f"distances of shape {tuple(distances.shape)} and K of {list(ks)} do not fit {len(labels)} queries and "
            f"{len(gallery_labels)} gallery images; give one row to each query, and K of 1 or more"
        )
    labels, cameras, gallery_labels, gallery_cameras = (
        x.to(distances.device) for x in (labels, cameras, gallery_labels, gallery_cameras)
    )
    precisions, firsts = [], []
    rows = max(1, _BLOCK_BYTES // (32 * max(1, len(gallery_labels))))
    for block in torch.arange(len(labels), device=distances.device).split(rows):
        order = distances[block].argsort(dim=1, stable=True)
        match = gallery_labels[order] == labels[block, None]
        kept = ~(match & (gallery_cameras[order] == cameras[block, None]))
        match &= kept
        rank = kept.cumsum(dim=1)
        found = match.sum(dim=1)
        precision = torch.where(match, match.cumsum(dim=1) / rank.clamp(min=1), 0.0).double().sum(dim=1) / found
        first = torch.where(match, rank, rank.shape[1] + 1).amin(dim=1)
        precisions.append(precision[found > 0])
        firsts.append(first[found > 0])
    precision, first = torch.cat(precisions), torch.cat(firsts)
    cmc = {f"cmc_{k}": float((first <= k).double().mean()) for k in ks}
    return {"map": float(precision.mean()), **cmc}


@torch.no_grad()
def rerank(queries: Tensor, gallery: Tensor | None = None, *, k1: int = 20, k2: int = 6, weight: float = 0.3) -> Tensor:
    """Compute distances by k-reciprocal re-ranking: images are near that have the same mutual neighbours.

    All queries and gallery images are compared with each other, in memory: (Q + G)^2 numbers, three times. Source:
    Zhong et al., Re-ranking Person Re-identification with k-reciprocal Encoding, CVPR 2017, whose published code this
    follows, also in what the paper does not say: squared distances are divided by the largest of each image, and a
    candidate's own neighbours are its ``round(k1 / 2)`` nearest.

    Args:
        queries: embeddings, shape (Q, d); normalised here.
        gallery: embeddings, shape (G, d); None means that the queries are the gallery.
        k1: how many neighbours may be mutual.
        k2: over how many neighbours the sets are averaged; 1 for none.
        weight: share of the original distance.

    Returns:
        Distances, float32, shape (Q, G).

    Raises:
        InputError: if a number is out of range, or an embedding is NaN or infinite.
    """
    if k1 < 1 or k2 < 1 or not 0 <= weight <= 1:
        raise InputError(
            f"k1={k1}, k2={k2} and weight={weight} cannot re-rank; use 1 or more, and a weight from 0 to 1"
        )
    num_queries = len(queries)
    everything = check_unit_rows(queries, "queries")
    if gallery is not None:
        everything = torch.cat([everything, check_unit_rows(gallery, "gallery").to(queries.device)])
    total = len(everything)
    # In place, since these numbers are what decides whether it fits into memory.
    original = (everything @ everything.T).mul_(-2).add_(2).clamp_(min=0)
    original /= original.amax(dim=1, keepdim=True).clamp(min=1e-12)
    nearest = _nearest(original, min(max(k1, k2) + 1, total))
    half = round(k1 / 2)

    weights = torch.zeros_like(original)
    mutual, mutual_half = _mutual(nearest, k1), _mutual(nearest, half)
    for i in range(total):
        own = mutual[i]
        expanded = [own]
        for candidate in own.tolist():
            theirs = mutual_half[candidate]
            if int(torch.isin(theirs, own).sum()) > 2 / 3 * len(theirs):
                expanded.append(theirs)
        members = torch.cat(expanded).unique()
        weights[i, members] = torch.softmax(-original[i, members], dim=0)
    original = original[:num_queries].clone()
    if k2 > 1:
        weights = torch.cat([weights[near].mean(dim=0, keepdim=True) for near in nearest[:, :k2]])

    jaccard = torch.empty_like(original)
    holders = [column.nonzero().flatten() for column in weights.T]
    for i in range(num_queries):
        shared = torch.zeros(total, device=weights.device)
        for member in weights[i].nonzero().flatten().tolist():
            rows = holders[member]
            shared[rows] += torch.minimum(weights[i, member], weights[rows, member])
        jaccard[i] = 1 - shared / (2 - shared)
    distances = jaccard * (1 - weight) + original * weight
    return distances if gallery is None else distances[:, num_queries:].contiguous()


def _nearest(distances: Tensor, k: int) -> Tensor:
    return torch.cat([rows.argsort(dim=1, stable=True)[:, :k] for rows in distances.split(256)])


def _mutual(nearest: Tensor, k: int) -> list[Tensor]:
    """Return for each image those of its k nearest (and itself) that have it among theirs, too."""
    forward = nearest[:, : k + 1]
    index = torch.arange(len(nearest), device=nearest.device)
    is_mutual = (forward[forward] == index[:, None, None]).any(dim=2)
    return [row[keep] for row, keep in zip(forward, is_mutual, strict=True)]
