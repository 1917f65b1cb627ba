"""Gradient checkpointing changes memory, and nothing else."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from divconq_pl.backbones import Backbone, timm_backbone, torchvision_backbone

NETWORKS = {
    "torchvision resnet": lambda **options: torchvision_backbone("resnet18", **options),
    "torchvision densenet": lambda **options: torchvision_backbone("densenet121", **options),
    "torchvision efficientnet": lambda **options: torchvision_backbone("efficientnet_b0", **options),
    "timm vit": lambda **options: timm_backbone("test_vit", image_size=32, **options),
    "timm convnext": lambda **options: timm_backbone("test_convnext", **options),
    "timm efficientnet": lambda **options: timm_backbone("test_efficientnet", **options),
}


def images(batch=4, size=32):
    return torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(0))


def pair(name, **options):
    """A network that keeps its activations, and one with the same weights that does not."""
    torch.manual_seed(0)
    plain = NETWORKS[name](**options)
    recomputing = NETWORKS[name](grad_checkpointing=True, **options)
    recomputing.load_state_dict(plain.state_dict())
    return plain.train(), recomputing.train()


def step(backbone):
    """One step; return the features, the gradients and what BatchNorm has counted."""
    torch.manual_seed(1)
    features = backbone(images())
    features.square().mean().backward()
    after = torch.rand(1)  # later random numbers must be the same, too
    gradients = {name: parameter.grad for name, parameter in backbone.named_parameters()}
    return features, gradients, dict(backbone.named_buffers()), after


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_statistics_and_random_numbers_are_the_same(name, frozen):
    results = [step(backbone) for backbone in pair(name, freeze_batchnorm=frozen)]
    assert results[0][1].keys() == results[1][1].keys()
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 6), nn.Dropout(0.5), nn.Tanh())

    def forward(self, x, *, scale=1.0):
        return x + scale * self.layers(x)


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(3))

    def forward(self, x):
        for i, block in enumerate(self.blocks):
            x = block(x, scale=i + 1)
        return x


def test_dropout_is_the_same_in_the_second_computation():
    plain, values = Scaled(), torch.rand(5, 6)
    recomputing = Backbone(copy.deepcopy(plain), 6, grad_checkpointing=True)
    for network in (plain, recomputing):
        torch.manual_seed(3)
        network(values).square().sum().backward()
    for expected, found in zip(plain.parameters(), recomputing.parameters(), strict=True):
        assert torch.equal(found.grad, expected.grad)


def kept_bytes(backbone):
    """What is kept for the backward pass, apart from the weights themselves."""
    own, sizes = {parameter.data_ptr() for parameter in backbone.parameters()}, {}

    def keep(tensor):
        if tensor.data_ptr() not in own:
            sizes[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
        kept.append(tensor)
        return tensor

    kept = []
    with saved_tensors_hooks(keep, lambda tensor: tensor):
        backbone(images(8, 64 if "vit" not in type(backbone.network).__name__.lower() else 32))
    return sum(sizes.values())


@pytest.mark.parametrize("name", ["torchvision resnet", "timm vit", "timm convnext", "timm efficientnet"])
def test_less_is_kept_for_the_backward_pass(name):
    plain, recomputing = pair(name)
    assert kept_bytes(recomputing) < 0.6 * kept_bytes(plain)


def test_nothing_is_kept_where_no_gradient_is_wanted():
    _, recomputing = pair("timm vit")
    with torch.no_grad():
        assert not recomputing(images()).requires_grad
    with torch.inference_mode():
        assert recomputing(images()).shape == (4, 64)


def test_names_and_values_are_those_without_it():
    plain, recomputing = pair("torchvision resnet")
    assert recomputing.state_dict().keys() == plain.state_dict().keys()
    assert torch.equal(recomputing.eval()(images()), plain.eval()(images()))


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda network: pickle.loads(pickle.dumps(network))])
def test_a_copy_uses_its_own_weights(duplicate):
    original = Backbone(Scaled(), 6, grad_checkpointing=True).eval()
    twin, values = duplicate(original), torch.rand(5, 6)
    assert torch.equal(twin(values), original(values))
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    assert torch.equal(twin(values), values)
    assert not torch.equal(original(values), values)
