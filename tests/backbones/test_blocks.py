"""The blocks of a network are found in their order."""

import pytest
import torch

from divconq_pl.backbones import torchvision_backbone
from divconq_pl.backbones.blocks import layers_in_order

BLOCKS = {
    "resnet18": ["layer1.0", "layer1.1", "layer2.0", "layer2.1", "layer3.0", "layer3.1", "layer4.0", "layer4.1"],
    "vit_b_16": [f"encoder.layers.encoder_layer_{i}" for i in range(12)],
    "convnext_tiny": [f"features.{2 * s + 1}.{i}" for s, depth in enumerate((3, 3, 9, 3)) for i in range(depth)],
    "inception_v3": [f"Mixed_{name}" for name in ("5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c")],
}


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.filterwarnings("ignore:The default weight initialization")
def test_the_blocks_of_a_network_are_found_in_their_order(name):
    with torch.device("meta"):
        backbone = torchvision_backbone(name)
    names = {module: name for name, module in backbone.network.named_modules()}
    layers = [names[layer] for layer in layers_in_order(backbone)]
    assert [layer for layer in layers if layer in BLOCKS[name]] == BLOCKS[name]
    assert not [layer for layer in layers if layer.startswith(tuple(f"{block}." for block in BLOCKS[name]))]
