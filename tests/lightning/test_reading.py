from __future__ import annotations

from collections import OrderedDict, UserDict
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset, Dataset, Subset, TensorDataset

from divconq_pl.errors import InputError
from divconq_pl.lightning.reading import (
    UsualReader,
    contiguous,
    find_cluster_dataset,
    image_name,
)

READER = UsualReader()


class Images(Dataset[Any]):
    """A data set that keeps attributes, and whose items must not be read."""

    def __init__(self, length: int, **attributes: Any) -> None:
        self.length = length
        vars(self).update(attributes)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Any:
        raise AssertionError("an image was read")


def labels_of(dataset: Dataset[Any]) -> list[int] | None:
    labels = READER.dataset_labels(dataset)
    assert labels is None or labels.dtype == torch.int64
    return None if labels is None else labels.tolist()


@pytest.mark.parametrize("name", ["targets", "labels"])
@pytest.mark.parametrize(
    "labels",
    [
        [30, -7, 30, 4],
        (30, -7, 30, 4),
        np.array([30, 2, 30, 4], dtype=np.uint8),
        np.array([3.0, 1.0, 3.0, 2.0]),
        torch.tensor([30, -7, 30, 4], dtype=torch.int32),
        ["sparrow", "albatross", "sparrow", "crow"],
        np.array(["sparrow", "albatross", "sparrow", "crow"], dtype=object),
    ],
    ids=["list", "tuple", "array", "floats", "tensor", "text", "column of a table"],
)
def test_labels_of_any_kind_become_classes(name: str, labels: Sequence[Any]) -> None:
    assert labels_of(Images(4, **{name: labels})) == [2, 0, 2, 1]


def test_targets_go_before_labels() -> None:
    assert labels_of(Images(3, targets=[2, 1, 2], labels=[0, 0, 0])) == [1, 0, 1]


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"targets": None},
        {"labels": ["cat", "dog"]},
        {"labels": 3},
        {"targets": [[0, 1], [1, 0], [1, 1]]},
        {"targets": [[0], [1, 2], []]},
    ],
    ids=["none", "unknown", "names of the classes", "a number", "two per image", "some per image"],
)
def test_what_is_no_label_for_each_image_is_not_taken_for_one(attributes: dict[str, Any]) -> None:
    assert READER.dataset_labels(Images(3, **attributes)) is None


@pytest.mark.parametrize("dtype", [torch.int64, torch.float32])
def test_the_second_tensor_of_a_tensor_data_set_holds_labels(dtype: torch.dtype) -> None:
    labels = torch.tensor([8, 3, 8], dtype=dtype)
    assert labels_of(TensorDataset(torch.zeros(3, 2), labels)) == [1, 0, 1]
    assert labels_of(TensorDataset(torch.zeros(3, 2))) is None
    assert labels_of(TensorDataset(torch.zeros(3, 2), torch.zeros(3, 2))) is None


@pytest.mark.parametrize(
    "indices", [[4, 0, 2], (4, 0, 2), np.array([4, 0, 2]), torch.tensor([4, 0, 2]), range(4, -1, -2)]
)
def test_a_subset_has_the_labels_of_its_images(indices: Any) -> None:
    dataset = Images(5, targets=["e", "d", "c", "b", "a"])
    expected = [dataset.targets[int(i)] for i in indices]  # type: ignore[attr-defined]
    assert labels_of(Subset(dataset, indices)) == [sorted(set(expected)).index(label) for label in expected]


def test_subsets_and_concatenations_may_be_nested() -> None:
    first, second = Images(4, targets=[9, 5, 9, 7]), Images(2, labels=[5, 9])
    both: ConcatDataset[Any] = ConcatDataset([Subset(first, [3, 2, 1]), second])
    assert labels_of(both) == [1, 2, 0, 0, 2], "a class has the same name in both"
    assert labels_of(Subset(Subset(both, [4, 3, 0]), [2, 0])) == [0, 1]


def test_labels_are_unknown_where_one_part_does_not_tell() -> None:
    assert READER.dataset_labels(ConcatDataset([Images(2, targets=[0, 1]), Images(2)])) is None
    assert READER.dataset_labels(Subset(Images(4), [1, 2])) is None


def test_contiguous_labels_are_numbered_in_their_order() -> None:
    labels = [103, -5, 22, 103, 22, 0]
    assert contiguous(labels).tolist() == [sorted(set(labels)).index(label) for label in labels]
    assert contiguous(torch.tensor(labels)).tolist() == contiguous(np.array(labels)).tolist() == [3, 0, 2, 3, 2, 1]


IMAGES, LABELS = torch.zeros(2, 3), torch.tensor([4, 1])


@pytest.mark.parametrize(
    "batch",
    [
        (IMAGES, LABELS),
        [IMAGES, LABELS],
        (IMAGES, LABELS, ["path", "path"]),
        {"image": IMAGES, "label": LABELS},
        {"index": 0, "pixel_values": IMAGES, "labels": LABELS},
        OrderedDict(targets=LABELS, x=IMAGES),
        UserDict(inputs=IMAGES, y=LABELS),
    ],
    ids=["tuple", "list", "more fields", "dict", "other names", "labels first", "other mapping"],
)
def test_usual_batches(batch: Any) -> None:
    assert READER.batch_inputs(batch) is IMAGES
    assert READER.batch_labels(batch) is LABELS


def test_a_batch_may_be_images_alone_but_tells_no_labels_then() -> None:
    assert READER.batch_inputs(IMAGES) is IMAGES
    for batch in (IMAGES, [IMAGES], (IMAGES,)):
        with pytest.raises(InputError, match=r"batch of type \w+ .*override DivideConquerCallback\.batch_labels"):
            READER.batch_labels(batch)


def test_a_batch_with_other_names_says_what_to_override() -> None:
    batch = {"photo": IMAGES, "species": LABELS}
    with pytest.raises(InputError, match=r"'photo', 'species' .*override DivideConquerCallback\.batch_inputs"):
        READER.batch_inputs(batch)
    with pytest.raises(InputError, match=r"'photo', 'species' .*override DivideConquerCallback\.batch_labels"):
        READER.batch_labels(batch)


def test_a_data_module_may_have_a_data_set_to_cluster() -> None:
    dataset = Images(3)
    assert find_cluster_dataset(SimpleNamespace(datamodule=SimpleNamespace(cluster_dataset=lambda: dataset))) is dataset
    assert find_cluster_dataset(SimpleNamespace(datamodule=SimpleNamespace())) is None
    assert find_cluster_dataset(SimpleNamespace(datamodule=None)) is None


def test_an_image_has_the_name_that_its_data_set_has_for_it() -> None:
    named = Images(3, name_of=lambda i: f"{i}.png")
    torchvision = Images(2, samples=[("a.jpg", 0), ("b.jpg", 1)])
    assert [image_name(named, i) for i in range(3)] == ["0.png", "1.png", "2.png"]
    assert image_name(torchvision, 1) == "b.jpg"
    assert image_name(Images(1, imgs=[("c.jpg", 0)]), 0) == "c.jpg"
    assert image_name(Subset(ConcatDataset([named, torchvision]), [4, 1]), 0) == "b.jpg"
    assert image_name(Subset(ConcatDataset([named, torchvision]), [4, 1]), 1) == "1.png"
    assert [image_name(data, 0) for data in (Images(3), Images(3, samples=np.zeros(3)), Images(3, samples=[]))] == [
        None
    ] * 3
