"""What each query was answered: its nearest images, and how good they are."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from divconq_pl.errors import InputError
from divconq_pl.metrics.neighbours import FEW, neighbour_blocks

_KEPT = 10
"""Neighbours of each query that are kept."""

LONG = 60.0
"""Seconds from which on it is said beforehand how long the comparison of all images takes."""


class Answers(NamedTuple):
    """What each query was answered.

    Attributes:
        values: ``recall_at_<K>``, ``map_at_r``, ``r_precision`` and ``marp`` of each query, in [0, 1], shape (Q,) each.
        num_relevant: images of its class that it could find, shape (Q,); a query with none is left out of all means.
        nearest: the first of the images found for it, at most 10, indices into the gallery, shape (Q, n).
    """

    values: dict[str, Tensor]
    num_relevant: Tensor
    nearest: Tensor


@torch.no_grad()
def answer_queries(
    embeddings: Tensor,
    labels: Tensor,
    gallery_embeddings: Tensor | None = None,
    gallery_labels: Tensor | None = None,
    *,
    ks: Sequence[int] = (1, 2, 4, 8),
    map_at_r: bool = True,
) -> Answers:
    """Find the nearest images of each query, and judge them; arguments are as in :func:`.retrieval_metrics`.

    Example:
        >>> embeddings = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.2, 1.0]])
        >>> answer_queries(embeddings, torch.tensor([7, 7, 3, 7]), ks=(1,)).values["recall_at_1"].tolist()
        [1.0, 1.0, 0.0, 0.0]
    """
    if (gallery_embeddings is None) != (gallery_labels is None):
        raise InputError("the gallery needs both embeddings and labels; give both, or neither for leave-one-out")
    check_labels(embeddings, labels)
    labels = labels.to(embeddings.device)
    if gallery_embeddings is None or gallery_labels is None:
        gallery_labels = labels
        num_relevant = _count_relevant(labels, labels) - 1
    else:
        check_labels(gallery_embeddings, gallery_labels)
        gallery_labels = gallery_labels.to(embeddings.device)
        num_relevant = _count_relevant(labels, gallery_labels)

    columns: dict[str, Tensor] = {}
    fewest = max(_KEPT, *ks)
    needed = num_relevant.clamp(min=fewest) if map_at_r else torch.full_like(num_relevant, fewest)
    nearest = torch.zeros(len(labels), min(_KEPT, _count_findable(embeddings, gallery_embeddings)), dtype=torch.int64)
    for asked, found in _search(embeddings, gallery_embeddings, needed):
        hits, relevant = gallery_labels[found] == labels[asked, None], num_relevant[asked]
        per_query = {f"recall_at_{k}": found_within(hits, k) for k in ks}
        per_query |= within_r(hits, relevant) if map_at_r else {}
        for name, values in per_query.items():
            columns.setdefault(name, torch.zeros(len(labels), device=values.device))[asked] = values
        nearest[asked.cpu()] = found[:, :_KEPT].cpu()
    return Answers(columns, num_relevant, nearest)


def _count_findable(queries: Tensor, gallery: Tensor | None) -> int:
    return max(0, len(queries) - 1) if gallery is None else len(gallery)


def _search(queries: Tensor, gallery: Tensor | None, needed: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield indices of some queries and their nearest neighbours, as many as each needs or up to twice as many."""
    size = f"{len(queries):,} images with {len(queries if gallery is None else gallery):,}"
    began, done = time.monotonic(), 0
    # A bar appears after some seconds, and only on a terminal.
    with tqdm(total=len(queries), desc="Comparing images", unit="query", delay=5, leave=False, disable=None) as bar:
        doublings = (needed.clamp(min=FEW) / FEW).log2().ceil()
        for group in doublings.unique():
            asked = (doublings == group).nonzero().flatten()
            blocks = neighbour_blocks(queries, gallery, int(needed[asked].max()), asked)
            for rows, found in _pair(asked, blocks):
                yield rows, found
                if not done:
                    seconds = (time.monotonic() - began) * (len(queries) / len(found) - 1)
                    if seconds > LONG:
                        warnings.warn(f"comparing {size} takes about {seconds / 60:.0f} minutes", stacklevel=3)
                done += len(found)
                bar.update(len(found))


def _pair(asked: Tensor, blocks: Iterator[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    position = 0
    for found in blocks:
        yield asked[position : position + len(found)], found
        position += len(found)


def check_ks(ks: Sequence[int]) -> None:
    """Refuse a K below 1."""
    if any(k < 1 for k in ks):
        raise InputError(f"Recall@K cannot be computed for the K of {list(ks)}; each must be 1 or more")


def check_labels(embeddings: Tensor, labels: Tensor) -> None:
    """Refuse labels that are not one for each embedding."""
    if labels.ndim != 1 or len(labels) != len(embeddings):
        raise InputError(
            f"labels of shape {tuple(labels.shape)} do not fit {len(embeddings)} embeddings; give one for each"
        )


def _count_relevant(query_labels: Tensor, gallery_labels: Tensor) -> Tensor:
    _, codes = torch.unique(torch.cat([query_labels, gallery_labels]), return_inverse=True)
    counts: Tensor = codes[len(query_labels) :].bincount(minlength=len(codes))
    return counts[codes[: len(query_labels)]]


def found_within(hits: Tensor, k: int) -> Tensor:
    """Return 1 for each query with a hit among its k nearest images, else 0, shape (Q,)."""
    return hits[:, :k].any(dim=1).float()


def within_r(hits: Tensor, num_relevant: Tensor) -> dict[str, Tensor]:
    """Return the metrics that look at each query's R nearest images, by name, shape (Q,) each."""
    if len(num_relevant) and hits.shape[1] < num_relevant.max():
        raise InputError(
            f"{hits.shape[1]} neighbours are fewer than R = {int(num_relevant.max())}; give max(num_relevant) of them"
        )
    hits = hits[:, : int(num_relevant.max())] if len(num_relevant) else hits
    ranks = torch.arange(1, hits.shape[1] + 1, device=hits.device)
    hits = hits & (ranks <= num_relevant[:, None])
    precision = hits.cumsum(dim=1, dtype=torch.float32) / ranks
    summed, found = (precision * hits).sum(dim=1), hits.sum(dim=1)
    r = num_relevant.clamp(min=1)
    return {"map_at_r": summed / r, "r_precision": found / r, "marp": summed / found.clamp(min=1)}
