from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Sequence
from functools import partial
from importlib.util import find_spec
from typing import Any, Literal

import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from divconq_pl.core.division import Division, divide, match
from divconq_pl.core.kmeans import kmeans
from divconq_pl.errors import InputError

needs_faiss = pytest.mark.skipif(find_spec("faiss") is None, reason="faiss is an optional dependency")
both_backends = pytest.mark.parametrize("backend", ["torch", pytest.param("faiss", marks=needs_faiss)])
quick = settings(max_examples=60, deadline=None, derandomize=True)
labels_of_images = st.lists(st.sampled_from([0, 1, 2, 7, 40]), min_size=1, max_size=40)


class Recorded:
    """A cluster function that gives prepared answers, the last one for ever, and remembers what it was asked.

    It can start from given centres, and remembers these, too.
    """

    def __init__(self, *answers: Any) -> None:
        self.answers = [torch.as_tensor(answer) for answer in answers]
        self.asked: list[tuple[int, int, int]] = []
        self.centres: list[Tensor | None] = []

    def __call__(self, features: Tensor, num_clusters: int, *, seed: int, centres: Tensor | None = None) -> Tensor:
        self.asked.append((len(features), num_clusters, seed))
        self.centres.append(centres)
        return self.answers[min(len(self.asked), len(self.answers)) - 1]


def is_usable(labels: Sequence[int]) -> bool:
    """Tell the slow way whether batches with positives and negatives can be drawn from a cluster."""
    return sum(labels.count(c) >= 2 for c in set(labels)) >= 2


def all_usable(division: Division, labels: Tensor) -> bool:
    clusters: list[list[int]] = [[] for _ in range(2**division.depth)]
    for k, label in zip(division.assignment.tolist(), labels.tolist(), strict=True):
        clusters[k].append(label)
    return all(map(is_usable, clusters))


def noise(rows: int, seed: int, dim: int = 6) -> Tensor:
    return torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed))


def tree_of_blobs(rows: int = 160) -> tuple[Tensor, Tensor]:
    """Draw eight blobs, the leaves of a binary tree whose upper branches lie farther apart; four classes in each."""
    leaf = torch.arange(rows) % 8
    centres = torch.tensor([[20.0 * (k // 4), 6.0 * (k // 2 % 2), 2.0 * (k % 2)] for k in range(8)])
    return centres[leaf] + 0.1 * noise(rows, seed=0, dim=3), leaf


TREE, LEAF = tree_of_blobs()
CLASSES = torch.arange(len(TREE)) // 8 % 4


def grow(depth: int, **options: Any) -> Division:
    division = Division.undivided(len(TREE))
    for level in range(1, depth + 1):
        division = divide(TREE, CLASSES, division, level, cluster=kmeans, **options)
    return division


def partition(assignment: Tensor) -> set[frozenset[int]]:
    return {frozenset(torch.nonzero(assignment == k).flatten().tolist()) for k in assignment.unique().tolist()}


def test_an_undivided_and_a_merged_division() -> None:
    undivided = Division.undivided(5)
    assert (undivided.assignment.tolist(), undivided.depth, undivided.num_clusters) == ([0] * 5, 0, 1)
    division = Division(torch.tensor([0, 1, 2, 3, 4, 5, 6, 7]), 3)
    assert division.num_clusters == 8
    merged = division.merged(1)
    assert (merged.assignment.tolist(), merged.depth) == ([0, 0, 0, 0, 1, 1, 1, 1], 1)
    assert division.merged(3).assignment.tolist() == division.assignment.tolist()


def test_division_goes_down_the_tree_of_the_data() -> None:
    previous = grow(1)
    assert partition(previous.assignment) == partition(LEAF // 4)
    for depth in (2, 3):
        division = divide(TREE, CLASSES, previous, depth, cluster=kmeans, seed=30 * depth)
        assert partition(division.assignment) == partition(LEAF // 2 ** (3 - depth))
        assert torch.equal(division.assignment // 2, previous.assignment), "the children of learner k are 2k and 2k + 1"
        assert (division.depth, division.assignment.dtype) == (depth, torch.int64)
        previous = division


def test_several_levels_can_be_made_at_once() -> None:
    division = divide(TREE, CLASSES, Division.undivided(len(TREE)), 3, cluster=kmeans)
    for depth in range(4):
        assert partition(division.merged(depth).assignment) == partition(LEAF // 2 ** (3 - depth))


def test_flat_division_makes_all_clusters_in_one_clustering() -> None:
    answer = torch.randperm(8)[LEAF]
    cluster = Recorded(answer)
    division = divide(TREE, CLASSES, Division.undivided(len(TREE)), 3, cluster=cluster, flat=True, seed=4)
    assert cluster.asked == [(len(TREE), 8, 4)]
    assert torch.equal(division.assignment, answer)
    assert division.depth == 3


@pytest.mark.parametrize("flat", [False, True])
def test_dividing_the_same_features_again_moves_nothing(flat: bool) -> None:
    division = grow(3, flat=flat)
    for seed in (30, 60, 90):
        again = divide(TREE, CLASSES, division, 3, cluster=kmeans, flat=flat, seed=seed)
        assert torch.equal(again.assignment, division.assignment)


@pytest.mark.parametrize("flat", [False, True])
def test_learners_keep_their_data_whatever_the_clusters_are_called(flat: bool) -> None:
    old = torch.randperm(8)[LEAF]
    moved = torch.arange(0, len(TREE), 11)
    new = old.clone()
    new[moved] = (old[moved] + 1) % 8
    cluster = Recorded(torch.randperm(8)[new])
    division = divide(TREE, CLASSES, Division(old, 3), 3, cluster=cluster, flat=flat)
    assert torch.equal(division.assignment, new)


def test_learners_keep_their_data_before_they_are_split() -> None:
    previous = Division(LEAF // 4, 1)
    cluster = Recorded(1 - LEAF // 4, *[LEAF[k == LEAF // 4] // 2 % 2 for k in (0, 1)])
    division = divide(TREE, CLASSES, previous, 2, cluster=cluster)
    assert cluster.asked == [(160, 2, 0), (80, 2, 0), (80, 2, 0)]
    assert torch.equal(division.assignment, LEAF // 2)


def slow_cost(new: Sequence[int], old: Sequence[int], num_clusters: int) -> int:
    """Count for each cluster the images that are in exactly one of its new and its old version."""
    return sum((a == k) != (b == k) for k in range(num_clusters) for a, b in zip(new, old, strict=True))


@quick
@given(st.integers(1, 5), st.data())
def test_matching_is_the_best_of_all_ways_to_rename(num_clusters: int, data: st.DataObject) -> None:
    cluster = st.integers(0, num_clusters - 1)
    pairs = data.draw(st.lists(st.tuples(cluster, cluster), min_size=1, max_size=25))
    new, old = map(list, zip(*pairs, strict=True))
    renamed = match(torch.tensor(new), torch.tensor(old), num_clusters).tolist()
    names = set(zip(new, renamed, strict=True))
    assert len(names) == len(set(new)) == len(set(renamed)), "no more than renamed"
    ways = itertools.permutations(range(num_clusters))
    assert slow_cost(renamed, old, num_clusters) == min(
        slow_cost([way[k] for k in new], old, num_clusters) for way in ways
    )


@quick
@given(labels_of_images, st.integers(0, 3), st.booleans(), st.integers(0, 99))
@example([0, 0, 1, 1], 3, True, 0)
def test_whatever_the_data_clusters_are_usable_and_nothing_fails(
    labels: list[int], depth: int, flat: bool, seed: int
) -> None:
    """With k-means, from the first division to one that finds other features."""
    assume(is_usable(labels))
    classes = torch.tensor(labels)
    division = Division.undivided(len(labels))
    for epoch in range(3):
        features = noise(len(labels), seed + epoch)
        division = divide(features, classes, division, depth, cluster=kmeans, flat=flat, seed=30 * epoch)
        assert division.depth <= depth
        assert division.assignment.shape == (len(labels),)
        assert all_usable(division, classes)


@st.composite
def any_classes(draw: st.DrawFn) -> Tensor:
    """Draw the classes of images, in any order: a long tail, one giant class, many single images, or all alike."""
    tail = [max(1, draw(st.integers(4, 40)) // rank) for rank in range(1, draw(st.integers(2, 30)))]
    giant = [draw(st.integers(30, 150)), *draw(st.lists(st.integers(1, 3), max_size=6))]
    single = [1] * draw(st.integers(0, 40)) + draw(st.lists(st.integers(2, 5), max_size=4))
    alike = [draw(st.integers(1, 6))] * draw(st.integers(1, 30))
    counts = draw(st.sampled_from([tail, giant, single or [1], alike, tail + giant + single]))
    classes = [c for c, n in enumerate(counts) for _ in range(n)]
    return torch.tensor(draw(st.permutations(classes)) if len(classes) < 40 else sorted(classes, key=lambda c: c % 7))


@settings(max_examples=25, deadline=None, derandomize=True)
@given(any_classes(), st.integers(0, 3), st.integers(1, 2), st.sampled_from([1, 2, 9]), st.integers(0, 99))
def test_children_stay_in_their_parent_and_global_random_numbers_do_not_matter(
    classes: Tensor, depth: int, more: int, dim: int, seed: int
) -> None:
    """Whatever the distribution of classes, down to one dimension and identical images."""
    assume(is_usable(classes.tolist()))
    features = noise(len(classes), seed, dim)
    features[: len(classes) // 3] = features[0]
    torch.manual_seed(seed)
    parents = divide(features, classes, Division.undivided(len(classes)), depth, cluster=kmeans, seed=seed)
    assert all_usable(parents, classes)

    def keep_parents(rows: Tensor, num_clusters: int, *, seed: int) -> Tensor:
        again = len(rows) == len(classes) and num_clusters == parents.num_clusters > 1
        return parents.assignment if again else kmeans(rows, num_clusters, seed=seed)

    before = torch.get_rng_state()
    children = divide(features, classes, parents, depth + more, cluster=keep_parents, seed=seed + 30)
    assert torch.equal(torch.get_rng_state(), before)
    assert parents.depth <= children.depth <= depth + more
    assert torch.equal(children.merged(parents.depth).assignment, parents.assignment), "learner k: 2k and 2k + 1"
    assert children.assignment.shape == classes.shape
    assert all_usable(children, classes)
    torch.manual_seed(seed + 1)
    again = divide(features, classes, parents, depth + more, cluster=keep_parents, seed=seed + 30)
    assert torch.equal(again.assignment, children.assignment)


def test_data_that_cannot_be_split_stay_together() -> None:
    """Two classes, each in a place of its own: any cut between them leaves only one on either side."""
    features = torch.tensor([[0.0], [10.0]]).repeat_interleave(10, 0) + 0.1 * noise(20, 0, dim=1)
    classes = torch.arange(2).repeat_interleave(10)
    for flat in (False, True):
        division = divide(features, classes, Division.undivided(20), 1, cluster=kmeans, flat=flat)
        assert (division.depth, division.num_clusters) == (0, 1)


def test_all_clusters_are_split_or_none() -> None:
    """Of the two halves of these data only one can be halved again: K is a power of two, so both stay."""
    features = torch.cat([noise(40, 0, dim=2), 50 + noise(4, 1, dim=2)])
    classes = torch.cat([torch.arange(40) % 4, torch.tensor([0, 0, 1, 1])])
    division = divide(features, classes, Division.undivided(44), 2, cluster=kmeans)
    assert division.depth == 1
    assert sorted(Counter(division.assignment.tolist()).values()) == [4, 40]


def test_images_that_cannot_be_clustered_anew_stay_where_they_are() -> None:
    previous = Division(LEAF // 4, 1)
    one_image = torch.zeros(len(TREE), dtype=torch.int64)
    one_image[0] = 1
    division = divide(TREE, CLASSES, previous, 1, cluster=Recorded(one_image))
    assert torch.equal(division.assignment, previous.assignment)
    assert division.depth == 1


@pytest.mark.parametrize("start", ["anew", "previous"])
def test_each_epoch_has_seeds_of_its_own(start: Literal["anew", "previous"]) -> None:
    cluster = Recorded(UNUSABLE)
    for epoch in range(3):
        divide(noise(16, 0), PAIRS, Division(USABLE, 1), 1, cluster=cluster, start=start, seed=7, epoch=epoch)
    assert len({seed for _, _, seed in cluster.asked}) == len(cluster.asked) == 90
    assert cluster.asked[0] == (16, 2, 7)


def test_the_same_seeds_each_time_are_a_choice() -> None:
    cluster = Recorded(USABLE)
    for epoch in range(3):
        divide(noise(16, 0), PAIRS, Division(USABLE, 1), 1, cluster=cluster, start="same_seed", seed=7, epoch=epoch)
    assert cluster.asked == [(16, 2, 7)] * 3


def test_clusters_may_grow_out_of_the_previous_ones() -> None:
    """The centres are the means of the present features over the previous clusters; only the first trial has them."""
    features, cluster = noise(16, 3), Recorded(UNUSABLE, USABLE)
    division = divide(features, PAIRS, Division(1 - USABLE, 1), 1, cluster=cluster, start="previous", seed=5)
    assert torch.equal(division.assignment, 1 - USABLE)
    assert cluster.asked == [(16, 2, 5), (16, 2, 6)]
    first, second = cluster.centres
    assert second is None, "it starts anew where that left an unusable cluster"
    assert torch.allclose(first, torch.stack([features[8:].mean(0), features[:8].mean(0)]))


@pytest.mark.parametrize("flat", [False, True])
def test_where_there_are_no_previous_clusters_a_clustering_starts_anew(flat: bool) -> None:
    cluster = Recorded(USABLE)
    divide(noise(16, 0), PAIRS, Division.undivided(16), 1, cluster=cluster, flat=flat, start="previous")
    assert cluster.centres == [None]


@both_backends
@pytest.mark.parametrize("whole_classes", [False, True])
@pytest.mark.parametrize("flat", [False, True])
def test_on_the_same_features_nothing_moves_from_the_previous_centres_once_converged(
    backend: str, whole_classes: bool, flat: bool
) -> None:
    """Of features without any structure other starts move many images."""
    features, classes = noise(600, 4, dim=12), torch.arange(600) % 60
    moved = {}
    for start in ("previous", "anew"):
        options: dict[str, Any] = {"start": start, "whole_classes": whole_classes, "flat": flat}
        cluster = partial(kmeans, backend=backend, iterations=100)
        division = divide(features, classes, Division.undivided(600), 2, cluster=cluster, **options)
        for epoch in (2, 4):
            previous = division
            division = divide(features, classes, division, 2, cluster=cluster, epoch=epoch, **options)
        moved[start] = int((division.assignment != previous.assignment).sum())
    assert moved["previous"] == 0
    assert moved["anew"] > 60


@settings(max_examples=25, deadline=None, derandomize=True)
@given(any_classes(), st.integers(0, 3), st.booleans(), st.sampled_from(["anew", "same_seed", "previous"]))
@example(torch.arange(64) % 16, 3, False, "previous")
@example(torch.arange(4).repeat_interleave(2), 1, False, "anew")
def test_whole_classes_are_never_cut(
    classes: Tensor, depth: int, flat: bool, start: Literal["anew", "same_seed", "previous"]
) -> None:
    """With usable clusters all the time, whatever the distribution of classes."""
    assume(is_usable(classes.tolist()))
    division = Division.undivided(len(classes))
    for epoch in range(3):
        division = divide(
            noise(len(classes), epoch),
            classes,
            division,
            depth,
            cluster=kmeans,
            flat=flat,
            start=start,
            whole_classes=True,
            epoch=epoch,
        )
        assert division.depth <= depth
        assert all_usable(division, classes)
        clusters_of_classes = set(zip(classes.tolist(), division.assignment.tolist(), strict=True))
        assert len(clusters_of_classes) == len(classes.unique())


def test_whole_classes_are_clustered_by_their_means() -> None:
    features, classes = noise(60, 8), torch.arange(60) % 12 * 5
    seen = []

    def cluster(rows: Tensor, num_clusters: int, *, seed: int) -> Tensor:
        seen.append(rows)
        return torch.arange(len(rows)) % num_clusters

    division = divide(features, classes, Division.undivided(60), 1, cluster=cluster, whole_classes=True)
    (means,) = seen
    assert torch.allclose(means, torch.stack([features[classes == c].mean(0) for c in range(0, 60, 5)]), atol=1e-6)
    assert division.assignment.tolist() == [i % 12 % 2 for i in range(60)]


def test_a_class_that_was_cut_before_is_whole_from_the_next_clustering_on() -> None:
    """Its images are counted where they were when clusters are matched, and centres do not mind."""
    classes = LEAF % 4 + 4 * (torch.arange(len(TREE)) % 20 // 10)
    previous = Division(torch.arange(len(TREE)) // 80, 1)
    division = divide(TREE, classes, previous, 1, cluster=kmeans, start="previous", whole_classes=True)
    assert len(set(zip(classes.tolist(), division.assignment.tolist(), strict=True))) == 8


@quick
@given(st.lists(st.integers(1, 6), min_size=4, max_size=9), st.integers(0, 99))
@example([1, 1, 2, 2, 2, 2, 1], 0)
def test_classes_without_usable_halves_are_cut_between_classes_nearest_to_the_middle(
    counts: list[int], seed: int
) -> None:
    classes = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    features = noise(len(classes), seed)
    halves = torch.zeros(len(counts), dtype=torch.int64)
    halves[seed % len(counts)] = 1
    division = divide(
        features, classes, Division.undivided(len(classes)), 1, cluster=Recorded(halves), whole_classes=True
    )
    means = torch.stack([features[classes == c].mean(0) for c in range(len(counts))])
    rows, centres = means.double(), [means.double()[halves == half].mean(0) for half in (0, 1)]
    nearer = [float((row - centres[0]).square().sum() - (row - centres[1]).square().sum()) for row in rows]
    order = sorted(range(len(counts)), key=nearer.__getitem__)
    middle = sum(difference <= 0 for difference in nearer)
    usable = [
        sum(counts[c] > 1 for c in order[:cut]) >= 2 <= sum(counts[c] > 1 for c in order[cut:])
        for cut in range(len(counts) + 1)
    ]
    cuts = sorted((cut for cut, ok in enumerate(usable) if ok), key=lambda cut: abs(cut - middle))
    if cuts:
        assert {c for c, k in zip(classes.tolist(), division.assignment.tolist(), strict=True) if k == 0} == set(
            order[: cuts[0]]
        )
    else:
        assert division.depth == 0


def test_an_unknown_start_is_refused() -> None:
    with pytest.raises(InputError, match="start='cold' is unknown; choose 'anew', 'same_seed' or 'previous'"):
        divide(TREE, CLASSES, Division.undivided(len(TREE)), 1, cluster=kmeans, start="cold")  # type: ignore[arg-type]


USABLE, UNUSABLE = torch.arange(16) // 8, (torch.arange(16) == 0).long()
PAIRS = torch.arange(16) % 4


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("failures", [0, 1, 29])
def test_clustering_is_tried_with_other_seeds_until_it_is_usable(flat: bool, failures: int) -> None:
    cluster = Recorded(*[UNUSABLE] * failures, USABLE)
    division = divide(noise(16, 0), PAIRS, Division.undivided(16), 1, cluster=cluster, flat=flat, seed=60)
    assert torch.equal(division.assignment, USABLE)
    assert cluster.asked == [(16, 2, 60 + trial) for trial in range(failures + 1)]


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("depth", [0, 1])
def test_there_are_at_most_thirty_trials(flat: bool, depth: int) -> None:
    cluster = Recorded(UNUSABLE)
    previous = Division(USABLE, 1) if depth else Division.undivided(16)
    divide(noise(16, 0), PAIRS, previous, 1, cluster=cluster, flat=flat)
    assert len(cluster.asked) == len({seed for _, _, seed in cluster.asked}) == 30


def slow_cuts(features: Tensor, labels: list[int], halves: Tensor) -> tuple[list[int], list[int]]:
    """Order images from one centre to the other; return the order and the usable cuts, nearest to the middle first."""
    rows = features.double()
    centres = [rows[halves == half].mean(0) for half in (0, 1)]
    nearer = [float((row - centres[0]).square().sum() - (row - centres[1]).square().sum()) for row in rows]
    order = sorted(range(len(labels)), key=nearer.__getitem__)
    middle = sum(difference <= 0 for difference in nearer)
    in_order = [labels[i] for i in order]
    cuts = [cut for cut in range(len(labels) + 1) if is_usable(in_order[:cut]) and is_usable(in_order[cut:])]
    return order, sorted(cuts, key=lambda cut: abs(cut - middle))


@quick
@given(labels_of_images, st.integers(1, 3), st.integers(0, 99))
@example([0, 1] * 8, 3, 5)
def test_a_cluster_without_usable_halves_is_cut_nearest_to_the_middle(labels: list[int], few: int, seed: int) -> None:
    assume(len(labels) > few)
    features = noise(len(labels), seed)
    halves = torch.zeros(len(labels), dtype=torch.int64)
    halves[random.Random(seed).sample(range(len(labels)), few)] = 1
    division = divide(features, torch.tensor(labels), Division.undivided(len(labels)), 1, cluster=Recorded(halves))
    order, cuts = slow_cuts(features, labels, halves)
    if cuts:
        assert division.depth == 1
        assert {i for i, k in enumerate(division.assignment.tolist()) if k == 0} == set(order[: cuts[0]])
    else:
        assert division.depth == 0
