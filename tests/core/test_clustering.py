from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from divconq_pl.core.clustering import CLUSTERINGS, choose_clustering, cluster_randomly
from divconq_pl.core.features import Features
from divconq_pl.core.kmeans import kmeans
from divconq_pl.errors import InputError


def noise(rows: int) -> Features:
    return Features(torch.randn(rows, 4, generator=torch.Generator().manual_seed(0)))


def by_parity(features: Tensor, num_clusters: int, *, seed: int) -> Tensor:
    return torch.arange(len(features)) % num_clusters


def from_centres(features: Tensor, num_clusters: int, *, seed: int, centres: Tensor | None = None) -> Tensor:
    return torch.zeros(len(features)) if centres is None else torch.cdist(features, centres).argmin(1)


@pytest.mark.parametrize("name", CLUSTERINGS)
def test_every_named_clustering_gives_each_image_a_cluster(name: str) -> None:
    if name == "faiss":
        pytest.importorskip("faiss")
    assignment = choose_clustering(name)(noise(50), 4, seed=3)
    assert assignment.shape == (50,)
    assert assignment.dtype == torch.int64
    assert set(assignment.tolist()) == {0, 1, 2, 3}
    assert torch.equal(choose_clustering(name)(noise(50), 4, seed=3), assignment)


def test_random_clusters_are_equally_likely_and_do_not_look_at_the_images() -> None:
    before = torch.get_rng_state()
    clusters = torch.stack([cluster_randomly(noise(100), 4, seed=seed) for seed in range(200)])
    assert torch.equal(torch.get_rng_state(), before)
    assert clusters.flatten().bincount().double().div(20_000).sub(0.25).abs().max() < 0.015
    of_an_image = torch.stack([clusters.eq(k).double().mean(0) for k in range(4)])
    assert of_an_image.sub(0.25).abs().max() < 0.15, "whatever image"
    together = [float((a == b).double().mean()) for a, b in pairwise(clusters)]
    assert sum(together) / len(together) == pytest.approx(0.25, abs=0.02), "another seed has nothing to do with it"
    other_images = Features(torch.ones(100, 9))
    assert torch.equal(cluster_randomly(other_images, 4, seed=0), clusters[0])


def test_a_function_of_ones_own_takes_a_plain_tensor_and_may_take_centres() -> None:
    assert choose_clustering(by_parity)(noise(4), 2, seed=0).tolist() == [0, 1, 0, 1]
    cluster, features = choose_clustering(from_centres, "previous"), noise(30)
    centres = torch.tensor([[1.0, 0, 0, 0], [-1.0, 0, 0, 0]])
    found = cluster(features, 2, seed=0, centres=centres)
    assert torch.equal(found, (features.whole()[:, 0] < 0).long())
    for own in (kmeans, partial(kmeans, max_rows=7)):
        assert choose_clustering(own, "previous") is own


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("sklearn",), "clustering='sklearn' is unknown; choose 'auto', 'faiss', 'torch' or 'random', or"),
        (("auto", "warm"), "start='warm' is unknown; choose 'anew', 'same_seed' or 'previous'"),
        (("random", "previous"), "which clustering='random' does not take .* choose start='anew' or 'same_seed'"),
        ((by_parity, "previous"), "which clustering=<function by_parity"),
    ],
)
def test_what_cannot_be_chosen_is_refused(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        choose_clustering(*arguments)
