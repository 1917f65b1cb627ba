from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from divconq_pl.core.division import Division
from divconq_pl.core.summary import division_line, summarise

images = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 7), st.sampled_from([0, 5, 9])), min_size=2, max_size=30)


def slow_nmi(a: Sequence[int], b: Sequence[int]) -> float:
    """Mutual information over the mean entropy."""
    n = len(a)

    def entropy(values: Sequence[Any]) -> float:
        return -sum(m / n * math.log(m / n) for m in Counter(values).values())

    mean = (entropy(a) + entropy(b)) / 2
    return 1.0 if mean == 0 else (entropy(a) + entropy(b) - entropy(list(zip(a, b, strict=True)))) / mean


def slow_ari(a: Sequence[int], b: Sequence[int]) -> float:
    """Agreement on all pairs of images, 0 by chance and 1 at best."""
    pairs = list(combinations(range(len(a)), 2))
    in_a, in_b = ({(i, j) for i, j in pairs if x[i] == x[j]} for x in (a, b))
    by_chance = len(in_a) * len(in_b) / len(pairs)
    best = (len(in_a) + len(in_b)) / 2
    return 1.0 if best == by_chance else (len(in_a & in_b) - by_chance) / (best - by_chance)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(images, st.integers(0, 2), st.integers(0, 2))
def test_a_summary_counts_what_a_loop_would(drawn: list[tuple[int, int, int]], depth: int, splits: int) -> None:
    splits = min(splits, 3 - depth)
    was, now, labels = map(list, zip(*drawn, strict=True))
    was, now = [k % 2**depth for k in was], [k % 2 ** (depth + splits) for k in now]
    summary = summarise(
        Division(torch.tensor(now), depth + splits),
        Division(torch.tensor(was), depth),
        torch.tensor(labels),
        epoch=4,
    )
    num_clusters = 2 ** (depth + splits)
    groups = Counter(zip(now, labels, strict=True))
    origin = [k // 2**splits for k in now]
    assert summary["epoch"] == 4
    assert summary["clusters"] == num_clusters
    assert summary["sizes"] == [now.count(k) for k in range(num_clusters)]
    assert summary["classes"] == [sum(n > 1 for (j, _), n in groups.items() if j == k) for k in range(num_clusters)]
    assert summary["parents"] == [k // 2**splits for k in range(num_clusters)]
    assert summary["left_out"] == sum(n for n in groups.values() if n == 1)
    assert summary["moved"] == sum(a != b for a, b in zip(origin, was, strict=True))
    assert summary["classes_per_cluster"] == pytest.approx(sum(summary["classes"]) / num_clusters)
    assert summary["nmi_classes"] == pytest.approx(slow_nmi(now, labels), abs=1e-9)
    positive = [(i, j) for i, j in combinations(range(len(labels)), 2) if labels[i] == labels[j]]
    kept = [now[i] == now[j] for i, j in positive]
    assert summary["pairs_kept"] == (sum(kept) / len(kept) if kept else None)
    if depth == 0:
        assert summary["nmi"] is None
        assert summary["ari"] is None
    else:
        assert summary["nmi"] == pytest.approx(slow_nmi(origin, was), abs=1e-9)
        assert summary["ari"] == pytest.approx(slow_ari(origin, was), abs=1e-9)


def test_a_division_that_only_splits_agrees_with_the_last_one() -> None:
    previous = Division(torch.arange(16) % 2, 1)
    summary = summarise(
        Division(2 * previous.assignment + torch.arange(16) // 8, 2), previous, torch.arange(16) % 4, epoch=2
    )
    assert (summary["moved"], summary["nmi"], summary["ari"]) == (0, pytest.approx(1.0), pytest.approx(1.0))


def test_whole_classes_keep_all_pairs_and_say_as_much_of_the_clusters_as_can_be_said() -> None:
    labels = torch.arange(32) % 8
    undivided = Division.undivided(32)
    whole = summarise(Division(labels // 4, 1), undivided, labels, epoch=2)
    assert (whole["pairs_kept"], whole["classes_per_cluster"]) == (1.0, 4.0)
    assert whole["nmi_classes"] == pytest.approx(slow_nmi((labels // 4).tolist(), labels.tolist()))
    cut = summarise(Division(torch.arange(32) // 16, 1), undivided, labels, epoch=2)
    assert (cut["pairs_kept"], cut["classes_per_cluster"]) == (pytest.approx(2 / 6), 8.0), "2 of 4 images in each"
    assert cut["nmi_classes"] == pytest.approx(0)


def test_a_summary_can_be_kept_in_a_checkpoint() -> None:
    """``torch.load`` takes plain values only by default."""
    division = Division(torch.arange(16) % 4, 2)
    summary = summarise(division, division, torch.arange(16) // 8, epoch=2)
    plain = {value_type for value in summary.values() for value_type in _types(value)}
    assert plain <= {int, float, list}


def _types(value: Any) -> set[type]:
    return {type(value)} | ({type(part) for part in value} if isinstance(value, list) else set())


def test_a_division_in_one_line() -> None:
    summary = {"number": 3, "epoch": 6, "sizes": [41, 38], "classes": [9, 8], "moved": 5, "left_out": 1, "nmi": 0.8712}
    times = {"seconds_features": 61.26, "seconds_kmeans": 2.34, "seconds_rest": 0.012}
    assert division_line(summary | times) == (
        "division 3 | epoch 6 | 2 clusters: 41 38 images, 9 8 classes | 5 images moved, 1 lone image left out, NMI 0.87"
        " | features 61 s, k-means 2.3 s, rest 0.01 s"
    )


def test_the_line_says_how_many_positive_pairs_are_kept() -> None:
    summary = {"epoch": 6, "sizes": [41, 38], "classes": [9, 8], "moved": 5, "nmi": 0.87, "pairs_kept": 0.7849}
    assert division_line(summary).endswith("| 5 images moved, NMI 0.87, 78 % of positive pairs kept")


def test_what_there_is_nothing_to_say_about_is_left_out_of_the_line() -> None:
    first = {"epoch": 2, "sizes": [8, 8], "classes": [2, 2], "moved": 0, "left_out": 0, "nmi": None, "ari": None}
    assert division_line(first) == "division | epoch 2 | 2 clusters: 8 8 images, 2 2 classes | 0 images moved"


def test_many_clusters_are_summed_up_in_the_line() -> None:
    many = {"epoch": 2, "sizes": list(range(10, 26)), "classes": [2] * 15 + [7], "moved": 1}
    assert division_line(many) == (
        "division | epoch 2 | 16 clusters: 10 / 18 / 25 images, 2 / 2 / 7 classes (min / median / max) | 1 image moved"
    )
