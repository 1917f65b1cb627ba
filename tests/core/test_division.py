from __future__ import annotations

import itertools
import random
import re
from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from divconq_pl.core.division import (
    Division,
    check_divisible,
    classes_per_cluster,
    divide,
    match,
    usable_images,
)
from divconq_pl.core.kmeans import kmeans
from divconq_pl.errors import InputError

quick = settings(max_examples=60, deadline=None, derandomize=True)
labels_of_images = st.lists(st.sampled_from([0, 1, 2, 7, 40]), min_size=1, max_size=40)


class Recorded:
    """A cluster function that gives prepared answers, the last one for ever, and remembers what it was asked."""

    def __init__(self, *answers: Any) -> None:
        self.answers = [torch.as_tensor(answer) for answer in answers]
        self.asked: list[tuple[int, int, int]] = []

    def __call__(self, features: Tensor, num_clusters: int, *, seed: int) -> Tensor:
        self.asked.append((len(features), num_clusters, seed))
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


@quick
@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from([3, 4, 9])), max_size=30))
def test_an_image_is_usable_with_another_of_its_class_in_its_cluster(pairs: list[tuple[int, int]]) -> None:
    assume(pairs)
    assignment, labels = torch.tensor(pairs).T
    assert usable_images(assignment, labels).tolist() == [pairs.count(pair) > 1 for pair in pairs]
    expected = [sum(pairs.count((k, c)) > 1 for c in (3, 4, 9)) for k in range(4)]
    assert classes_per_cluster(assignment, labels, 4).tolist() == expected


@cache
def is_divisible(pairs: tuple[int, ...], num_clusters: int) -> bool:
    """Search all ways to give each cluster two classes, with ``pairs`` pairs of images in each class."""
    if num_clusters == 0:
        return True
    return any(
        is_divisible(tuple(sorted(n - (c in chosen) for c, n in enumerate(pairs))), num_clusters - 1)
        for chosen in itertools.combinations(range(len(pairs)), 2)
        if all(pairs[c] for c in chosen)
    )


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=5), st.integers(0, 3))
@example([100, 2, 2], 2)
@example([4, 4], 1)
def test_labels_are_refused_exactly_if_no_division_exists(counts: list[int], depth: int) -> None:
    labels = torch.tensor([3 * c for c, n in enumerate(counts) for _ in range(n)])
    pairs = tuple(sorted(min(n // 2, 8) for n in counts))
    if is_divisible(pairs, 2**depth):
        check_divisible(labels, 2**depth)
        return
    with pytest.raises(InputError, match=f"{len(labels)} images of {len(counts)} classes") as refused:
        check_divisible(labels, 2**depth)
    advice = re.search(r"split_depth=(\d+)", str(refused.value))
    if advice is None:
        assert not is_divisible(pairs, 1)
        assert re.search(rf"\b{sum(n > 1 for n in counts)} of them with two or more", str(refused.value))
    else:
        assert is_divisible(pairs, 2 ** int(advice[1])), "what is advised works"
        assert not is_divisible(pairs, 2 ** (int(advice[1]) + 1)), "and no more would"
        check_divisible(labels, 2 ** int(advice[1]))
    assert "  " not in str(refused.value), "a sentence with a hole in it"
