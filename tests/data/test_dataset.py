"""What every data set knows of its images besides their classes."""

from __future__ import annotations

import numpy as np
import pytest

from divconq_pl.data import ArrayDataset, split_by_class
from divconq_pl.errors import InputError

IMAGES = np.arange(12, dtype=np.uint8).reshape(12, 1, 1)
LABELS = [0, 1, 2, 3, 4, 5] * 2


def images(**groups: object) -> ArrayDataset:
    return ArrayDataset(IMAGES, LABELS, list("abcdef"), [str(i) for i in range(12)], **groups)  # type: ignore[arg-type]


def test_groups_follow_their_images_into_the_parts() -> None:
    known = [0] * 5 + [1] * 7
    splits = split_by_class(images(groups=known, group_names=["front", "back"]), 0.34, 0.34)
    assert splits.val is not None
    assert not isinstance(splits.test, tuple)
    for part in (splits.train, splits.val, splits.test):
        assert part.groups is not None
        assert part.groups.tolist() == [known[int(np.asarray(part.image(i))[0, 0])] for i in range(len(part))]
        assert part.group_names == ["front", "back"]


def test_most_data_have_no_groups() -> None:
    data = images().with_classes(["b", "a"])
    assert data.groups is None
    assert data.group_names == []


@pytest.mark.parametrize(
    ("groups", "names", "message"),
    [
        ([0, 1], ["front", "back"], r"groups of shape \(2,\) for 12 images"),
        ([0] * 11 + [2], ["front", "back"], "groups run from 0 to 2, but 2 groups are named"),
        ([-1] * 12, ["front"], "groups run from -1 to -1"),
    ],
)
def test_groups_that_do_not_fit_are_refused(groups: list[int], names: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        images(groups=groups, group_names=names)
