"""Retrieval metrics: how well nearest neighbours in the embedding find images of the same class.

Protocol of the paper (section 4): embeddings are L2-normalised and compared by Euclidean distance, either leave-one-out
over one test set or from queries to a gallery. Everything streams over blocks of queries, so memory does not grow with
the number of queries times the number of gallery images. Vehicle re-identification draws galleries from the test set
instead: :func:`reid_recall`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from divconq_pl.errors import InputError
from divconq_pl.metrics.answers import Answers, answer_queries, check_ks, check_labels, found_within, within_r
from divconq_pl.metrics.neighbours import neighbour_blocks, neighbours
from divconq_pl.metrics.nmi import nmi

__all__ = [
    "Answers",
    "answer_queries",
    "map_at_r",
    "marp",
    "neighbours",
    "nmi",
    "r_precision",
    "recall_at_k",
    "reid_recall",
    "retrieval_metrics",
]


def recall_at_k(hits: Tensor, num_relevant: Tensor, ks: Sequence[int]) -> dict[int, float]:
    """Compute Recall@K: the share of queries with at least one image of their class among the K nearest.

    As in all metrics here, a query without any relevant image is left out: no embedding could answer it ("A Metric
    Learning Reality Check", and PML's AccuracyCalculator).

    Args:
        hits: whether the i-th nearest neighbour is of the query's class, bool, shape (Q, n). A K beyond n looks at all
            n columns, so pass max(ks) columns or the whole gallery.
        num_relevant: images of the query's class that could be found (the query itself excluded), shape (Q,).
        ks: the values of K.

    Returns:
        Recall in [0, 1] for each K; NaN where no query has a relevant image.

    Example:
        >>> recall_at_k(torch.tensor([[False, True], [False, False]]), torch.tensor([1, 3]), ks=(1, 2))
        {1: 0.0, 2: 0.5}
    """
    return {k: _mean_over_answerable(found_within(hits, k), num_relevant) for k in ks}


def map_at_r(hits: Tensor, num_relevant: Tensor) -> float:
    """Compute MAP@R: precision at each hit among the R nearest, summed, over R; mean over the queries.

    R is the number of relevant images of each query. Source: "A Metric Learning Reality Check" (Musgrave et al., 2020).
    The "mARP" of the Divide and Conquer papers is another metric: :func:`marp`.

    Args:
        hits: as in :func:`recall_at_k`, shape (Q, n) with n >= max(num_relevant).
        num_relevant: as in :func:`recall_at_k`, shape (Q,).

    Returns:
        MAP@R in [0, 1]; NaN where no query has a relevant image.

    Raises:
        InputError: if ``hits`` has fewer columns than some query has relevant images.

    Example:
        >>> hits = torch.zeros(1, 10, dtype=torch.bool)
        >>> hits[0, [0, 5]] = True
        >>> round(map_at_r(hits, torch.tensor([10])), 3)
        0.133
    """
    return _mean_over_answerable(within_r(hits, num_relevant)["map_at_r"], num_relevant)


def marp(hits: Tensor, num_relevant: Tensor) -> float:
    """Compute the "mARP" of the Divide and Conquer papers: as MAP@R, but divided by the number of hits, not by R.

    A query counts as perfect once its hits come first, however few they are, so figures are far above MAP@R and the two
    must not be compared. A query without a hit among the R nearest counts 0. Source: the authors' code,
    CompVis/metric-learning-divide-and-conquer-improved.

    Args:
        hits: as in :func:`map_at_r`.
        num_relevant: as in :func:`map_at_r`.

    Returns:
        mARP in [0, 1]; NaN where no query has a relevant image.

    Raises:
        InputError: if ``hits`` has fewer columns than some query has relevant images.

    Example:
        >>> hits = torch.zeros(1, 10, dtype=torch.bool)
        >>> hits[0, [0, 5]] = True
        >>> round(marp(hits, torch.tensor([10])), 3)
        0.667
    """
    return _mean_over_answerable(within_r(hits, num_relevant)["marp"], num_relevant)


def r_precision(hits: Tensor, num_relevant: Tensor) -> float:
    """Compute R-precision: the share of hits among the R nearest; mean over the queries.

    Args:
        hits: as in :func:`map_at_r`.
        num_relevant: as in :func:`map_at_r`.

    Returns:
        R-precision in [0, 1]; NaN where no query has a relevant image.

    Raises:
        InputError: if ``hits`` has fewer columns than some query has relevant images.
    """
    return _mean_over_answerable(within_r(hits, num_relevant)["r_precision"], num_relevant)


@torch.no_grad()
def reid_recall(
    embeddings: Tensor, labels: Tensor, *, ks: Sequence[int] = (1, 5), draws: int = 10, seed: int = 0
) -> dict[int, float]:
    """Compute Recall@K as vehicle re-identification does: from the other images to one random image of each class.

    For PKU VehicleID the usual evaluations (such as JDAI-CV/fast-reid) report CMC@1 and CMC@5, which is Recall@K here
    since each query has exactly one relevant image, and mAP, which is not computed. These figures are far below those
    of leave-one-out on the same images, which the Divide and Conquer papers report. A class with a single image is in
    the gallery only.

    Args:
        embeddings: shape (N, d); normalised here.
        labels: classes, shape (N,), any integers.
        ks: the values of K.
        draws: galleries to draw; recall is the mean over them.
        seed: seed of the draws.

    Returns:
        Recall in [0, 1] for each K; NaN where no class has two images.

    Raises:
        InputError: if shapes do not fit, a K or draws is below 1, or an embedding is NaN or infinite.

    Example:
        >>> embeddings = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.2, 1.0]])
        >>> reid_recall(embeddings, torch.tensor([7, 7, 3, 3]), ks=(1,))
        {1: 1.0}
    """
    check_ks(ks)
    if draws < 1:
        raise InputError(f"recall cannot be averaged over draws={draws} galleries; use 1 or more")
    check_labels(embeddings, labels)
    labels = labels.to(embeddings.device)
    codes = torch.unique(labels, return_inverse=True)[1].cpu()
    counts = codes.bincount()
    if counts.max() < 2:
        return dict.fromkeys(ks, float("nan"))
    first_of_class = counts.cumsum(0) - counts
    generator = torch.Generator().manual_seed(seed)
    recalls = []
    for _ in range(draws):
        shuffled = torch.randperm(len(codes), generator=generator)
        drawn = shuffled[codes[shuffled].argsort(stable=True)[first_of_class]]
        is_query = torch.ones(len(codes), dtype=torch.bool)
        is_query[drawn] = False
        queries, asked, kept = embeddings[is_query], labels[is_query], labels[drawn]
        blocks = neighbour_blocks(queries, embeddings[drawn], max(ks))
        hits = torch.cat([kept[found] for found in blocks]) == asked[:, None]
        recalls.append(recall_at_k(hits, torch.ones_like(asked), ks))
    return {k: sum(recall[k] for recall in recalls) / draws for k in ks}


@torch.no_grad()
def retrieval_metrics(
    embeddings: Tensor,
    labels: Tensor,
    gallery_embeddings: Tensor | None = None,
    gallery_labels: Tensor | None = None,
    *,
    ks: Sequence[int] = (1, 2, 4, 8),
    map_at_r: bool = True,
    marp: bool = False,
    reid_draws: int = 0,
    nmi_runs: int = 0,
    seen: list[Answers] | None = None,
) -> dict[str, float]:
    """Compute Recall@K, MAP@R, R-precision and, where asked for, further metrics of an embedded test set.

    The time is that of comparing each query with each gallery image, whatever the sizes of the classes. Where it is
    more than a minute, a warning says so at the start.

    Args:
        embeddings: query embeddings, shape (Q, d); normalised here.
        labels: their classes, shape (Q,), any integers.
        gallery_embeddings: gallery, shape (G, d), where the protocol has one; None means leave-one-out.
        gallery_labels: classes of the gallery, shape (G,); given exactly when ``gallery_embeddings`` is.
        ks: the values of K for Recall@K.
        map_at_r: False leaves out MAP@R and R-precision, which rank as many images as a class has; that is about half
            of the time where classes are large.
        marp: also the papers' mARP, see :func:`marp`.
        reid_draws: also :func:`reid_recall` as the mean over that many galleries (usually 10); 0 for none. They are
            drawn from all images, a given gallery included.
        nmi_runs: also :func:`.nmi` of all images, a given gallery included, over that many runs (usually 10); 0 for
            none.
        seen: a list to which what each query was answered is added, for whoever wants to look at it.

    Returns:
        ``recall_at_<K>`` for each K, ``map_at_r``, ``r_precision``, and where asked for ``marp``,
        ``reid_recall_at_<K>`` and ``nmi``, as fractions in [0, 1]. All but ``nmi`` are NaN where no query has a
        relevant image.

    Raises:
        InputError: if shapes do not fit, a K is below 1, or an embedding is NaN or infinite.

    Example:
        >>> embeddings = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.2, 1.0]])
        >>> retrieval_metrics(embeddings, torch.tensor([7, 7, 3, 3]), ks=(1,))
        {'recall_at_1': 1.0, 'map_at_r': 1.0, 'r_precision': 1.0}
    """
    check_ks(ks)
    ranked = map_at_r or marp
    answers = answer_queries(embeddings, labels, gallery_embeddings, gallery_labels, ks=ks, map_at_r=ranked)
    unwanted = (() if map_at_r else ("map_at_r", "r_precision")) + (() if marp else ("marp",))
    wanted = {name: values for name, values in answers.values.items() if name not in unwanted}
    metrics = {name: _mean_over_answerable(values, answers.num_relevant) for name, values in wanted.items()}
    labels = labels.to(embeddings.device)
    everything = (embeddings, labels)
    if gallery_embeddings is not None and gallery_labels is not None:
        everything = (
            torch.cat([embeddings, gallery_embeddings.to(embeddings)]),
            torch.cat([labels, gallery_labels.to(labels)]),
        )
    if reid_draws:
        recall = reid_recall(*everything, ks=ks, draws=reid_draws)
        metrics |= {f"reid_recall_at_{k}": value for k, value in recall.items()}
    if nmi_runs:
        metrics["nmi"] = nmi(*everything, runs=nmi_runs)
    if seen is not None:
        seen.append(answers)
    return metrics


def _mean_over_answerable(values: Tensor, num_relevant: Tensor) -> float:
    return float(values[num_relevant > 0].cpu().double().mean())
