"""Retrieval metrics against double loops that spell out the definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.metrics import normalized_mutual_info_score
from torch import Tensor

from divconq_pl.errors import InputError
from divconq_pl.metrics import neighbours as nearest
from divconq_pl.metrics.retrieval import (
    map_at_r,
    marp,
    neighbours,
    nmi,
    r_precision,
    recall_at_k,
    reid_recall,
    retrieval_metrics,
)

Array = NDArray[np.float64]


@pytest.fixture(autouse=True, params=["few", "ranking"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Find a few, and rank the whole gallery, as is done for large classes."""
    if request.param == "ranking":
        monkeypatch.setattr(nearest, "FEW", 0)
    return request.param


def slow_neighbours(queries: Array, gallery: Array | None, k: int) -> list[list[int]]:
    """Sort all distances of every query; equal ones by index."""
    leave_one_out = gallery is None
    others = queries if gallery is None else gallery
    found = []
    for i, query in enumerate(queries):
        distances = []
        for j, other in enumerate(others):
            if not (leave_one_out and i == j):
                difference = query / np.linalg.norm(query) - other / np.linalg.norm(other)
                distances.append((round(float(np.sqrt((difference**2).sum())), 6), j))
        found.append([j for _, j in sorted(distances)[:k]])
    return found


def slow_metrics(
    queries: Array, labels: list[int], gallery: Array | None, gallery_labels: list[int], ks: tuple[int, ...]
) -> dict[str, float]:
    values: dict[str, list[float]] = {}
    for i, ranked in enumerate(slow_neighbours(queries, gallery, 10**9)):
        hits = [gallery_labels[j] == labels[i] for j in ranked]
        relevant = sum(hits)
        if relevant == 0:
            continue
        for k in ks:
            values.setdefault(f"recall_at_{k}", []).append(float(any(hits[:k])))
        precision_at_hits = [sum(hits[: rank + 1]) / (rank + 1) for rank in range(relevant) if hits[rank]]
        values.setdefault("map_at_r", []).append(sum(precision_at_hits) / relevant)
        values.setdefault("r_precision", []).append(sum(hits[:relevant]) / relevant)
        values.setdefault("marp", []).append(sum(precision_at_hits) / max(1, len(precision_at_hits)))
    return {name: float(np.mean(column)) for name, column in values.items()}


def embedded(images: int, width: int = 6, classes: int = 7, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Draw overlapping classes of different sizes."""
    generator = torch.Generator().manual_seed(seed)
    labels = (torch.rand(images, generator=generator) ** 2 * classes).long()
    centres = torch.randn(classes, width, generator=generator)
    return centres[labels] + torch.randn(images, width, generator=generator), labels


def test_neighbours_are_those_of_the_double_loop():
    queries, _ = embedded(40)
    gallery, _ = embedded(55, seed=1)
    assert neighbours(queries, k=9).tolist() == slow_neighbours(queries.numpy(), None, 9)
    assert neighbours(queries, gallery, k=9).tolist() == slow_neighbours(queries.numpy(), gallery.numpy(), 9)


def test_length_of_an_embedding_does_not_matter():
    queries, _ = embedded(40)
    lengths = torch.logspace(-30, 30, 40)[:, None]
    assert neighbours(queries * lengths, k=5).tolist() == neighbours(queries, k=5).tolist()


def test_an_image_is_never_its_own_neighbour_but_its_duplicates_are():
    row = torch.tensor([[1.0, 2.0, 3.0]])
    queries = torch.cat([row, row, -row, row])
    assert neighbours(queries, k=3).tolist() == [[1, 3, 2], [0, 3, 2], [0, 1, 3], [0, 1, 2]]


def test_a_query_may_find_its_copy_in_a_gallery():
    queries, _ = embedded(12)
    assert neighbours(queries, queries.clone(), k=1).flatten().tolist() == list(range(12))


@pytest.mark.parametrize("k", [1, 2, 3, 7, 20, 47])
def test_ties_go_to_the_lower_index(k: int):
    # On the axes, similarities are exactly 1, 0 or -1: every distance occurs many times.
    generator = torch.Generator().manual_seed(3)
    axes = torch.eye(4)[torch.randint(0, 4, (48,), generator=generator)]
    queries = axes * torch.where(torch.rand(48, 1, generator=generator) < 0.3, -1.0, 1.0)
    assert neighbours(queries, k=k).tolist() == slow_neighbours(queries.numpy(), None, k)


def test_a_collapsed_embedding_is_not_rewarded():
    labels = torch.arange(20).repeat_interleave(5)
    collapsed = torch.ones(100, 8)
    assert retrieval_metrics(collapsed, labels, ks=(1,))["recall_at_1"] == pytest.approx(0.05)


@pytest.mark.parametrize("num_bytes", [1, 160, 320, 1111, 6240, 6400, 6560, 160_000])
def test_blocks_of_every_size_give_the_same_neighbours(monkeypatch: pytest.MonkeyPatch, num_bytes: int):
    queries, _ = embedded(40)
    gallery, _ = embedded(55, seed=1)
    in_one_block = neighbours(queries, k=9), neighbours(queries, gallery, k=9)
    monkeypatch.setattr(nearest, "_BLOCK_BYTES", num_bytes)
    assert torch.equal(neighbours(queries, k=9), in_one_block[0])
    assert torch.equal(neighbours(queries, gallery, k=9), in_one_block[1])


@pytest.mark.parametrize("images", [2, 40])
def test_nor_does_the_number_of_threads(images: int):
    embeddings, _ = embedded(images)
    threads, alone = torch.get_num_threads(), neighbours(embeddings, k=30)
    try:
        torch.set_num_threads(5)
        assert torch.equal(neighbours(embeddings, k=30), alone)
        assert alone.tolist() == slow_neighbours(embeddings.numpy(), None, 30)
    finally:
        torch.set_num_threads(threads)


def test_metrics_do_not_depend_on_the_block(monkeypatch: pytest.MonkeyPatch):
    embeddings, labels = embedded(60)
    whole = retrieval_metrics(embeddings, labels)
    monkeypatch.setattr(nearest, "_BLOCK_BYTES", 7 * 60 * 4)
    assert retrieval_metrics(embeddings, labels) == whole


@pytest.mark.parametrize("way", ["few"], indirect=True)
def test_no_more_similarities_than_a_block_exist_at_a_time(monkeypatch: pytest.MonkeyPatch):
    embeddings, labels = embedded(60)
    largest = nearest._find_largest
    rows = []

    def watched(similarities: Tensor, k: int) -> Tensor:
        rows.append(len(similarities))
        assert similarities.untyped_storage().nbytes() <= 7 * 60 * 4
        return largest(similarities, k)

    monkeypatch.setattr(nearest, "_find_largest", watched)
    monkeypatch.setattr(nearest, "_BLOCK_BYTES", 7 * 60 * 4)
    neighbours(embeddings, k=4)
    assert rows == [7] * 8 + [4]
    rows.clear()
    retrieval_metrics(embeddings, labels)
    assert rows == [7] * 8 + [4]


@pytest.mark.parametrize("classes", [1, 3, 7, 30, 60])
def test_metrics_are_those_of_the_double_loop(classes: int):
    ks = (1, 2, 4, 8)
    embeddings, labels = embedded(60, classes=classes)
    expected = slow_metrics(embeddings.numpy(), labels.tolist(), None, labels.tolist(), ks)
    assert retrieval_metrics(embeddings, labels, ks=ks, marp=True) == pytest.approx(expected)

    queries, query_labels = embedded(33, classes=classes, seed=1)
    expected = slow_metrics(queries.numpy(), query_labels.tolist(), embeddings.numpy(), labels.tolist(), ks)
    assert retrieval_metrics(queries, query_labels, embeddings, labels, ks=ks, marp=True) == pytest.approx(expected)


@pytest.mark.parametrize("two", [False, True], ids=["leave one out", "query and gallery"])
def test_metrics_of_tied_distances_are_those_of_the_double_loop(two: bool):
    generator = torch.Generator().manual_seed(3)
    embeddings = torch.eye(5)[torch.randint(0, 5, (60,), generator=generator)]
    labels = torch.randint(0, 7, (60,), generator=generator)
    parts = (embeddings[:20], labels[:20], embeddings[20:], labels[20:]) if two else (embeddings, labels)
    expected = slow_metrics(
        parts[0].numpy(), parts[1].tolist(), parts[2].numpy() if two else None, parts[-1].tolist(), (1, 3)
    )
    assert retrieval_metrics(*parts, ks=(1, 3), marp=True) == pytest.approx(expected)


@pytest.mark.parametrize("two", [False, True], ids=["leave one out", "query and gallery"])
def test_large_and_small_classes_with_ties_are_those_of_the_double_loop(two: bool):
    """Classes of 300, 130 and 4 images are searched in different ways, each among distances that occur many times."""
    generator = torch.Generator().manual_seed(5)
    labels = torch.cat([torch.zeros(300), torch.ones(130), torch.arange(2, 12).repeat_interleave(4)]).long()
    labels = labels[torch.randperm(len(labels), generator=generator)]
    embeddings = torch.eye(4)[torch.randint(0, 4, (len(labels),), generator=generator)]
    embeddings[::3] *= -1.0
    embeddings[:30] = 0.0  # as far from all others
    parts = (embeddings[:70], labels[:70], embeddings[70:], labels[70:]) if two else (embeddings, labels)
    units = torch.nn.functional.normalize(embeddings)
    queries, gallery = (units[:70], units[70:]) if two else (units, units)
    values: dict[str, list[float]] = {"recall_at_1": [], "map_at_r": [], "r_precision": [], "marp": []}
    for i, (query, label) in enumerate(zip(queries, parts[1], strict=True)):
        order = (gallery @ query).argsort(descending=True, stable=True)
        hits = (parts[-1][order] == label)[two | (order != i)]
        r = int(hits.sum())
        if r:
            found = hits[:r].nonzero().flatten() + 1
            precision = torch.arange(1, len(found) + 1) / found
            values["recall_at_1"].append(float(hits[0]))
            values["map_at_r"].append(float(precision.sum()) / r)
            values["r_precision"].append(len(found) / r)
            values["marp"].append(float(precision.sum()) / max(1, len(found)))
    expected = {name: np.mean(column) for name, column in values.items()}
    assert retrieval_metrics(*parts, ks=(1,), marp=True) == pytest.approx(expected, rel=1e-6)


def test_what_looks_at_a_whole_class_can_be_left_out():
    embeddings, labels = embedded(60)
    whole = retrieval_metrics(embeddings, labels, marp=True)
    assert retrieval_metrics(embeddings, labels, map_at_r=False) == {k: v for k, v in whole.items() if "recall" in k}
    alone = retrieval_metrics(embeddings, labels, map_at_r=False, marp=True)
    assert alone == {k: v for k, v in whole.items() if k not in ("map_at_r", "r_precision")}


def test_how_long_it_takes_is_said_at_the_start(monkeypatch: pytest.MonkeyPatch):
    embeddings, labels = embedded(60)
    monkeypatch.setattr(nearest, "_BLOCK_BYTES", 60 * 20)
    monkeypatch.setattr("divconq_pl.metrics.answers.LONG", 0.0)
    with pytest.warns(UserWarning, match="comparing 60 images with 60 takes about 0 minutes") as said:
        retrieval_metrics(embeddings, labels)
    assert len(said) == 1


def test_map_at_r_of_the_worked_example():
    hits = torch.zeros(1, 10, dtype=torch.bool)
    hits[0, [0, 5]] = True
    assert map_at_r(hits, torch.tensor([10])) == pytest.approx((1 / 1 + 2 / 6) / 10)
    assert r_precision(hits, torch.tensor([10])) == pytest.approx(0.2)


def test_the_papers_marp_divides_by_the_hits():
    hits = torch.zeros(1, 10, dtype=torch.bool)
    hits[0, [0, 5]] = True
    assert marp(hits, torch.tensor([10])) == pytest.approx((1 / 1 + 2 / 6) / 2)
    assert marp(torch.zeros(1, 10, dtype=torch.bool), torch.tensor([10])) == 0


def test_hits_beyond_r_do_not_count_for_map_at_r():
    hits = torch.tensor([[False, False, True, True]])
    assert map_at_r(hits, torch.tensor([2])) == 0
    assert marp(hits, torch.tensor([2])) == 0
    assert r_precision(hits, torch.tensor([2])) == 0
    assert recall_at_k(hits, torch.tensor([2]), (2, 3)) == {2: 0.0, 3: 1.0}


def test_an_image_that_is_alone_in_its_class_is_no_query():
    embeddings = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9], [-1.0, 0.0]])
    with_lone = retrieval_metrics(embeddings, torch.tensor([0, 0, 1, 1, 2]), ks=(1,))
    assert with_lone == {"recall_at_1": 1.0, "map_at_r": 1.0, "r_precision": 1.0}


def test_without_any_relevant_image_the_metrics_are_undefined_not_zero():
    embeddings, _ = embedded(4)
    assert all(math.isnan(value) for value in retrieval_metrics(embeddings, torch.arange(4)).values())
    assert all(math.isnan(value) for value in retrieval_metrics(embeddings[:1], torch.tensor([0])).values())


def test_a_k_beyond_the_test_set_looks_at_all_of_it():
    embeddings, _ = embedded(5)
    assert neighbours(embeddings, k=8).shape == (5, 4)
    assert neighbours(embeddings[:1], k=8).shape == (1, 0)
    metrics = retrieval_metrics(embeddings, torch.tensor([0, 0, 1, 1, 1]), ks=(8, 1000))
    assert metrics["recall_at_8"] == metrics["recall_at_1000"] == 1.0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_float_types_are_compared_in_float32(dtype: torch.dtype):
    embeddings, labels = embedded(60)
    embeddings = embeddings.to(dtype)
    assert retrieval_metrics(embeddings, labels) == retrieval_metrics(embeddings.float(), labels)


def test_autocast_does_not_round_similarities():
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(1, 16, generator=generator) + 1e-2 * torch.randn(80, 16, generator=generator)
    expected = neighbours(embeddings, k=5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(neighbours(embeddings, k=5), expected)


def test_memory_layout_and_gradients_do_not_matter():
    embeddings, labels = embedded(60)
    strided = torch.stack([embeddings, embeddings], dim=2).transpose(0, 1)[:, :, 0].T
    assert not strided.is_contiguous()
    assert torch.equal(neighbours(strided.requires_grad_(), k=3), neighbours(embeddings, k=3))
    assert retrieval_metrics(strided, labels) == retrieval_metrics(embeddings, labels)


def test_labels_may_be_any_integers():
    embeddings, labels = embedded(60)
    strange = torch.tensor([5, -3, 2**60, 2**60 + 1, 0, 77, 10**12])[labels]
    assert retrieval_metrics(embeddings, strange) == retrieval_metrics(embeddings, labels)


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_broken_embeddings_are_refused_by_number_and_place(broken: float):
    embeddings, labels = embedded(60)
    embeddings[[7, 30], 2] = broken
    for compute in (lambda: neighbours(embeddings, k=1), lambda: nmi(embeddings, labels)):
        with pytest.raises(InputError, match=r"2 of 60 rows.*first is row 7"):
            compute()
    with pytest.raises(InputError, match="2 of 60 rows of gallery"):
        retrieval_metrics(embeddings[:5], labels[:5], embeddings, labels)


def test_what_cannot_be_computed_is_refused():
    embeddings, labels = embedded(10)
    with pytest.raises(InputError, match="k=0"):
        neighbours(embeddings, k=0)
    with pytest.raises(InputError, match=r"shape \(0, 6\)"):
        neighbours(embeddings[:0], k=1)
    with pytest.raises(InputError, match=r"width 6.*width 5"):
        neighbours(embeddings, embeddings[:, :5], k=1)
    with pytest.raises(InputError, match=r"labels of shape \(9,\).*10 embeddings"):
        retrieval_metrics(embeddings, labels[:9])
    with pytest.raises(InputError, match="both"):
        retrieval_metrics(embeddings, labels, embeddings)
    with pytest.raises(InputError, match=r"\[0, 1\]"):
        retrieval_metrics(embeddings, labels, ks=(0, 1))
    with pytest.raises(InputError, match="draws=0"):
        reid_recall(embeddings, labels, draws=0)
    with pytest.raises(InputError, match="R = 3"):
        map_at_r(torch.ones(1, 2, dtype=torch.bool), torch.tensor([3]))


def test_nmi_is_the_mean_over_seeded_clusterings_of_normalised_embeddings():
    embeddings, labels = embedded(30)
    calls = []

    def cluster(features: Tensor, num_clusters: int, *, seed: int) -> Tensor:
        calls.append((num_clusters, seed))
        assert torch.allclose(features.norm(dim=1), torch.ones(30))
        return (torch.arange(30) * (seed + 1)) % num_clusters

    classes = len(set(labels.tolist()))
    expected = [
        normalized_mutual_info_score(labels, (np.arange(30) * (seed + 1)) % classes, average_method="arithmetic")
        for seed in (4, 5, 6)
    ]
    assert nmi(embeddings, labels, runs=3, seed=4, cluster=cluster) == pytest.approx(np.mean(expected))
    assert calls == [(classes, 4), (classes, 5), (classes, 6)]
    with pytest.raises(InputError, match="runs=0"):
        nmi(embeddings, labels, runs=0)


def test_nmi_of_separate_classes_is_one():
    labels = torch.arange(4).repeat_interleave(6)
    embeddings = torch.eye(4)[labels] + 0.01 * torch.randn(24, 4, generator=torch.Generator().manual_seed(0))
    assert nmi(embeddings, labels) == pytest.approx(1.0)


def test_nmi_takes_query_and_gallery_together():
    embeddings, labels = embedded(40)
    metrics = retrieval_metrics(embeddings[:10], labels[:10], embeddings[10:], labels[10:], ks=(1,), nmi_runs=2)
    assert metrics["nmi"] == nmi(embeddings, labels, runs=2)
    assert retrieval_metrics(embeddings, labels, nmi_runs=2)["nmi"] == metrics["nmi"]


class Draws:
    """Note which images are drawn into the galleries, and rank the others image by image."""

    def __init__(self, embeddings: Tensor, labels: Tensor, ks: tuple[int, ...]):
        self.rows = [tuple(row.tolist()) for row in embeddings]
        self.embeddings, self.labels, self.ks = embeddings.numpy(), labels.tolist(), ks
        self.galleries: list[list[int]] = []
        self.recalls: dict[int, list[float]] = {k: [] for k in ks}

    def __call__(self, queries: Tensor, gallery: Tensor, k: int):
        drawn = [self.rows.index(tuple(row.tolist())) for row in gallery]
        others = [i for i in range(len(self.rows)) if i not in drawn]
        assert [self.rows.index(tuple(row.tolist())) for row in queries] == others
        ranked = slow_neighbours(self.embeddings[others], self.embeddings[drawn], 10**9)
        for k in self.ks:
            hits = [
                any(self.labels[drawn[j]] == self.labels[i] for j in found[:k])
                for i, found in zip(others, ranked, strict=True)
            ]
            self.recalls[k].append(float(np.mean(hits)))
        self.galleries.append(drawn)
        return original_blocks(queries, gallery, max(self.ks))


original_blocks = nearest.neighbour_blocks


def test_reid_recall_is_that_of_one_random_gallery_image_per_class(monkeypatch: pytest.MonkeyPatch):
    embeddings, labels = embedded(60)
    labels[17] = 99  # alone in its class: in every gallery, never a query
    plain = reid_recall(embeddings, labels, ks=(1, 3), draws=4, seed=2)
    watched = Draws(embeddings, labels, (1, 3))
    monkeypatch.setattr("divconq_pl.metrics.retrieval.neighbour_blocks", watched)
    assert reid_recall(embeddings, labels, ks=(1, 3), draws=4, seed=2) == plain
    assert plain == pytest.approx({k: np.mean(values) for k, values in watched.recalls.items()})
    assert len(watched.galleries) == 4
    for drawn in watched.galleries:
        assert sorted(labels[drawn].tolist()) == sorted(set(labels.tolist()))
    assert len({tuple(drawn) for drawn in watched.galleries}) == 4
    assert reid_recall(embeddings, labels, ks=(1, 3), draws=4, seed=3) != plain


def test_every_image_of_a_class_is_drawn_equally_often(monkeypatch: pytest.MonkeyPatch):
    embeddings, labels = torch.randn(9, 3), torch.tensor([0, 0, 0, 1, 1, 1, 1, 1, 1])
    watched = Draws(embeddings, labels, (1,))
    monkeypatch.setattr("divconq_pl.metrics.retrieval.neighbour_blocks", watched)
    reid_recall(embeddings, labels, ks=(1,), draws=600)
    counts = np.bincount(np.ravel(watched.galleries), minlength=9)
    assert counts == pytest.approx([200] * 3 + [100] * 6, rel=0.3)


def test_reid_recall_is_reported_under_its_own_name_next_to_leave_one_out():
    embeddings, labels = embedded(60)
    metrics = retrieval_metrics(embeddings, labels, ks=(1, 5), reid_draws=3)
    recall = reid_recall(embeddings, labels, ks=(1, 5), draws=3)
    assert {k: metrics[f"reid_recall_at_{k}"] for k in (1, 5)} == recall
    assert metrics["recall_at_1"] == retrieval_metrics(embeddings, labels)["recall_at_1"] > recall[1]
    split = retrieval_metrics(embeddings[:9], labels[:9], embeddings[9:], labels[9:], ks=(1, 5), reid_draws=3)
    assert split["reid_recall_at_1"] == recall[1]
    assert all(math.isnan(value) for value in reid_recall(embeddings, torch.arange(60)).values())
