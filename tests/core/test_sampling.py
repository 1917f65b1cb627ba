from __future__ import annotations

import copy
import itertools
import pickle
import random
import re
from collections import Counter, defaultdict
from typing import Any, Literal

import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from divconq_pl.core.cluster_stream import ClusterStream
from divconq_pl.core.sampling import ClusterBatchSampler, allot, check_batch, interleave
from divconq_pl.errors import InputError

quick = settings(max_examples=60, deadline=None, derandomize=True)

Sizes = list[list[int]]
"""How many images each class has in each cluster; a class may be in several clusters, one image is a lone one."""

BALANCED: Sizes = [[8, 12, 9, 10, 11], [6] * 7, [16, 15, 14, 13]]


def images(sizes: Sizes, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Lay out images in random order; return the cluster and the class (with gaps between the names) of each."""
    pairs = [(k, 3 * c + 5) for k, classes in enumerate(sizes) for c, n in enumerate(classes) for _ in range(n)]
    random.Random(seed).shuffle(pairs)
    assignment, labels = torch.tensor(pairs).T
    return assignment, labels


def make(sizes: Sizes, batch_size: int = 8, images_per_class: int = 4, **options: Any) -> ClusterBatchSampler:
    return ClusterBatchSampler(*images(sizes), batch_size=batch_size, images_per_class=images_per_class, **options)


def draw(sampler: ClusterBatchSampler, epochs: range | list[int]) -> list[list[list[int]]]:
    drawn = []
    for epoch in epochs:
        sampler.set_epoch(epoch)
        drawn.append(list(sampler))
    return drawn


def usable(sizes: Sizes) -> list[int]:
    return [sum(n for n in classes if n > 1) for classes in sizes]


class_sizes = st.one_of(st.integers(1, 5), st.integers(1, 30), st.sampled_from([1, 2, 100]))
cluster = st.lists(class_sizes, min_size=2, max_size=10).filter(lambda sizes: sum(n > 1 for n in sizes) >= 2)
clusters = st.lists(cluster, min_size=1, max_size=4)
batches = st.tuples(st.integers(2, 5), st.integers(2, 5)).map(lambda p_m: (p_m[0] * p_m[1], p_m[1]))


@quick
@given(
    clusters,
    batches,
    st.sampled_from(["proportional", "equal"]),
    st.sampled_from(["images", "classes"]),
    st.integers(0, 99),
    st.integers(1, 3),
)
@example([[100, 2], [2, 2, 1]], (4, 2), "equal", "images", 0, 1)
def test_every_batch_can_be_learned_from(
    sizes: Sizes,
    batch: tuple[int, int],
    allotment: Literal["proportional", "equal"],
    draw_: Literal["images", "classes"],
    seed: int,
    world_size: int,
) -> None:
    """One cluster, two classes, a positive pair, no lone image, and images in turn: whatever the clusters are like."""
    batch_size, images_per_class = batch
    assignment, labels = images(sizes)
    ranks = [
        make(sizes, *batch, length=8, allotment=allotment, draw=draw_, seed=seed, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    times_drawn: Counter[int] = Counter()
    groups = defaultdict(list)
    for i, (k, c) in enumerate(zip(assignment.tolist(), labels.tolist(), strict=True)):
        groups[k, c].append(i)
    for epoch in range(3):
        parts = [draw(rank, [epoch])[0] for rank in ranks]
        assert all(rank.schedule == ranks[0].schedule for rank in ranks)
        assert [len(part) for part in parts] == [len(rank) for rank in ranks] == [8] * world_size
        for *shares, k in zip(*parts, ranks[0].schedule, strict=True):
            assert [len(share) for share in shares] == [batch_size] * world_size
            drawn = [i for share in shares for i in share]
            assert {int(assignment[i]) for i in drawn} == {k}
            per_class = Counter(labels[drawn].tolist())
            assert len(per_class) >= 2
            assert max(per_class.values()) >= 2
            assert not any(len(groups[k, c]) == 1 for c in per_class)
            if usable(sizes)[k] >= batch_size:
                assert all(len(set(share)) == batch_size for share in shares)
            if sum(n >= images_per_class for n in sizes[k]) >= world_size * batch_size // images_per_class:
                assert len(set(drawn)) == len(drawn), "the processes draw different images"
            times_drawn.update(drawn)
            for c in per_class:
                times = [times_drawn[i] for i in groups[k, c]]
                assert max(times) - min(times) <= 1


@quick
@given(st.lists(st.integers(4, 12), min_size=4, max_size=9), st.integers(2, 4), st.integers(0, 99))
def test_a_batch_is_p_classes_times_m_images(sizes: list[int], images_per_class: int, seed: int) -> None:
    """Where a class has at most the P-th part of its cluster; see below for a class with more."""
    num_classes = 4
    assume(num_classes * max(sizes) <= sum(sizes))
    labels = images([sizes])[1]
    sampler = make([sizes], num_classes * images_per_class, images_per_class, length=7, seed=seed)
    for batch in itertools.chain(*draw(sampler, range(3))):
        assert list(Counter(labels[batch].tolist()).values()) == [images_per_class] * num_classes


@pytest.mark.parametrize("sizes", [[30, 6, 6, 6, 6], [12, 12, 4, 4, 4, 4], [60, 40] + [4] * 30])
def test_a_batch_is_p_classes_times_m_images_though_a_class_is_large(sizes: list[int]) -> None:
    labels = images([sizes])[1]
    for batch in itertools.chain(*draw(make([sizes], 16, 4), range(3))):
        assert list(Counter(labels[batch].tolist()).values()) == [4] * 4


def test_too_few_classes_give_more_images_and_small_classes_all_theirs() -> None:
    labels = images([[20, 20]])[1]
    assert all(Counter(labels[batch].tolist()) == {5: 8, 8: 8} for batch in make([[20, 20]], 16, 4))
    labels = images([[3, 3, 3, 3, 3]])[1]
    assert all(sorted(Counter(labels[batch].tolist()).values()) == [2, 3, 3] for batch in make([[3] * 5], 8, 4))


def test_a_batch_ends_in_a_lone_image_only_if_the_class_before_it_has_no_more() -> None:
    sizes = [3, 3, 20, 20, 20]
    size_of, labels = dict(zip(range(5, 20, 3), sizes, strict=True)), images([sizes])[1]
    endings = set()
    for batch in make([sizes], 8, 4, length=100):
        *_, (before, given_before), (_, given_last) = Counter(labels[batch].tolist()).items()
        assert given_last > 1 or given_before == size_of[before]
        endings.add((given_before, given_last))
    assert {(4, 4), (3, 5)} <= endings


@quick
@given(cluster, batches, st.integers(0, 99))
@example([8] * 12, (8, 4), 0)
@example([5, 5, 5, 5, 9, 9, 9], (8, 4), 3)
def test_two_passes_over_a_cluster_show_each_of_its_images(sizes: list[int], batch: tuple[int, int], seed: int) -> None:
    """Also over the border of an epoch, which is in the middle here."""
    total = usable([sizes])[0]
    # A class with more than two P-ths of its cluster cannot be shown in P x M batches.
    assume(total >= batch[0] and 2 * total * batch[1] >= max(sizes) * batch[0])
    sampler = make([sizes], *batch, length=-(-total // batch[0]), seed=seed)
    drawn = {i for epoch in draw(sampler, range(2)) for batch in epoch for i in batch}
    assert len(drawn) == total


def test_a_batch_that_could_show_a_small_cluster_twice_shows_all_of_it() -> None:
    sizes = [[2] * 11]
    assert all(len(set(batch)) == 22 for batch in make(sizes, 80, 4, length=5))


@pytest.mark.parametrize("sizes", [[20, 20], [30, 6, 6, 6, 6], [2, 2], [3] * 7, [9, 2, 2, 3], [40, 2]])
@pytest.mark.parametrize("world_size", [2, 3])
def test_the_part_of_each_process_holds_positives_and_negatives(sizes: list[int], world_size: int) -> None:
    """A loss sees the images of its own process only."""
    labels = images([sizes])[1]
    for rank in range(world_size):
        for batch in make([sizes], 8, 4, length=9, rank=rank, world_size=world_size):
            per_class = Counter(labels[batch].tolist())
            assert len(per_class) >= 2
            assert max(per_class.values()) >= 2


def test_processes_share_each_p_x_m_batch_evenly() -> None:
    labels = images(BALANCED)[1]
    for rank in range(2):
        for batch in make(BALANCED, 8, 4, rank=rank, world_size=2):
            assert list(Counter(labels[batch].tolist()).values()) == [4, 4]


def test_one_cluster_is_plain_sampling() -> None:
    labels = torch.arange(40).repeat_interleave(8)
    sampler = ClusterBatchSampler(torch.zeros(320, dtype=torch.int64), labels, batch_size=32, images_per_class=4)
    assert len(sampler) == 10
    assert sampler.schedule == [0] * 10
    first, second = draw(sampler, range(2))
    assert all(sorted(Counter(labels[batch].tolist()).values()) == [4] * 8 for batch in first + second)
    assert {i for batch in first + second for i in batch} == set(range(320))
    assert {frozenset(labels[batch].tolist()) for batch in first}.isdisjoint(
        {frozenset(labels[batch].tolist()) for batch in second}
    ), "classes meet other classes each time"


@quick
@given(st.lists(st.integers(4, 200), min_size=1, max_size=4), st.integers(0, 6), st.booleans())
def test_allotment_is_by_largest_remainder(sizes: list[int], more: int, equal: bool) -> None:
    """Of all ways to give each at least one batch, it is one that deviates least from the exact shares."""
    length = len(sizes) + more
    weights = [1] * len(sizes) if equal else sizes
    quotas = [length * weight / sum(weights) for weight in weights]

    def deviation(batches: tuple[int, ...] | list[int]) -> float:
        return sum((b - q) ** 2 for b, q in zip(batches, quotas, strict=True))

    ways = itertools.product(range(1, length + 1), repeat=len(sizes))
    least = min(deviation(batches) for batches in ways if sum(batches) == length)
    allotted = allot(sizes, length, "equal" if equal else "proportional")
    assert sum(allotted) == length
    assert min(allotted) >= 1
    assert deviation(allotted) == pytest.approx(least)


def test_allotment_follows_the_usable_images() -> None:
    sizes = [[4, 4, 1, 1, 1, 1, 1, 1, 1, 1], [6, 6, 6, 6]]
    assert make(sizes, length=8).allotted == [2, 6]
    assert make(sizes, length=8, allotment="equal").allotted == [4, 4]
    assert len(make(sizes)) == 4, "by default as many as the usable images fill"
    assert len(make([[2, 2], [2, 2], [2, 2]], batch_size=8)) == 3, "but at least one for each cluster"


@quick
@given(st.lists(st.integers(1, 40), min_size=1, max_size=8), st.integers(0, 99))
def test_the_batches_of_a_cluster_are_spread_evenly(allotted: list[int], seed: int) -> None:
    turns = interleave(allotted, random.Random(seed))
    schedule = [k for k, _ in turns]
    assert all([i for k, i in turns if k == own] == list(range(number)) for own, number in enumerate(allotted))
    assert Counter(schedule) == dict(enumerate(allotted))
    for k, number in enumerate(allotted):
        stretch = len(schedule) / number
        places = [place for place, other in enumerate(schedule) if other == k]
        for i, place in enumerate(places):
            assert i * stretch - len(allotted) <= place <= (i + 1) * stretch + len(allotted)


def test_epochs_depend_on_nothing_but_arguments_and_number() -> None:
    reference = draw(make(BALANCED), range(5))
    assert draw(make(BALANCED), range(5)) == reference
    assert draw(make(BALANCED), [3]) == [reference[3]], "jumped to"
    order = [4, 0, 2, 2, 1, 3]
    assert draw(make(BALANCED), order) == [reference[epoch] for epoch in order], "visited in any order"


@quick
@given(clusters, batches, st.sampled_from(["proportional", "equal"]), st.integers(1, 3), st.data())
def test_an_epoch_is_the_same_however_one_comes_to_it(
    sizes: Sizes,
    batch: tuple[int, int],
    allotment: Literal["proportional", "equal"],
    world_size: int,
    data: st.DataObject,
) -> None:
    """Before or after others, again, entered in its middle, or in a copy that is sent to a worker."""
    options: dict[str, Any] = {"length": 6, "allotment": allotment, "world_size": world_size, "first_epoch": 2}
    options["rank"] = data.draw(st.integers(0, world_size - 1))
    reference = draw(make(sizes, *batch, **options), range(2, 6))
    sampler = make(sizes, *batch, **options)
    for epoch in data.draw(st.lists(st.integers(2, 5), min_size=1, max_size=6)):
        sampler.set_epoch(epoch)
        start = data.draw(st.integers(0, 6))
        sampler.start = start
        if data.draw(st.booleans()):
            sampler = pickle.loads(pickle.dumps(sampler))
        assert list(sampler) == reference[epoch - 2][start:]
        assert len(sampler) == len(sampler.schedule) == 6


def test_batches_are_drawn_as_they_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = torch.arange(6).repeat_interleave(20)
    sampler = ClusterBatchSampler((labels >= 2).long(), labels, batch_size=4, images_per_class=2)
    drawn, draw = [], ClusterStream.draw
    monkeypatch.setattr(ClusterStream, "draw", lambda stream: drawn.append(stream) or draw(stream))
    batches = iter(sampler)
    first = [next(batches), next(batches)]
    assert len(drawn) == 2
    assert sampler.images(1) == first[1]
    assert len(drawn) == 2

    sampler.set_epoch(1)  # though the epoch before was left after two batches
    next(iter(sampler))
    assert len(drawn) == 3, "what was left out is passed over"


def test_global_random_numbers_are_neither_used_nor_moved() -> None:
    reference = draw(make(BALANCED), range(3))
    random.seed(3)
    torch.manual_seed(3)
    states = torch.get_rng_state(), random.getstate()
    assert draw(make(BALANCED), range(3)) == reference
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]


def test_epochs_and_seeds_differ() -> None:
    first, second = draw(make(BALANCED), range(2))
    assert first != second
    assert draw(make(BALANCED, seed=1), [0]) != [first]
    sampler = make(BALANCED, length=24)
    schedules = set()
    for epoch in range(5):
        sampler.set_epoch(epoch)
        schedules.add(tuple(sampler.schedule))
    assert len(schedules) == 5


def test_an_epoch_is_laid_out_anew_only_when_told() -> None:
    sampler = make(BALANCED)
    assert list(sampler) == list(sampler)
    schedule = sampler.schedule
    schedule.clear()
    assert len(sampler.schedule) == len(sampler)


def test_an_epoch_can_be_entered_in_its_middle() -> None:
    whole, after = draw(make(BALANCED), [2, 3])
    sampler = make(BALANCED)
    sampler.set_epoch(2)
    sampler.start = 3
    sampler.set_epoch(2)  # a Trainer tells it again
    assert list(sampler) == whole[3:]
    assert len(sampler.schedule) == len(sampler) == len(whole)
    assert draw(sampler, [3]) == [after], "the next one begins at its beginning"


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))], ids=["copy", "pickle"])
def test_a_copy_goes_on_by_itself(duplicate: Any) -> None:
    reference = draw(make(BALANCED), range(4))
    sampler = make(BALANCED)
    draw(sampler, range(2))
    other = duplicate(sampler)
    assert draw(other, [2, 3]) == reference[2:]
    assert draw(sampler, [2, 3]) == reference[2:]


def test_classes_may_come_equally_often_whatever_their_sizes() -> None:
    """By images a class of 40 comes ten times as often as one of 4, which is shown whole; by classes, as often."""
    sizes = [40, 40, 4, 4, 4, 4, 3, 2]
    labels = images([sizes])[1]
    times = {}
    for what in ("images", "classes"):
        sampler = make([sizes], 8, 4, length=400, draw=what)
        times[what] = Counter(c for batch in sampler for c in set(labels[batch].tolist()))
    # Not exactly: a class that has to fill the end of a batch is cut short, and comes again the sooner.
    assert max(times["classes"].values()) < 1.25 * min(times["classes"].values())
    for c in range(11, 29, 3):
        assert 6 < times["images"][5] / times["images"][c] < 14


def test_classes_drawn_equally_often_meet_other_classes_each_time_and_show_all_their_images() -> None:
    labels = images([[20, 16, 12, 8, 8, 8]])[1]
    sampler = make([[20, 16, 12, 8, 8, 8]], 8, 4, length=60, draw="classes")
    drawn = list(sampler)
    assert {i for batch in drawn for i in batch} == set(range(72))
    assert len({frozenset(labels[batch].tolist()) for batch in drawn}) == 15, "all pairs of classes"


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_data_loader_takes_it_as_batch_sampler(num_workers: int) -> None:
    assignment, labels = images(BALANCED)
    sampler = make(BALANCED)
    loader = DataLoader(
        TensorDataset(torch.arange(len(labels)), labels),
        batch_sampler=sampler,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
    )
    for epoch in range(2):
        loader.batch_sampler.sampler.set_epoch(epoch)  # type: ignore[union-attr]  # as a Trainer does
        drawn = [index.tolist() for index, _ in loader]
        assert len(loader) == len(drawn)
        assert drawn == draw(make(BALANCED), [epoch])[0]
        assert [int(assignment[batch[0]]) for batch in drawn] == sampler.schedule


def test_images_of_a_class_come_in_random_order() -> None:
    labels = torch.arange(4).repeat_interleave(50)
    sampler = ClusterBatchSampler(torch.zeros_like(labels), labels, batch_size=8, images_per_class=4)
    neighbours = [b - a == 1 for batch in sampler for a, b in itertools.pairwise(batch)]
    assert sum(neighbours) < len(neighbours) / 4


@pytest.mark.parametrize(
    ("batch_size", "images_per_class"), [(10, 4), (4, 4), (7, 2), (7, 3), (3, 4), (9, 2), (25, 4), (1, 2), (8, 8)]
)
def test_a_refused_batch_size_comes_with_others_that_work(batch_size: int, images_per_class: int) -> None:
    with pytest.raises(InputError, match=f"batch_size={batch_size} .*images_per_class={images_per_class} ") as refused:
        make(BALANCED, batch_size, images_per_class)
    advice = str(refused.value).split("; use ")[1]
    sizes = [int(size) for size in re.findall(r" ?batch_size=(\d+)", advice)]
    assert len(sizes) == 2
    for size in sizes:
        check_batch(size, images_per_class)
    for images_of_a_class in re.findall(r"images_per_class=(\d+)", advice):
        check_batch(batch_size, int(images_of_a_class))


def test_what_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(InputError, match=r"images_per_class=1 .* 2 or more"):
        make(BALANCED, images_per_class=1)
    with pytest.raises(InputError, match="epoch of 2 batches cannot serve 3 learners"):
        make(BALANCED, length=2)
    with pytest.raises(InputError, match=r"draw='all'.*'images' or 'classes'"):
        make(BALANCED, draw="all")
    with pytest.raises(InputError, match=r"'fair'.*'proportional' or 'equal'"):
        make(BALANCED, allotment="fair")
    with pytest.raises(InputError, match="cluster 1 has 1 classes with two or more images"):
        make([[4, 4], [9, 1, 1]])
    with pytest.raises(InputError, match="cluster 1 has 0 classes"):
        make([[4, 4], [], [4, 4]])
    with pytest.raises(InputError, match="epoch 3 lies before first_epoch=4"):
        make(BALANCED, first_epoch=4).set_epoch(3)
