from __future__ import annotations

from collections import OrderedDict

import pytest
from pytorch_metric_learning import losses
from torch import Tensor, nn

from divconq_pl.errors import InputError
from divconq_pl.lightning.embedding_layer import find_backbone_parameters, find_embedding_layer


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
    with pytest.raises(InputError, match=r"Network has no layer 'head', .* backbone\.2"):
        find_embedding_layer(Network(), "head")
    with pytest.raises(InputError, match=r"Sequential has no layer that is known to give the embedding; .* embedding="):
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


def test_the_backbone_is_all_but_embedding_layer_and_losses() -> None:
    network = Network(
        embedding=nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(6)),
        loss_function=losses.MarginLoss(learn_beta=True, num_classes=3),
        proxies=losses.ProxyAnchorLoss(3, 6),
        neck=nn.Linear(8, 8),
    )
    expected = [*network.backbone.parameters(), *network.neck.parameters()]  # type: ignore[union-attr,operator]
    found = find_backbone_parameters(network, network.embedding)  # type: ignore[arg-type]
    assert [id(parameter) for parameter in found] == [id(parameter) for parameter in expected]
