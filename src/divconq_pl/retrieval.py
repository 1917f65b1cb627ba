"""Retrieval metrics: how well nearest neighbours in the embedding find images of the same class.

Protocol of the paper (section 4): embeddings are L2-normalised and compared by Euclidean distance, either leave-one-out
over one test set or from queries to a gallery. Everything streams over blocks of queries, so memory does not grow with
the number of queries times the number of gallery images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from sklearn.metrics import normalized_mutual_info_score
from torch import Tensor
from torch.nn.functional import normalize

from divconq_pl.clustering import kmeans
from divconq_pl.errors import InputError

_BLOCK_BYTES = 64 * 2**20


def neighbours(queries: Tensor, gallery: Tensor | None = None, *, k: int, block_size: int | None = None) -> Tensor:
    """Find each query's k nearest gallery images by Euclidean distance of the L2-normalised embeddings.

    Equally near images come in the order of their index. (Distances that differ only by rounding count as different.)

    Args:
        queries: Embeddings, shape (Q, d), of any float type and memory layout; compared in float32.
        gallery: Embeddings to search, shape (G, d). None means leave-one-out: the other queries are the gallery, and
            each query itself is left out by its index, so that an exact duplicate of it still counts as a neighbour.
        k: How many neighbours. With fewer images to be found, all of them are returned.
        block_size: Queries compared at a time; by default as many as keep one block of similarities at 64 MB.

    Returns:
        Gallery indices, nearest first, int64, shape (Q, min(k, available)), on the device of `queries`.

    Raises:
        InputError: If shapes do not fit, k or block_size is below 1, or an embedding is NaN or infinite.

    Example:
        >>> neighbours(torch.tensor([[1.0, 0.0], [0.0, 1.0], [3.0, 1.0]]), k=2).tolist()
        [[2, 1], [2, 0], [0, 1]]
    """
    if k < 1:
        raise InputError(f"k = {k} neighbours cannot be looked for: give a k of at least 1")
    return torch.cat(list(_neighbour_blocks(queries, gallery, k, block_size)))


def recall_at_k(hits: Tensor, num_relevant: Tensor, ks: Sequence[int]) -> dict[int, float]:
    """Compute Recall@K: the share of queries with at least one image of their class among the K nearest.

    As in all metrics here, a query without any relevant image is left out: no embedding could answer it ("A Metric
    Learning Reality Check", and PML's AccuracyCalculator).

    Args:
        hits: Whether the i-th nearest neighbour is of the query's class, bool, shape (Q, n). A K beyond n looks at all
            n columns, so pass max(ks) columns or the whole gallery.
        num_relevant: Images of the query's class that could be found (the query itself excluded), shape (Q,).
        ks: The values of K.

    Returns:
        Recall in [0, 1] for each K; NaN where no query has a relevant image.

    Example:
        >>> recall_at_k(torch.tensor([[False, True], [False, False]]), torch.tensor([1, 3]), ks=(1, 2))
        {1: 0.0, 2: 0.5}
    """
    return {k: _mean_over_answerable(_found_within(hits, k), num_relevant) for k in ks}


def map_at_r(hits: Tensor, num_relevant: Tensor) -> float:
    """Compute MAP@R: precision at each hit among the R nearest, summed, over R; mean over the queries.

    R is the number of relevant images of each query. Source: "A Metric Learning Reality Check" (Musgrave et al., 2020).
    The paper's "mARP" divides by the number of hits instead and is another metric.

    Args:
        hits: As in `recall_at_k`, shape (Q, n) with n >= max(num_relevant).
        num_relevant: As in `recall_at_k`, shape (Q,).

    Returns:
        MAP@R in [0, 1]; NaN where no query has a relevant image.

    Raises:
        InputError: If `hits` has fewer columns than some query has relevant images.

    Example:
        >>> hits = torch.zeros(1, 10, dtype=torch.bool)
        >>> hits[0, [0, 5]] = True
        >>> round(map_at_r(hits, torch.tensor([10])), 3)
        0.133
    """
    return _mean_over_answerable(_average_precision_at_r(hits, num_relevant), num_relevant)


def r_precision(hits: Tensor, num_relevant: Tensor) -> float:
    """Compute R-precision: the share of hits among the R nearest; mean over the queries.

    Args:
        hits: As in `map_at_r`.
        num_relevant: As in `map_at_r`.

    Returns:
        R-precision in [0, 1]; NaN where no query has a relevant image.

    Raises:
        InputError: If `hits` has fewer columns than some query has relevant images.
    """
    return _mean_over_answerable(_precision_at_r(hits, num_relevant), num_relevant)


@torch.no_grad()
def retrieval_metrics(
    embeddings: Tensor,
    labels: Tensor,
    gallery_embeddings: Tensor | None = None,
    gallery_labels: Tensor | None = None,
    *,
    ks: Sequence[int] = (1, 2, 4, 8),
) -> dict[str, float]:
    """Compute Recall@K, MAP@R and R-precision of an embedded test set.

    Args:
        embeddings: Query embeddings, shape (Q, d); normalised here.
        labels: Their classes, shape (Q,), any integers.
        gallery_embeddings: Gallery, shape (G, d), where the protocol has one; None means leave-one-out.
        gallery_labels: Classes of the gallery, shape (G,); given exactly when `gallery_embeddings` is.
        ks: The values of K for Recall@K.

    Returns:
        `recall_at_<K>` for each K, `map_at_r` and `r_precision`, as fractions in [0, 1]. All are NaN where no query has
        a relevant image.

    Raises:
        InputError: If shapes do not fit, a K is below 1, or an embedding is NaN or infinite.

    Example:
        >>> embeddings = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.2, 1.0]])
        >>> retrieval_metrics(embeddings, torch.tensor([7, 7, 3, 3]), ks=(1,))
        {'recall_at_1': 1.0, 'map_at_r': 1.0, 'r_precision': 1.0}
    """
    if (gallery_embeddings is None) != (gallery_labels is None):
        raise InputError("the gallery needs both embeddings and labels: give both, or neither for leave-one-out")
    if any(k < 1 for k in ks):
        raise InputError(f"Recall@K cannot be computed for K in {list(ks)}: every K must be at least 1")
    _check_labels(embeddings, labels)
    labels = labels.to(embeddings.device)
    if gallery_embeddings is None or gallery_labels is None:
        gallery_labels = labels
        num_relevant = _count_relevant(labels, labels) - 1
    else:
        _check_labels(gallery_embeddings, gallery_labels)
        gallery_labels = gallery_labels.to(embeddings.device)
        num_relevant = _count_relevant(labels, gallery_labels)

    most = max(1, *ks, int(num_relevant.max()) if len(labels) else 0)
    columns: list[list[Tensor]] = [[] for _ in range(len(ks) + 2)]
    start = 0
    for found in _neighbour_blocks(embeddings, gallery_embeddings, most, None):
        block = slice(start, start + len(found))
        hits = gallery_labels[found] == labels[block, None]
        per_query = [_found_within(hits, k) for k in ks]
        per_query += [_average_precision_at_r(hits, num_relevant[block]), _precision_at_r(hits, num_relevant[block])]
        for column, values in zip(columns, per_query, strict=True):
            column.append(values)
        start = block.stop
    names = [f"recall_at_{k}" for k in ks] + ["map_at_r", "r_precision"]
    return {n: _mean_over_answerable(torch.cat(c), num_relevant) for n, c in zip(names, columns, strict=True)}


def nmi(
    embeddings: Tensor,
    labels: Tensor,
    *,
    runs: int = 1,
    seed: int = 0,
    cluster: Callable[..., Tensor] | None = None,
) -> float:
    """Compute the normalised mutual information of classes and as many k-means clusters.

    Dear: with the 11 thousand classes of Stanford Online Products one k-means takes minutes.

    Args:
        embeddings: Shape (N, d); L2-normalised here.
        labels: Classes, shape (N,).
        runs: k-means runs to average over; the usual protocol takes 10.
        seed: Seed of the first run; the others follow with seed + 1, seed + 2, ...
        cluster: `cluster(features, num_clusters, seed=...)` giving one cluster index per row, in place of this
            package's `kmeans`.

    Returns:
        NMI in [0, 1] with arithmetic normalisation, the mean over the runs.

    Raises:
        InputError: If shapes do not fit, runs is below 1, or an embedding is NaN or infinite.
    """
    if runs < 1:
        raise InputError(f"NMI cannot be averaged over runs = {runs}: give at least 1")
    _check_labels(embeddings, labels)
    features = _prepare(embeddings, "embeddings")
    num_classes = len(torch.unique(labels))
    scores = []
    for run in range(runs):
        clusters = (cluster or kmeans)(features, num_classes, seed=seed + run)
        scores.append(normalized_mutual_info_score(labels.cpu().numpy(), clusters.cpu().numpy()))
    return float(sum(scores) / runs)


@torch.no_grad()
def _neighbour_blocks(queries: Tensor, gallery: Tensor | None, k: int, block_size: int | None) -> Iterator[Tensor]:
    leave_one_out = gallery is None
    queries = _prepare(queries, "queries")
    gallery = queries if gallery is None else _prepare(gallery, "gallery").to(queries.device)
    if gallery.shape[1] != queries.shape[1]:
        raise InputError(
            f"queries of width {queries.shape[1]} cannot be compared with a gallery of width {gallery.shape[1]}: "
            "embed both with the same model"
        )
    if block_size is None:
        block_size = max(1, _BLOCK_BYTES // (4 * len(gallery)))
    if block_size < 1:
        raise InputError(f"block_size = {block_size} compares nothing: give at least 1, or None")
    k = min(k, len(gallery) - leave_one_out)
    buffer = queries.new_empty(min(block_size, len(queries)), len(gallery))
    for start in range(0, len(queries), block_size):
        block = queries[start : start + block_size]
        # out= also keeps a surrounding autocast from rounding the similarities to 16 bits.
        similarities = torch.mm(block, gallery.T, out=buffer[: len(block)])
        if leave_one_out:
            similarities.diagonal(start).fill_(-torch.inf)
        yield _largest(similarities, k)


def _largest(similarities: Tensor, k: int) -> Tensor:
    """Return the column indices of each row's k largest values, descending, equal ones by lower index first."""
    values, indices = similarities.topk(min(k + 1, similarities.shape[1]), dim=1)
    values, beyond, indices = values[:, :k], values[:, k:], indices[:, :k]
    # topk takes an arbitrary one where the k-th largest value occurs more often than there is room for.
    cut = (beyond == values[:, -1:]).any(dim=1)
    if cut.any():
        rows, last = similarities[cut], values[cut, -1:]
        index = torch.arange(1, rows.shape[1] + 1, dtype=torch.int32, device=rows.device)
        order = torch.where(rows > last, 0, torch.where(rows == last, index, len(index) + 1))
        indices[cut] = order.topk(k, dim=1, largest=False).indices
        values[cut] = rows.gather(1, indices[cut])
    indices, by_index = indices.sort(dim=1)
    by_value = values.gather(1, by_index).argsort(dim=1, descending=True, stable=True)
    return indices.gather(1, by_value)


def _prepare(embeddings: Tensor, name: str) -> Tensor:
    """Check embeddings and return them in float32 with rows of length 1."""
    if embeddings.ndim != 2 or not len(embeddings):
        raise InputError(f"{name} of shape {tuple(embeddings.shape)} cannot be compared: give (images, d), images >= 1")
    embeddings = embeddings.detach().float()
    broken = (~embeddings.isfinite().all(dim=1)).nonzero().flatten()
    if len(broken):
        raise InputError(
            f"{len(broken)} of {len(embeddings)} rows of {name} are NaN or infinite, the first is row "
            f"{int(broken[0])}: training has diverged (try a lower learning rate) or the images are broken"
        )
    # Scaled by its largest entry first, a row of 1e30 or 1e-30 keeps its direction in float32.
    peak = embeddings.abs().amax(dim=1, keepdim=True)
    return normalize(embeddings / peak.where(peak > 0, 1.0))


def _check_labels(embeddings: Tensor, labels: Tensor) -> None:
    if labels.ndim != 1 or len(labels) != len(embeddings):
        raise InputError(
            f"labels of shape {tuple(labels.shape)} do not fit {len(embeddings)} embeddings: give one for each"
        )


def _count_relevant(query_labels: Tensor, gallery_labels: Tensor) -> Tensor:
    _, codes = torch.unique(torch.cat([query_labels, gallery_labels]), return_inverse=True)
    counts: Tensor = codes[len(query_labels) :].bincount(minlength=len(codes))
    return counts[codes[: len(query_labels)]]


def _found_within(hits: Tensor, k: int) -> Tensor:
    return hits[:, :k].any(dim=1).float()


def _within_r(hits: Tensor, num_relevant: Tensor) -> Tensor:
    if len(num_relevant) and hits.shape[1] < num_relevant.max():
        raise InputError(
            f"{hits.shape[1]} neighbours do not reach R = {int(num_relevant.max())}: look for max(num_relevant) of them"
        )
    return hits & (torch.arange(hits.shape[1], device=hits.device) < num_relevant[:, None])


def _average_precision_at_r(hits: Tensor, num_relevant: Tensor) -> Tensor:
    within = _within_r(hits, num_relevant)
    ranks = torch.arange(1, hits.shape[1] + 1, device=hits.device)
    precision = within.cumsum(dim=1, dtype=torch.float32) / ranks
    return (precision * within).sum(dim=1) / num_relevant.clamp(min=1)


def _precision_at_r(hits: Tensor, num_relevant: Tensor) -> Tensor:
    return _within_r(hits, num_relevant).sum(dim=1) / num_relevant.clamp(min=1)


def _mean_over_answerable(values: Tensor, num_relevant: Tensor) -> float:
    return float(values[num_relevant > 0].cpu().double().mean())
