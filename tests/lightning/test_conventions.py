from __future__ import annotations

from collections import OrderedDict, UserDict
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_metric_learning import losses
from torch import Tensor, nn
from torch.utils.data import ConcatDataset, Dataset, Subset, TensorDataset

from divconq_pl.core.subspaces import LearnedSubspaces
from divconq_pl.errors import InputError
from divconq_pl.lightning.conventions import (
    backbone_parameters,
    batch_inputs,
    batch_labels,
    cluster_dataset,
    contiguous,
    dataset_labels,
    find_embedding_layer,
    image_name,
)


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
    labels = dataset_labels(dataset)
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
    assert dataset_labels(Images(3, **attributes)) is None


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
    assert dataset_labels(ConcatDataset([Images(2, targets=[0, 1]), Images(2)])) is None
    assert dataset_labels(Subset(Images(4), [1, 2])) is None


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
    assert batch_inputs(batch) is IMAGES
    assert batch_labels(batch) is LABELS


def test_a_batch_may_be_images_alone_but_tells_no_labels_then() -> None:
    assert batch_inputs(IMAGES) is IMAGES
    for batch in (IMAGES, [IMAGES], (IMAGES,)):
        with pytest.raises(InputError, match=r"batch of type \w+ .*override DivideConquerCallback\.batch_labels"):
            batch_labels(batch)


def test_a_batch_with_other_names_says_what_to_override() -> None:
    batch = {"photo": IMAGES, "species": LABELS}
    with pytest.raises(InputError, match=r"'photo', 'species' .*override DivideConquerCallback\.batch_inputs"):
        batch_inputs(batch)
    with pytest.raises(InputError, match=r"'photo', 'species' .*override DivideConquerCallback\.batch_labels"):
        batch_labels(batch)


class Network(nn.Module):
    """A backbone and what else a test puts into it."""

    def __init__(self, **parts: nn.Module) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten(), nn.Linear(4, 8))
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, images: Tensor) -> Tensor:
        raise NotImplementedError


def test_a_layer_called_embedding_is_found() -> None:
    network = Network(embedding=nn.Linear(8, 6), classifier=nn.Linear(6, 100))
    assert find_embedding_layer(network) == ("embedding", network.embedding, 6)


def test_otherwise_it_is_the_last_linear_layer() -> None:
    network = Network(head=nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 5), nn.Dropout()))
    assert find_embedding_layer(network) == ("head.2", network.head[2], 5)  # type: ignore[index]
    assert find_embedding_layer(Network())[::2] == ("backbone.2", 8)


def test_linear_layers_of_losses_do_not_count() -> None:
    class LossWithLayer(losses.ContrastiveLoss):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(8, 3)

    network = Network(loss_function=LossWithLayer(), weighted=losses.MultipleLosses([LossWithLayer()]))
    assert find_embedding_layer(network)[::2] == ("backbone.2", 8)


def test_a_layer_can_be_named() -> None:
    head = nn.Sequential(OrderedDict(project=nn.Linear(8, 5), norm=nn.BatchNorm1d(5)))
    network = Network(embedding=nn.Linear(8, 6), head=head)
    assert find_embedding_layer(network, "head.project") == ("head.project", head.project, 5)
    assert find_embedding_layer(network, "head") == ("head", head, 5), "what its last layer gives"


def test_a_layer_that_cannot_be_found_is_reported() -> None:
    with pytest.raises(InputError, match=r"embedding='head' is no layer of Network; .* backbone\.2"):
        find_embedding_layer(Network(), "head")
    with pytest.raises(InputError, match=r"Sequential that gives the embedding is not to be found; .* embedding="):
        find_embedding_layer(nn.Sequential(nn.ReLU()))
    with pytest.raises(InputError, match=r"'embedding' \(ReLU\) has no out_features"):
        find_embedding_layer(Network(embedding=nn.ReLU()))


class Transformer(nn.Module):
    """A backbone without a classifier: it tells its width, and its last linear layer is one of its blocks'."""

    def __init__(self, width: int, head: nn.Module) -> None:
        super().__init__()
        self.num_features = 6
        self.blocks = nn.Sequential(nn.Linear(3, 12), nn.GELU(), nn.Linear(12, width))
        self.head = head


def test_a_backbone_without_a_classifier_gives_the_embedding_itself() -> None:
    bare = Transformer(6, nn.Identity())
    assert find_embedding_layer(nn.ModuleDict({"model": bare})) == ("model", bare, 6)
    headed = Transformer(6, nn.Linear(6, 4))
    assert find_embedding_layer(nn.ModuleDict({"model": headed})) == ("model.head", headed.head, 4)


def test_without_a_linear_layer_it_is_the_last_part_that_tells_its_width() -> None:
    backbone = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten())
    network = nn.ModuleDict({"backbone": backbone, "loss": losses.ProxyAnchorLoss(3, 4)})
    assert find_embedding_layer(network) == ("backbone", backbone, 4)


def test_the_backbone_is_all_but_embedding_layer_losses_and_masks() -> None:
    network = Network(
        embedding=nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(6)),
        loss_function=losses.MarginLoss(learn_beta=True, num_classes=3),
        proxies=losses.ProxyAnchorLoss(3, 6),
        subspaces=LearnedSubspaces(6, 1),
        neck=nn.Linear(8, 8),
    )
    expected = [*network.backbone.parameters(), *network.neck.parameters()]  # type: ignore[union-attr,operator]
    found = backbone_parameters(network, network.embedding)  # type: ignore[arg-type]
    assert [id(parameter) for parameter in found] == [id(parameter) for parameter in expected]


def test_a_data_module_may_have_a_data_set_to_cluster() -> None:
    dataset = Images(3)
    assert cluster_dataset(SimpleNamespace(datamodule=SimpleNamespace(cluster_dataset=lambda: dataset))) is dataset
    assert cluster_dataset(SimpleNamespace(datamodule=SimpleNamespace())) is None
    assert cluster_dataset(SimpleNamespace(datamodule=None)) is None


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
