"""Re-identification against the published implementations' steps, written out line by line in NumPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from divconq_pl.errors import InputError
from divconq_pl.metrics.reidentification import reidentification_metrics, rerank

Array = NDArray[np.float64]


def people(seed: int = 0, queries: int = 12, gallery: int = 60):
    """Draw embeddings of people under cameras, with distractors, which have the label 0."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 8, (queries + gallery,), generator=generator)
    labels[:queries] = labels[:queries].clamp(min=1)
    cameras = torch.randint(0, 3, labels.shape, generator=generator)
    centres = torch.randn(8, 6, generator=generator)
    embeddings = centres[labels] + torch.randn(len(labels), 6, generator=generator)
    embeddings = torch.nn.functional.normalize(embeddings)
    return (embeddings[:queries], labels[:queries], cameras[:queries]), (
        embeddings[queries:],
        labels[queries:],
        cameras[queries:],
    )


def published_market(distances: Array, q_ids, g_ids, q_cams, g_cams, ks) -> dict[str, float]:
    """eval_market1501 of Torchreid, step by step."""
    all_cmc, all_ap = [], []
    for q in range(len(distances)):
        order = np.argsort(distances[q], kind="stable")
        remove = (g_ids[order] == q_ids[q]) & (g_cams[order] == q_cams[q])
        raw = (g_ids[order] == q_ids[q])[~remove].astype(int)
        if not raw.any():
            continue
        cmc = raw.cumsum()
        cmc[cmc > 1] = 1
        all_cmc.append([cmc[min(k, len(cmc)) - 1] for k in ks])
        precision = raw.cumsum() / np.arange(1, len(raw) + 1)
        all_ap.append((precision * raw).sum() / raw.sum())
    cmc = np.mean(all_cmc, axis=0)
    return {
        "map": float(np.mean(all_ap)),
        **{f"cmc_{k}": float(value) for k, value in zip(ks, cmc, strict=True)},
    }


@pytest.mark.parametrize("seed", range(4))
def test_map_and_cmc_are_those_of_the_published_loop(seed: int):
    (query, q_ids, q_cams), (gallery, g_ids, g_cams) = people(seed)
    distances = (1 - query @ gallery.T).round(decimals=1) if seed == 3 else 1 - query @ gallery.T  # with ties, too
    found = reidentification_metrics(distances, q_ids, q_cams, g_ids, g_cams, ks=(1, 3, 500))
    expected = published_market(*(x.numpy() for x in (distances, q_ids, g_ids, q_cams, g_cams)), (1, 3, 500))
    assert found == pytest.approx(expected, rel=1e-6)


def test_a_match_of_the_same_camera_is_neither_right_nor_wrong():
    distances = torch.tensor([[0.1, 0.2, 0.3]])
    ids, cameras = torch.tensor([7, 7, 8]), torch.tensor([1, 2, 1])
    metrics = reidentification_metrics(distances, ids[:1], cameras[:1], ids, cameras, ks=(1,))
    assert metrics == {"map": 1.0, "cmc_1": 1.0}
    alone = reidentification_metrics(distances, ids[:1], cameras[:1], ids, torch.ones(3), ks=(1,))
    assert all(math.isnan(value) for value in alone.values())


def test_distances_that_fit_nothing_are_refused():
    with pytest.raises(InputError, match=r"shape \(1, 3\).*1 queries and 2 gallery"):
        reidentification_metrics(torch.zeros(1, 3), *([torch.zeros(1)] * 2), *([torch.zeros(2)] * 2))
    with pytest.raises(InputError, match="k1=0"):
        rerank(torch.eye(3), torch.eye(3), k1=0)


def published_rerank(query: Array, gallery: Array, k1: int, k2: int, lambda_value: float) -> Array:
    """re_ranking of Zhong et al. (the version on features that fast-reid and others carry), line by line."""
    feat = np.concatenate([query, gallery])
    query_num, all_num = len(query), len(feat)
    original_dist = 2 - 2 * feat @ feat.T
    original_dist = np.transpose(original_dist / np.max(original_dist, axis=0))
    v = np.zeros_like(original_dist)
    initial_rank = np.argsort(original_dist, kind="stable").astype(np.int32)
    for i in range(all_num):
        forward = initial_rank[i, : k1 + 1]
        backward = initial_rank[forward, : k1 + 1]
        fi = np.where(backward == i)[0]
        reciprocal = forward[fi]
        expansion = reciprocal
        for j in range(len(reciprocal)):
            candidate = reciprocal[j]
            cand_forward = initial_rank[candidate, : int(np.around(k1 / 2)) + 1]
            cand_backward = initial_rank[cand_forward, : int(np.around(k1 / 2)) + 1]
            fi_cand = np.where(cand_backward == candidate)[0]
            cand_reciprocal = cand_forward[fi_cand]
            if len(np.intersect1d(cand_reciprocal, reciprocal)) > 2 / 3 * len(cand_reciprocal):
                expansion = np.append(expansion, cand_reciprocal)
        expansion = np.unique(expansion)
        weight = np.exp(-original_dist[i, expansion])
        v[i, expansion] = weight / np.sum(weight)
    original_dist = original_dist[:query_num]
    if k2 != 1:
        v_qe = np.zeros_like(v)
        for i in range(all_num):
            v_qe[i] = np.mean(v[initial_rank[i, :k2]], axis=0)
        v = v_qe
    inv_index = [np.where(v[:, i] != 0)[0] for i in range(all_num)]
    jaccard = np.zeros_like(original_dist)
    for i in range(query_num):
        temp_min = np.zeros((1, all_num))
        non_zero = np.where(v[i] != 0)[0]
        for j in range(len(non_zero)):
            images = inv_index[non_zero[j]]
            temp_min[0, images] += np.minimum(v[i, non_zero[j]], v[images, non_zero[j]])
        jaccard[i] = 1 - temp_min / (2 - temp_min)
    final = jaccard * (1 - lambda_value) + original_dist * lambda_value
    return final[:, query_num:]


@pytest.mark.parametrize(("k1", "k2", "weight"), [(20, 6, 0.3), (7, 1, 0.0), (5, 3, 1.0)])
def test_re_ranking_is_that_of_its_authors(k1: int, k2: int, weight: float):
    (query, *_), (gallery, *_) = people()
    expected = published_rerank(query.double().numpy(), gallery.double().numpy(), k1, k2, weight)
    assert rerank(query * 3, gallery, k1=k1, k2=k2, weight=weight).numpy() == pytest.approx(expected, abs=2e-6)
    together = rerank(torch.cat([query, gallery]), k1=k1, k2=k2, weight=weight)
    assert together[: len(query), len(query) :].numpy() == pytest.approx(expected, abs=2e-6)


def test_re_ranking_finds_more_of_people_seen_by_several_cameras():
    (query, q_ids, q_cams), (gallery, g_ids, g_cams) = people(1, queries=30, gallery=300)
    plain = reidentification_metrics(1 - query @ gallery.T, q_ids, q_cams, g_ids, g_cams)
    better = reidentification_metrics(rerank(query, gallery), q_ids, q_cams, g_ids, g_cams)
    assert better["map"] > plain["map"]
