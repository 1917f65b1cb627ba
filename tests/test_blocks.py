"""Networks are sorted by depth, and the learning rate falls with it."""

from collections import OrderedDict
from functools import partial

import pytest
import timm
import torch
from pytorch_metric_learning import losses
from timm.optim import param_groups_layer_decay
from torch import nn

from divconq_pl import DivideConquerModule, InputError
from divconq_pl.backbones import small, timm_backbone, torchvision_backbone
from divconq_pl.blocks import layers_in_order, parameters_by_depth

SGD = partial(torch.optim.SGD, lr=0.1)
BLOCKS = {
    "resnet18": ["layer1.0", "layer1.1", "layer2.0", "layer2.1", "layer3.0", "layer3.1", "layer4.0", "layer4.1"],
    "vit_b_16": [f"encoder.layers.encoder_layer_{i}" for i in range(12)],
    "convnext_tiny": [f"features.{2 * s + 1}.{i}" for s, depth in enumerate((3, 3, 9, 3)) for i in range(depth)],
    "inception_v3": [f"Mixed_{name}" for name in ("5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c")],
}


def rates(backbone, layer_decay):
    """Name -> learning rate."""
    module = DivideConquerModule(backbone, 4, losses.ContrastiveLoss(), optimizer=SGD, layer_decay=layer_decay)
    groups = module.configure_optimizers().param_groups
    assert len({group["name"] for group in groups}) == len(groups)  # a LearningRateMonitor wants this
    found = {parameter: group["lr"] for group in groups for parameter in group["params"]}
    assert sum(len(group["params"]) for group in groups) == len(found) == len(list(module.parameters()))
    return {name: found[parameter] for name, parameter in module.named_parameters()}


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.filterwarnings("ignore:The default weight initialization")
def test_the_blocks_of_a_network_are_found_in_their_order(name):
    with torch.device("meta"):
        backbone = torchvision_backbone(name)
    names = {module: name for name, module in backbone.network.named_modules()}
    layers = [names[layer] for layer in layers_in_order(backbone)]
    assert [layer for layer in layers if layer in BLOCKS[name]] == BLOCKS[name]
    assert not [layer for layer in layers if layer.startswith(tuple(f"{block}." for block in BLOCKS[name]))]


@pytest.mark.parametrize("name", ["resnet18", "vit_b_16", "convnext_tiny", "efficientnet_b0", "densenet121", "vgg11"])
def test_depth_goes_from_the_input_to_the_output_and_leaves_nothing_out(name):
    with torch.device("meta"):
        backbone = torchvision_backbone(name)
    layers = parameters_by_depth(backbone)
    flat = [parameter for layer in layers for parameter in layer]
    assert len(flat) == len(set(flat)) == len(list(backbone.parameters()))
    first = next(part for part in backbone.modules() if isinstance(part, nn.Conv2d))
    assert first.weight in set(layers[0])
    assert len(layers) >= 8  # a convolution or block each


def test_what_no_layer_owns_belongs_to_the_first_and_a_normalisation_to_the_one_before():
    with torch.device("meta"):
        network = torchvision_backbone("vit_b_16").network
    layers = [set(layer) for layer in parameters_by_depth(network)]
    assert {network.class_token, network.encoder.pos_embedding, network.conv_proj.weight} <= layers[0]
    assert network.encoder.ln.weight in layers[-1]
    assert network.encoder.layers.encoder_layer_11.mlp[0].weight in layers[-1]
    assert len(layers) == 13


def test_layers_without_blocks_are_layers():
    assert [len(layer) for layer in parameters_by_depth(small())] == [3, 3, 3, 3]
    plain = nn.Sequential(OrderedDict(a=nn.Linear(2, 2), b=nn.ReLU(), c=nn.Linear(2, 2)))
    assert parameters_by_depth(plain) == [list(plain.a.parameters()), list(plain.c.parameters())]
    assert parameters_by_depth(nn.Flatten()) == [[]]


def test_a_layer_that_is_used_twice_is_counted_once():
    shared = nn.Linear(2, 2)
    layers = parameters_by_depth(nn.Sequential(shared, nn.ReLU(), shared, nn.Linear(2, 2)))
    assert [len(layer) for layer in layers] == [2, 2]


@pytest.mark.parametrize("name", ["test_vit", "test_convnext", "test_efficientnet", "test_resnet"])
def test_rates_are_those_of_timm(name):
    backbone = timm_backbone(name)
    mine = rates(backbone, 0.5)
    reference = timm.create_model(name, num_classes=10)  # its classifier is what our embedding layer is
    scales = {
        parameter: group["lr_scale"]
        for group in param_groups_layer_decay(reference, layer_decay=0.5)
        for parameter in group["params"]
    }
    # timm counts a normalisation behind the last block as a part of the classifier.
    matrices = [name for name, parameter in backbone.network.named_parameters() if parameter.ndim > 1]
    expected = {f"backbone.network.{name}": 0.1 * scales[reference.get_parameter(name)] for name in matrices}
    assert {name: mine[name] for name in expected} == pytest.approx(expected)


def test_the_last_block_learns_slower_than_the_embedding_layer_by_one_step():
    found = rates(torchvision_backbone("resnet18"), 0.5)
    assert found["embedding.weight"] == 0.1
    assert found["backbone.network.layer4.1.conv2.weight"] == pytest.approx(0.05)
    assert found["backbone.network.layer4.0.conv2.weight"] == pytest.approx(0.025)
    assert found["backbone.network.conv1.weight"] == found["backbone.network.bn1.bias"] == pytest.approx(0.1 * 0.5**9)


def test_what_surrounds_a_network_of_timm_comes_last():
    network = timm.create_model("test_vit", num_classes=0)
    layers = parameters_by_depth(nn.Sequential(network, nn.Linear(64, 8)))
    assert len(layers) == len(parameters_by_depth(network)) + 1
    assert [tuple(parameter.shape) for parameter in layers[-1]] == [(8, 64), (8,)]


def test_by_default_the_backbone_is_one_group():
    backbone = small()
    module = DivideConquerModule(backbone, 4, losses.ContrastiveLoss(), optimizer=SGD)
    groups = module.configure_optimizers().param_groups
    assert [group["name"] for group in groups] == ["backbone", "embedding"]
    assert groups[0]["params"] == list(backbone.parameters())
    assert groups[0]["lr"] == 0.1


@pytest.mark.parametrize("layer_decay", [0.0, -0.5, 1.5])
def test_an_impossible_decay_is_named(layer_decay):
    with pytest.raises(InputError, match=f"layer_decay={layer_decay}"):
        rates(small(), layer_decay)
