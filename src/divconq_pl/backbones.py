"""Backbones: networks that turn images into the features the embedding layer and the clustering work on."""

from __future__ import annotations

import difflib
import itertools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.utils import consume_prefix_in_state_dict_if_present
from torchvision import models

from divconq_pl.errors import InputError

_AUXILIARY_HEADS = ("aux1", "aux2", "AuxLogits")


class Backbone(nn.Module):
    """Wrap a network that maps images (B, C, H, W) to features (B, ``out_features``).

    With ``freeze_batchnorm`` every BatchNorm layer stays in evaluation mode, whatever mode the rest is in: its running
    statistics are used and never updated, its scale and shift still train (settings of both papers, as the authors'
    code). Batches that come from one cluster at a time would otherwise drag the statistics from cluster to cluster.

    Args:
        network: the network, without a classifier.
        out_features: D, width of its output.
        freeze_batchnorm: keep BatchNorm layers in evaluation mode. Only for networks with trained statistics.
    """

    def __init__(self, network: nn.Module, out_features: int, *, freeze_batchnorm: bool = False) -> None:
        super().__init__()
        self.network = network
        self.out_features = out_features
        self.freeze_batchnorm = freeze_batchnorm
        self.train(network.training)

    def train(self, mode: bool = True) -> Backbone:
        """Set the mode of every layer but frozen BatchNorm."""
        super().train(mode)
        if self.freeze_batchnorm:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Compute features, (B, out_features)."""
        features: Tensor = self.network(images)
        return features


def small(in_channels: int = 1, width: int = 32) -> Backbone:
    """Build a network of four convolutions that trains from scratch on 32 x 32 images on a CPU.

    Args:
        in_channels: 1 for the glyphs, 3 for colour.
        width: channels after the first convolution; they double with each of the others.

    Returns:
        Backbone with ``8 * width`` features, for images of at least 8 x 8 pixels.

    Example:
        >>> backbone = small()
        >>> backbone(torch.zeros(2, 1, 32, 32)).shape == (2, backbone.out_features)
        True
    """
    layers: list[nn.Module] = []
    channels = [in_channels, width, 2 * width, 4 * width, 8 * width]
    for position, (before, after) in enumerate(itertools.pairwise(channels)):
        if position:
            layers.append(nn.MaxPool2d(2))
        layers += [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU(inplace=True)]
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    # A third faster on CPUs; the layout of the weights carries over to the activations.
    return Backbone(network.to(memory_format=torch.channels_last), channels[-1])


def resnet50(weights: str | None = None, freeze_batchnorm: bool | None = None) -> Backbone:
    """Build the network of both papers; see :func:`torchvision_backbone`. The papers' weights: IMAGENET1K_V1."""
    return torchvision_backbone("resnet50", weights, freeze_batchnorm=freeze_batchnorm)


def torchvision_backbone(
    name: str, weights: str | None = None, in_channels: int = 3, freeze_batchnorm: bool | None = None
) -> Backbone:
    """Build a torchvision classification network up to the input of its last layer.

    Args:
        name: as torchvision names it: ``resnet50``, ``efficientnet_b0``, ``convnext_tiny``, ``vit_b_16``, ...
        weights: None for random ones; ``"DEFAULT"`` or another of torchvision's names, such as ``"IMAGENET1K_V2"``,
            which are downloaded once; or the path of a file with the network's state dict.
        in_channels: when not 3, the weights of the first convolution become their mean over the colours, scaled so
            that a grey image gives what it gave as three equal channels.
        freeze_batchnorm: see :class:`Backbone`; by default where there are trained weights.

    Returns:
        Backbone whose ``out_features`` is the width of the classifier's input: 2048 for ResNet-50.

    Raises:
        InputError: an unknown name, unknown weights, weights that cannot be downloaded, or a file that does not fit.

    Example:
        >>> torchvision_backbone("resnet18").out_features
        512
    """
    if name not in (known := models.list_models(module=models)):
        close = difflib.get_close_matches(str(name), known) or ["resnet50", "efficientnet_b0", "convnext_tiny"]
        raise InputError(f"Unknown backbone {name!r}: torchvision has {', '.join(close)} and others.")
    is_file = weights is not None and _looks_like_path(weights)
    network = _build(name, None if is_file else weights)
    classifier, out_features = _remove_classifier(network)
    if is_file:
        _load_file(network, Path(str(weights)).expanduser(), ignored=(classifier, *_AUXILIARY_HEADS))
    if in_channels != 3:
        _adapt_first_convolution(network, in_channels)
    freeze = weights is not None if freeze_batchnorm is None else freeze_batchnorm
    return Backbone(network, out_features, freeze_batchnorm=freeze)


def _looks_like_path(weights: str) -> bool:
    return bool(Path(weights).suffix) or os.sep in weights or Path(weights).is_file()


def _build(name: str, weights: str | None) -> nn.Module:
    network: nn.Module
    if weights is None:
        network = models.get_model(name)
        return network
    choices: Mapping[str, Any] = models.get_model_weights(name).__members__
    if weights not in choices:
        raise InputError(f"Unknown weights {weights!r} for {name}: use {', '.join(choices)} or the path of a file.")
    file_name, folder = Path(choices[weights].url).name, Path(torch.hub.get_dir()) / "checkpoints"
    try:
        network = models.get_model(name, weights=choices[weights])
    except Exception as error:  # no network, or an incomplete file there: see _load_file
        raise InputError(
            f"The weights {weights} of {name} could not be downloaded or read ({_first_line(error)}): fetch "
            f"{file_name} on a machine with a network and put it into {folder}, or give its path as weights."
        ) from error
    return network


def _remove_classifier(network: nn.Module) -> tuple[str, int]:
    """Replace the last layer by the identity; return its name and the width of its input."""
    for head in _AUXILIARY_HEADS:
        if hasattr(network, head):
            setattr(network, head, None)
            network.aux_logits = False  # type: ignore[assignment]
    layers = list(network.named_modules())
    position = max(i for i, (_, layer) in enumerate(layers) if isinstance(layer, (nn.Linear, nn.Conv2d)))
    name, last = layers[position]
    _replace(network, name, nn.Identity())
    before, layer = layers[position - 1]
    if isinstance(layer, nn.Dropout):  # belongs to the classifier
        _replace(network, before, nn.Identity())
    return name, last.in_features if isinstance(last, nn.Linear) else last.in_channels


def _adapt_first_convolution(network: nn.Module, in_channels: int) -> None:
    first = next(layer for layer in network.modules() if isinstance(layer, nn.Conv2d))
    weight = first.weight.detach().mean(dim=1, keepdim=True) * (first.in_channels / in_channels)
    first.weight = nn.Parameter(weight.repeat(1, in_channels, 1, 1))
    first.in_channels = in_channels


def _replace(network: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, leaf = name.rpartition(".")
    setattr(network.get_submodule(parent), leaf, layer)


def _load_file(network: nn.Module, path: Path, ignored: tuple[str, ...]) -> None:
    """Load a state dict of ``network``, of its torchvision original or of a :class:`Backbone` around it."""
    if not path.is_file():
        raise InputError(f"There is no weights file {path}.")
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # an incomplete file makes torch raise whatever the unpickler stumbles over
        raise InputError(
            f"{path} is not a complete file of torch.save(network.state_dict(), ...): {_first_line(error)}"
        ) from error
    if not isinstance(loaded, Mapping):
        raise InputError(f"{path} holds a {type(loaded).__name__}, not a state dict.")
    state = dict(loaded)
    for wrapper in ("module.", "network."):
        consume_prefix_in_state_dict_if_present(state, wrapper)
    state = {key: value for key, value in state.items() if not key.startswith(tuple(f"{name}." for name in ignored))}
    if differences := _differences(state, network.state_dict()):
        raise InputError(
            f"{path} does not hold the weights of this network: {'; '.join(differences[:3])} "
            f"({len(differences)} differences in all)."
        )
    network.load_state_dict(state)


def _differences(state: Mapping[str, Any], expected: Mapping[str, Tensor]) -> list[str]:
    # Files from before PyTorch 0.4.1 have no num_batches_tracked; loading fills it in.
    missing = [key for key in expected if key not in state and not key.endswith("num_batches_tracked")]
    shapes = {key: tuple(getattr(value, "shape", ())) for key, value in state.items()}
    return [
        *(f"{key} is missing" for key in missing),
        *(f"{key} is not part of it" for key in state if key not in expected),
        *(
            f"{key} is {shape}, not {tuple(expected[key].shape)}"
            for key, shape in shapes.items()
            if key in expected and shape != expected[key].shape
        ),
    ]


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
