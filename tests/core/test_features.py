"""Features shared by processes divide as those of one."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.multiprocessing
from dividing_processes import blobs, divide_as_process, divide_rows, make_rows
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import adjusted_rand_score
from torch import Tensor
from torch.utils.data import TensorDataset

from divconq_pl import InputError
from divconq_pl.core import kmeans as clustering
from divconq_pl.core.clustering import choose_clustering, cluster_randomly
from divconq_pl.core.division import Division, divide
from divconq_pl.core.features import Features, on_whole
from divconq_pl.core.kmeans import kmeans
from divconq_pl.core.units import average_classes
from divconq_pl.lightning.feature_pass import _refuse_bad


class Ring:
    """Sums what threads, in the place of processes, bring to it."""

    def __init__(self, size: int) -> None:
        self.slots: list[Tensor] = [torch.empty(0)] * size
        self.meeting = threading.Barrier(size, timeout=20)

    def total(self, rank: int, tensor: Tensor) -> Tensor:
        self.slots[rank] = tensor
        self.meeting.wait()
        assert len({(slot.shape, slot.dtype) for slot in self.slots}) == 1, "the processes sum different things"
        result = torch.stack(self.slots).sum(0).to(tensor.dtype)
        self.meeting.wait()
        return result


def on_each(rows: Tensor, world_size: int, work: Callable[[Features], Any]) -> list[Any]:
    """Do the same on every one of several simulated processes that share the rows; return what each gets."""
    ring, results = Ring(world_size), [None] * world_size

    def run(rank: int) -> None:
        try:
            shard = rows[rank::world_size]
            total = partial(ring.total, rank)
            results[rank] = work(Features(shard, size=len(rows), rank=rank, world_size=world_size, total=total))
        except Exception as error:
            results[rank] = error

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(world_size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def same_on_each(rows: Tensor, world_size: int, work: Callable[[Features], Tensor]) -> Tensor:
    first, *others = on_each(rows, world_size, work)
    if isinstance(first, Exception):
        raise first
    assert all(torch.equal(first, other) for other in others)
    return first


def grid(rows: int, dim: int, seed: int) -> Tensor:
    """Draw small whole numbers, whose sums have no rounding, no two rows alike if possible."""
    return torch.randint(-40, 41, (rows, dim), generator=torch.Generator().manual_seed(seed)).float()


sizes = st.integers(1, 40)
worlds = st.integers(1, 5)
quick = settings(max_examples=40, deadline=None, derandomize=True)


@quick
@given(sizes, worlds, st.data())
def test_what_processes_know_together_is_what_one_knows(size: int, world_size: int, data: st.DataObject) -> None:
    rows = grid(size, 3, size)
    few = torch.tensor(data.draw(st.lists(st.integers(0, size - 1), max_size=12)), dtype=torch.int64)
    nested = torch.tensor(data.draw(st.lists(st.integers(0, len(few) - 1), max_size=5)) if len(few) else []).long()
    values = torch.arange(size)
    assert torch.equal(same_on_each(rows, world_size, lambda f: f.rows(few)), rows[few])
    assert torch.equal(same_on_each(rows, world_size, lambda f: f.subset(few).rows(nested)), rows[few][nested])
    assert torch.equal(same_on_each(rows.half(), world_size, lambda f: f.subset(few).whole()), rows[few].half())
    assert torch.equal(same_on_each(rows, world_size, lambda f: f.gathered(f.share(values))), values)
    assert torch.equal(same_on_each(rows, world_size, lambda f: f.subset(few).gathered(f.subset(few).share(few))), few)
    assert torch.equal(same_on_each(rows.half(), world_size, lambda f: f.subset(few).in_memory().whole()), rows[few])
    groups = values % 2
    if size > 1:
        expected = torch.stack([rows[groups == k].mean(0) for k in (0, 1)])
        assert torch.allclose(same_on_each(rows, world_size, lambda f: f.means(f.share(groups), 2)), expected)


@quick
@given(st.integers(8, 60), worlds, st.integers(1, 8), st.integers(0, 99))
def test_clusters_do_not_depend_on_how_many_processes_share_the_rows(
    size: int, world_size: int, num_clusters: int, seed: int
) -> None:
    rows = grid(size, 3, seed)
    rows[: size // 3] = rows[0]  # the same image several times, so that clusters run empty
    cluster = partial(kmeans, num_clusters=num_clusters, seed=seed, backend="torch", restarts=2)
    assignment = same_on_each(rows, world_size, cluster)
    assert torch.equal(assignment, cluster(rows))
    assert assignment.bincount(minlength=num_clusters).all()


@quick
@given(st.integers(1, 60), worlds, st.integers(0, 3), st.booleans(), st.integers(0, 99))
def test_divisions_do_not_depend_on_it_either(size: int, world_size: int, depth: int, flat: bool, seed: int) -> None:
    rows, classes = grid(size, 3, seed), torch.arange(size) % 3
    # Rows with few values in few dimensions: many a clustering is not usable, and clusters are cut instead.
    division = Division.undivided(size)
    options: dict[str, Any] = {"cluster": partial(kmeans, backend="torch", restarts=1), "flat": flat, "seed": seed}
    expected = divide(rows, classes, division, depth, **options)
    for result in on_each(rows, world_size, lambda f: divide(f, classes, division, depth, **options)):
        assert result.depth == expected.depth
        assert torch.equal(result.assignment, expected.assignment)


@quick
@given(st.integers(24, 60), worlds, st.booleans(), st.sampled_from(["anew", "same_seed", "previous"]))
def test_nor_does_where_they_start_or_whether_classes_are_whole(
    size: int, world_size: int, whole_classes: bool, start: Any
) -> None:
    """Whole numbers divided by a power of two, as the classes have 4 images each: no sum is rounded."""
    size -= size % 4
    rows, classes = grid(size, 3, size), torch.arange(size) % (size // 4)
    previous = Division(torch.arange(size) % (size // 4) % 2, 1)
    options: dict[str, Any] = {"cluster": partial(kmeans, backend="torch", restarts=1), "seed": 3, "epoch": 2}
    options |= {"start": start, "whole_classes": whole_classes}
    expected = divide(rows, classes, previous, 2, **options)
    for result in on_each(rows, world_size, lambda f: divide(f, classes, previous, 2, **options)):
        assert result.depth == expected.depth
        assert torch.equal(result.assignment, expected.assignment)


@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.parametrize("backend", ["torch", "faiss"])
def test_processes_start_from_the_centres_of_the_first(backend: str, world_size: int) -> None:
    pytest.importorskip("faiss")
    rows, group = blobs(300, 4)
    centres = torch.stack([rows[group == k].mean(0) for k in (3, 1, 0, 2)])
    found = same_on_each(
        rows, world_size, lambda f: kmeans(f, 4, seed=0, backend=backend, centres=centres.roll(f.rank, 0))
    )
    assert torch.equal(torch.tensor([3, 1, 0, 2])[found], group)


@quick
@given(sizes, worlds, st.integers(1, 9))
def test_classes_are_averaged_over_all_processes(size: int, world_size: int, num_classes: int) -> None:
    rows, classes = grid(size, 3, size), torch.arange(size) % num_classes
    present = min(size, num_classes)
    expected = torch.stack([rows[classes == c].mean(0) for c in range(present)])
    means = same_on_each(rows, world_size, lambda f: average_classes(f, classes, present).whole())
    assert torch.allclose(means, expected)
    part = torch.arange(0, size, 2)
    of_part = torch.unique(classes[part], return_inverse=True)[1]
    expected = torch.stack([rows[part][of_part == c].mean(0) for c in range(int(of_part.max()) + 1)])
    means = same_on_each(
        rows.half(), world_size, lambda f: average_classes(f.subset(part), of_part, len(expected)).whole()
    )
    assert torch.allclose(means, expected)


def test_classes_are_averaged_over_many_blocks() -> None:
    rows, classes = grid(5000, 3, 0), torch.arange(5000) % 700
    expected = torch.stack([rows[classes == c].mean(0) for c in range(700)])
    assert torch.allclose(average_classes(Features(rows), classes, 700).whole(), expected)


def test_random_clusters_are_the_same_on_all_processes() -> None:
    rows, classes = grid(60, 3, 0), torch.arange(60) % 5
    division = same_on_each(
        rows, 3, lambda f: divide(f, classes, Division.undivided(60), 2, cluster=cluster_randomly, seed=4).assignment
    )
    alone = divide(Features(rows), classes, Division.undivided(60), 2, cluster=cluster_randomly, seed=4)
    assert torch.equal(division, alone.assignment)


@pytest.mark.parametrize("backend", ["torch", "faiss"])
@pytest.mark.parametrize("world_size", [1, 3])
def test_beyond_max_rows_centroids_come_from_a_sample_and_every_row_gets_the_nearest(
    monkeypatch: pytest.MonkeyPatch, backend: str, world_size: int
) -> None:
    pytest.importorskip("faiss")
    monkeypatch.setattr(clustering, "_START_ROWS_PER_CLUSTER", 20)
    rows, group = blobs(3000, 4)
    drawn = []
    in_memory = Features.in_memory
    monkeypatch.setattr(Features, "in_memory", lambda self: drawn.append(len(self)) or in_memory(self))
    cluster = partial(kmeans, num_clusters=4, seed=0, backend=backend)
    sampled = same_on_each(rows, world_size, partial(cluster, max_rows=200))
    assert set(drawn) == {200}
    assert adjusted_rand_score(group, sampled) == 1
    assert not torch.equal(cluster(grid(3000, 4, 0)), cluster(grid(3000, 4, 0), max_rows=200)), "a sample of noise"
    assert torch.equal(cluster(rows, max_rows=3000), cluster(rows)), "as many as there are"


@pytest.mark.parametrize("backend", ["torch", "faiss"])
@pytest.mark.parametrize("world_size", [1, 3])
def test_many_rows_are_started_on_a_sample_and_gone_over_a_few_times(
    monkeypatch: pytest.MonkeyPatch, backend: str, world_size: int
) -> None:
    pytest.importorskip("faiss")
    rows = grid(3000, 6, 0)
    cluster = partial(kmeans, num_clusters=4, seed=0, backend=backend)
    thorough = _inertia(rows, cluster(rows))
    monkeypatch.setattr(clustering, "_RESTART_ROWS", 300)
    monkeypatch.setattr(clustering, "_RESTART_ROWS_PER_CLUSTER", 1)
    looked_at = []
    in_memory = Features.in_memory
    monkeypatch.setattr(Features, "in_memory", lambda self: looked_at.append(len(self)) or in_memory(self))
    found = same_on_each(rows, world_size, cluster)
    assert sorted(looked_at) == sorted([300, 3000] * (world_size if backend == "torch" else 1))
    assert _inertia(rows, found) < 1.02 * thorough
    assert torch.equal(found, cluster(rows)), "whatever the number of processes"
    centres = torch.stack([rows[found == k].mean(0) for k in range(4)])
    looked_at.clear()
    kept = cluster(rows, centres=centres)
    assert looked_at == [3000], "with centres there is nothing to start"
    assert _inertia(rows, kept) <= _inertia(rows, found) * (1 + 1e-6)


def _inertia(rows: Tensor, assignment: Tensor) -> float:
    return sum(float((own - own.mean(0)).square().sum()) for own in (rows[assignment == k] for k in range(4)))


def test_a_sample_is_spread_over_the_rows_and_differs_with_the_seed() -> None:
    rows = torch.arange(1000.0)[:, None]
    samples = [clustering._sample(Features(rows), 64, torch.Generator().manual_seed(seed)).whole() for seed in (0, 1)]
    for sample in samples:
        stretches = (sample.flatten() * 64 / 1000).long()
        assert len(sample) == len(sample.unique()) == 64
        assert abs(stretches - torch.arange(64)).max() <= 1
    assert not torch.equal(*samples)


def test_rows_in_a_sample_are_all_equally_likely() -> None:
    features, generator = Features(torch.arange(10.0)[:, None]), torch.Generator().manual_seed(0)
    drawn = torch.cat([clustering._sample(features, 4, generator).whole() for _ in range(3000)]).flatten().long()
    assert drawn.bincount().double().div(3000).sub(0.4).abs().max() < 0.04


def test_a_function_of_ones_own_gets_all_rows_on_process_0_alone() -> None:
    rows, calls = grid(11, 2, 0), []

    def cluster(features: Tensor, num_clusters: int, *, seed: int) -> Tensor:
        calls.append((features, num_clusters, seed))
        return torch.arange(len(features)) % num_clusters

    assignment = same_on_each(rows, 3, lambda f: choose_clustering(cluster)(f.subset(torch.arange(1, 11)), 3, seed=5))
    assert assignment.tolist() == [i % 3 for i in range(10)]
    ((features, num_clusters, seed),) = calls
    assert (num_clusters, seed) == (3, 5)
    assert torch.equal(features, rows[1:])
    assert choose_clustering(own := partial(kmeans, max_rows=7)) is own, "k-means works on the rows where they are"


def test_what_goes_wrong_in_it_stops_all_processes() -> None:
    def broken(features: Tensor, num_clusters: int, *, seed: int) -> Tensor:
        raise OSError("disk on fire")

    first, *others = on_each(grid(11, 2, 0), 3, lambda f: on_whole(broken)(f, 2, seed=0))
    assert isinstance(first, OSError)
    assert [str(error) for error in others] == ["the clustering failed on process 0, which says why"] * 2
    wrong = on_each(grid(11, 2, 0), 2, lambda f: on_whole(lambda *_, seed: torch.full((11,), 2))(f, 2, seed=0))
    assert isinstance(wrong[0], InputError)
    assert "one of 0 .. 1 for each image" in str(wrong[0])


@pytest.mark.parametrize("bad", [{0: [3, 9], 1: [4, 7, 10, 13], 2: []}, {0: [], 1: [], 2: [8]}])
def test_bad_features_on_one_process_stop_all_with_the_same_words(bad: dict[int, list[int]]) -> None:
    refused = on_each(grid(15, 2, 0), 3, lambda f: _refuse_bad(f, bad[f.rank], TensorDataset(torch.zeros(15))))
    assert all(isinstance(error, InputError) for error in refused)
    assert len({str(error) for error in refused}) == 1
    images = sorted(image for some in bad.values() for image in some)
    first = ", ".join(f"image {i}" for i in images[:3])
    assert f"the features of {len(images)} of 15 images are NaN or infinite (first: {first});" in str(refused[0])
    assert on_each(grid(15, 2, 0), 3, lambda f: _refuse_bad(f, [], TensorDataset(torch.zeros(15)))) == [None] * 3


def test_a_share_of_the_wrong_size_is_refused() -> None:
    with pytest.raises(InputError, match=r"process 1 of 3 holds 5 of 11 feature rows.* rows 1, 4, \.\.\., which are 4"):
        Features(torch.zeros(5, 2), size=11, rank=1, world_size=3)


def test_a_subset_is_not_copied() -> None:
    features = Features(grid(1000, 8, 0))
    part = features.subset(torch.arange(500))
    assert part._held.data_ptr() == features._held.data_ptr()
    assert features.in_memory() is features
    assert features.whole().data_ptr() == features._held.data_ptr()


def test_real_processes_agree_with_a_single_one(tmp_path: Any) -> None:
    pytest.importorskip("faiss")
    torch.multiprocessing.spawn(divide_as_process, (str(tmp_path),), nprocs=2)
    for what, expected in divide_rows(make_rows()).items():
        for rank in (0, 1):
            assert torch.equal(torch.load(tmp_path / f"{rank}.pt", weights_only=True)[what], expected), (what, rank)
