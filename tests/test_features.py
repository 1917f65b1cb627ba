"""The feature pass sees the images and leaves no trace."""

import copy
import random

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from toys import PlainModule, Vectors, loader, trainer

from divconq_pl import DivideConquerCallback, InputError
from divconq_pl.features import evaluating, extract_features


class Network(nn.Module):
    """A backbone with layers that behave differently in training, one of them in evaluation mode for good."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Dropout(0.5), nn.BatchNorm1d(5))
        self.embedding = nn.Linear(5, 3)
        self.other = nn.Linear(3, 3)
        self.backbone[3].eval()

    def forward(self, x):
        return self.other(self.embedding(self.backbone(x)))


def modes(network):
    return {name: part.training for name, part in network.named_modules()}


def unit(rows):
    return rows / rows.square().sum(1, keepdim=True).sqrt()


@pytest.mark.parametrize("side", ["input", "output"])
def test_features_are_those_of_the_network_in_evaluation_mode_with_length_one(side):
    network, images = Network(), torch.randn(11, 6)
    before, state = modes(network), copy.deepcopy(network.state_dict())
    features = extract_features(network, network.embedding, images.split(4), network, side=side)
    twin = copy.deepcopy(network).eval()
    expected = twin.backbone(images) if side == "input" else twin.embedding(twin.backbone(images))
    assert torch.allclose(features, unit(expected), atol=1e-6)
    assert features.dtype == torch.float32
    assert modes(network) == before
    assert before["backbone.0"]
    assert not before["backbone.3"]
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in state.items())  # BatchNorm's, too


def test_features_carry_no_gradient_and_nothing_is_looked_at_afterwards():
    network = Network()
    features = extract_features(network, network.embedding, [torch.randn(4, 6)], network)
    assert not features.requires_grad
    assert all(parameter.grad is None for parameter in network.parameters())
    assert torch.is_grad_enabled()
    assert not network.embedding._forward_pre_hooks
    assert not network.embedding._forward_hooks


def test_features_of_a_whole_backbone_are_what_comes_out_of_it_in_single_precision():
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten()).to(torch.bfloat16)
    images = torch.randn(4, 1, 5, 5, dtype=torch.bfloat16)
    for side in ("input", "output"):
        features = extract_features(network, network, [images], network, side=side)
        assert features.dtype == torch.float32
        assert torch.allclose(features, unit(network(images).float()), atol=1e-6)


def test_a_layer_that_gives_no_vectors_is_refused():
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten())
    with pytest.raises(InputError, match=r"Conv2d gives a tensor of shape \(4, 2, 3, 3\), not one vector per image"):
        extract_features(network, network[0], [torch.randn(4, 1, 5, 5)], network)


def test_whatever_goes_wrong_in_a_batch_leaves_the_network_as_it_was():
    network = Network()
    before = modes(network)

    def broken(batch):
        raise OSError("disk on fire")

    def interrupted(batch):
        raise KeyboardInterrupt

    for forward, error in ((broken, OSError), (interrupted, KeyboardInterrupt)):
        with pytest.raises(error):
            extract_features(network, network.embedding, [torch.randn(4, 6)], forward)
        assert modes(network) == before
        assert not network.embedding._forward_pre_hooks


def test_evaluation_ends_where_it_began():
    network = Network()
    before = modes(network)
    with evaluating(network):
        assert not any(modes(network).values())
    assert modes(network) == before


@pytest.mark.parametrize(
    ("forward", "times"),
    [
        (lambda network: lambda x: network.other(network.embedding(network.embedding.weight.new_zeros(4, 5))), None),
        (lambda network: network.backbone, 0),
        (lambda network: lambda x: [network(x), network(x)], 2),
    ],
    ids=["once", "never", "twice"],
)
def test_the_layer_has_to_run_once(forward, times):
    network = Network()
    batches = [torch.randn(4, 6)]
    if times is None:
        assert len(extract_features(network, network.embedding, batches, forward(network))) == 4
        return
    with pytest.raises(InputError, match=rf"the embedding layer ran {times} times .* of Network; name the layer"):
        extract_features(network, network.embedding, batches, forward(network))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_features_that_are_no_numbers_are_counted(bad):
    network = nn.Sequential(nn.Identity(), nn.Linear(3, 2))
    images = torch.ones(10, 3)
    images[6, 1] = images[9, 0] = bad
    with pytest.raises(InputError, match=r"the features of 2 of 10 images are NaN or infinite \(first: image 6\)"):
        extract_features(network, network[1], images.split(4), network)


class Augmented(Vectors):
    """Draws from each source of random numbers for every item."""

    def __getitem__(self, i):
        noise = torch.rand(1).item() + np.random.rand() + random.random()
        values, target, index = super().__getitem__(i)
        return values + 0.01 * noise, target, index


def states():
    return torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()


class Look(pl.Callback):
    """Write down the random states at the start of every epoch."""

    def __init__(self):
        self.seen = []

    def on_train_epoch_start(self, trainer, module):
        self.seen.append(states())


@pytest.mark.parametrize("workers", [0, 2])
def test_a_division_draws_no_random_numbers_of_the_training(workers):
    pl.seed_everything(1, verbose=False)
    before, after = Look(), Look()
    divide = DivideConquerCallback(split_depth=1, every_n_epochs=1)
    module = PlainModule(dropout=0.5)
    trainer(before, divide, after, max_epochs=3).fit(module, loader(Augmented(), num_workers=workers))
    assert len(divide.history) == 2
    assert before.seen == after.seen
    assert before.seen[0] != before.seen[1]
