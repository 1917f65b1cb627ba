from __future__ import annotations

import itertools
import re
from functools import cache

import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from divconq_pl.core.usable import check_divisible, classes_per_cluster, usable_images
from divconq_pl.errors import InputError


@settings(max_examples=60, deadline=None, derandomize=True)
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
