from __future__ import annotations

import sys
from importlib.util import find_spec
from itertools import pairwise

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score
from torch import Tensor

from divconq_pl.core import features as shards
from divconq_pl.core import lloyd
from divconq_pl.core.kmeans import kmeans
from divconq_pl.errors import InputError

needs_faiss = pytest.mark.skipif(find_spec("faiss") is None, reason="faiss is an optional dependency")
both_backends = pytest.mark.parametrize("backend", ["torch", pytest.param("faiss", marks=needs_faiss)])


def blobs(sizes: list[int], dim: int = 16, spread: float = 0.3, seed: int = 0) -> tuple[Tensor, np.ndarray]:
    """Draw well-separated blobs of the given sizes in random order, with the blob of every row."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(len(sizes), dim)) * 4
    truth = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    rows = centres[truth] + rng.normal(size=(len(truth), dim)) * spread
    return torch.from_numpy(rows).float(), truth


def noise(rows: int, dim: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed))


def slow_inertia(features: Tensor, assignment: Tensor) -> float:
    """Sum the squared distances to the mean of the own cluster, cluster by cluster in float64."""
    rows, labels = features.double().numpy(), assignment.numpy()
    return sum(((rows[labels == c] - rows[labels == c].mean(axis=0)) ** 2).sum() for c in np.unique(labels))


@both_backends
def test_blobs_of_unequal_size_are_recovered(backend: str) -> None:
    features, truth = blobs([400, 300, 120, 60, 50, 40, 30, 20])
    for seed in range(5):
        assignment = kmeans(features, 8, seed=seed, backend=backend)
        assert adjusted_rand_score(truth, assignment.numpy()) == 1.0
        assert assignment.dtype == torch.int64
        assert assignment.shape == (len(features),)
        assert assignment.device.type == "cpu"


@both_backends
@pytest.mark.parametrize("num_clusters", [2, 8, 30])
def test_inertia_without_structure_is_close_to_sklearn(backend: str, num_clusters: int) -> None:
    features = noise(1500, 12)
    reference = KMeans(num_clusters, n_init=3, max_iter=100, random_state=0).fit(features.numpy()).inertia_
    assignment = kmeans(features, num_clusters, seed=0, backend=backend, iterations=100)
    assert slow_inertia(features, assignment) <= 1.02 * reference


@both_backends
def test_every_row_is_with_its_nearest_centre_once_converged(backend: str) -> None:
    features = noise(300, 4)
    assignment = kmeans(features, 5, seed=3, backend=backend, iterations=300, restarts=1)
    centres = torch.stack([features[assignment == cluster].mean(dim=0) for cluster in range(5)])
    slow_nearest = ((features[:, None] - centres[None]) ** 2).sum(dim=2).argmin(dim=1)
    assert torch.equal(assignment, slow_nearest)


@both_backends
def test_more_restarts_never_raise_the_inertia(backend: str) -> None:
    features, _ = blobs([40] * 12, spread=1.5)
    runs = [
        slow_inertia(features, kmeans(features, 12, seed=5, backend=backend, iterations=200, restarts=restarts))
        for restarts in (1, 2, 4, 8)
    ]
    assert all(later <= earlier * (1 + 1e-6) for earlier, later in pairwise(runs))
    assert runs[-1] < runs[0]


@both_backends
@pytest.mark.parametrize("rows", [6, 7, 40])
def test_no_cluster_is_empty_when_rows_are_identical(backend: str, rows: int) -> None:
    for features in (torch.ones(rows, 5), torch.zeros(rows, 5)):
        assignment = kmeans(features, 6, seed=0, backend=backend)
        assert assignment.bincount(minlength=6).tolist().count(0) == 0


@both_backends
def test_no_cluster_is_empty_when_there_are_fewer_distinct_rows_than_clusters(backend: str) -> None:
    features = torch.eye(3).repeat(10, 1)
    assignment = kmeans(features, 8, seed=0, backend=backend)
    assert sorted(assignment.unique().tolist()) == list(range(8))
    # Splitting duplicates is forced, mixing different rows is not.
    assert slow_inertia(features, assignment) == pytest.approx(0.0, abs=1e-9)


def test_an_empty_cluster_gets_the_farthest_row_of_a_cluster_that_can_spare_it() -> None:
    assignment = torch.tensor([0, 0, 0, 3, 4, 4])
    distance = torch.tensor([1.0, 5.0, 2.0, 9.0, 4.0, 3.0])
    filled, remaining = lloyd.fill_empty(assignment, distance, 5)
    # Row 3 is farthest but alone in its cluster; rows 1 and 4 are next.
    assert filled.tolist() == [0, 1, 0, 3, 2, 4]
    assert remaining.tolist() == [1.0, 0.0, 2.0, 9.0, 0.0, 3.0]
    assert assignment.tolist() == [0, 0, 0, 3, 4, 4]


@both_backends
def test_as_many_clusters_as_rows_gives_one_row_each(backend: str) -> None:
    assert sorted(kmeans(noise(9, 3), 9, seed=0, backend=backend).tolist()) == list(range(9))


def test_one_cluster_is_all_zeros() -> None:
    assert kmeans(noise(5, 3), 1, seed=0).tolist() == [0, 0, 0, 0, 0]


@both_backends
def test_same_seed_same_assignment_and_other_seed_another(backend: str) -> None:
    features = noise(800, 20)
    first = kmeans(features, 8, seed=7, backend=backend)
    assert torch.equal(first, kmeans(features, 8, seed=7, backend=backend))
    assert not torch.equal(first, kmeans(features, 8, seed=8, backend=backend))


@both_backends
def test_global_random_state_is_neither_read_nor_moved(backend: str) -> None:
    features = noise(200, 6)
    torch.manual_seed(1)
    np.random.seed(1)
    torch_before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()
    first = kmeans(features, 4, seed=0, backend=backend)
    assert torch.equal(torch_before, torch.get_rng_state())
    assert np.array_equal(numpy_before, np.random.get_state()[1])
    torch.manual_seed(2)
    np.random.seed(2)
    assert torch.equal(first, kmeans(features, 4, seed=0, backend=backend))


@both_backends
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_cluster_as_their_float32_copy(backend: str, dtype: torch.dtype) -> None:
    features = noise(600, 10).to(dtype)
    expected = kmeans(features.float(), 6, seed=0, backend=backend)
    assert torch.equal(kmeans(features, 6, seed=0, backend=backend), expected)


def test_half_precision_sums_do_not_stall() -> None:
    # Summed in float16, 20,000 rows near 1 stop growing at 2048: every mean would be far off.
    features, truth = blobs([20_000, 20_000], dim=2, spread=0.1, seed=1)
    assert adjusted_rand_score(truth, kmeans(features.half(), 2, seed=0, backend="torch").numpy()) == 1.0


def test_autocast_does_not_coarsen_the_distances() -> None:
    features = noise(600, 64)
    expected = kmeans(features, 8, seed=0, backend="torch")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(kmeans(features, 8, seed=0, backend="torch"), expected)


@both_backends
def test_input_is_left_alone(backend: str) -> None:
    features = noise(100, 6).requires_grad_()
    before = features.detach().clone()
    assignment = kmeans(features, 3, seed=0, backend=backend)
    assert torch.equal(features, before)
    assert not assignment.requires_grad
    transposed = before.T.contiguous().T
    assert torch.equal(kmeans(transposed, 3, seed=0, backend=backend), assignment)


@pytest.mark.parametrize("elements", [1, 100, 10**9])
def test_block_size_does_not_change_the_result(monkeypatch: pytest.MonkeyPatch, elements: int) -> None:
    features, _ = blobs([60, 50, 40], spread=1.5)
    expected = kmeans(features, 3, seed=0, backend="torch")
    monkeypatch.setattr(shards, "BLOCK_ELEMENTS", elements)
    assert torch.equal(kmeans(features, 3, seed=0, backend="torch"), expected)


@both_backends
def test_given_centres_are_where_the_clusters_grow_from(backend: str) -> None:
    features, truth = blobs([40, 30, 20, 10])
    centres = torch.stack([features[truth == k].mean(0) for k in (2, 0, 3, 1)])
    assignment = kmeans(features, 4, seed=0, backend=backend, centres=centres + 0.1)
    assert np.array_equal(np.array([2, 0, 3, 1])[assignment.numpy()], truth)


@both_backends
def test_from_the_centres_of_what_it_found_it_finds_the_same(backend: str) -> None:
    features = noise(800, 20)
    found = kmeans(features, 8, seed=7, backend=backend, iterations=300)
    centres = torch.stack([features[found == k].mean(0) for k in range(8)])
    assert torch.equal(kmeans(features, 8, seed=99, backend=backend, centres=centres), found)
    assert torch.equal(kmeans(features, 8, seed=99, backend=backend, centres=centres.double()), found)


@both_backends
def test_no_cluster_is_empty_from_given_centres_either(backend: str) -> None:
    features = noise(60, 3)
    centres = torch.tensor([[0.0, 0.0, 0.0], [90.0, 0.0, 0.0], [0.0, 90.0, 0.0]])
    assert kmeans(features, 3, seed=0, backend=backend, centres=centres).bincount(minlength=3).min() >= 1


@pytest.mark.parametrize("bad", [torch.zeros(2, 6), torch.zeros(4, 5), torch.full((4, 6), float("nan"))])
def test_centres_that_cannot_be_started_from_are_refused(bad: Tensor) -> None:
    with pytest.raises(InputError, match=r"must be 4 finite rows, one for each cluster, of 6 numbers"):
        kmeans(noise(20, 6), 4, seed=0, centres=bad)


def test_auto_needs_no_faiss(monkeypatch: pytest.MonkeyPatch) -> None:
    features = noise(200, 6)
    monkeypatch.setitem(sys.modules, "faiss", None)
    assert torch.equal(kmeans(features, 4, seed=0), kmeans(features, 4, seed=0, backend="torch"))


def test_faiss_that_is_not_installed_is_named_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(InputError, match=r'pip install "divconq-pl\[cpu\]".*\[gpu\].*torch'):
        kmeans(noise(20, 6), 4, seed=0, backend="faiss")


def test_faiss_does_not_complain_about_few_points(capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("faiss")
    kmeans(noise(20, 6), 8, seed=0, backend="faiss")
    assert capfd.readouterr() == ("", "")


def test_faiss_uses_every_row(monkeypatch: pytest.MonkeyPatch) -> None:
    faiss = pytest.importorskip("faiss")
    seen = {}

    class Recorder(faiss.Kmeans):
        def train(self, x, **kwargs):
            seen["limit"] = self.k * self.cp.max_points_per_centroid
            return super().train(x, **kwargs)

    monkeypatch.setattr(faiss, "Kmeans", Recorder)
    kmeans(noise(2000, 4), 2, seed=0, backend="faiss")
    assert seen["limit"] >= 2000


@both_backends
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_rows_that_are_not_finite_are_counted_and_located(backend: str, bad: float) -> None:
    features = noise(50, 6)
    features[[17, 30, 44], [0, 5, 2]] = bad
    features[30] = bad
    with pytest.raises(InputError, match=r"3 of 50 .*row 17\b"):
        kmeans(features, 4, seed=0, backend=backend)


def test_opposite_infinities_do_not_hide_each_other() -> None:
    features = noise(50, 6)
    features[9, 0], features[9, 1] = float("inf"), -float("inf")
    with pytest.raises(InputError, match=r"1 of 50 .*row 9\b"):
        kmeans(features, 4, seed=0)


def test_large_finite_half_values_are_accepted() -> None:
    features = torch.full((10, 64), 6e4, dtype=torch.float16)
    features[:5] *= -1
    assert kmeans(features, 2, seed=0).bincount().tolist() == [5, 5]


@both_backends
def test_fewer_rows_than_clusters_names_both_numbers(backend: str) -> None:
    with pytest.raises(InputError, match=r"5 images .* 8 clusters"):
        kmeans(noise(5, 3), 8, seed=0, backend=backend)


@pytest.mark.parametrize(
    ("features", "options", "message"),
    [
        (noise(8, 3).flatten(), {}, r"\(24,\)"),
        (noise(8, 3), {"num_clusters": 0}, "got 0, 20, 3 and"),
        (noise(8, 3), {"iterations": 0}, "got 2, 0, 3 and"),
        (noise(8, 3), {"restarts": -1}, "got 2, 20, -1 and"),
        (noise(8, 3), {"max_rows": 0}, "got 2, 20, 3 and 0"),
        (noise(8, 3), {"backend": "sklearn"}, "'sklearn'.*'auto', 'faiss' or 'torch'"),
    ],
)
def test_arguments_that_cannot_work_are_named(features: Tensor, options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        kmeans(features, **{"num_clusters": 2, "seed": 0, **options})


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@both_backends
def test_features_on_the_gpu_cluster_as_on_the_cpu(backend: str) -> None:
    features, truth = blobs([60, 50, 40])
    assignment = kmeans(features.cuda(), 3, seed=0, backend=backend)
    assert assignment.device.type == "cpu"
    assert adjusted_rand_score(truth, assignment.numpy()) == 1.0
