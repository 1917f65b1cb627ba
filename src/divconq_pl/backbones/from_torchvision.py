"""Networks of torchvision, by name."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torchvision import models

from divconq_pl.backbones.backbone import Backbone
from divconq_pl.backbones.preprocessing import Preprocessing
from divconq_pl.backbones.weights import drop_layers, load_weights, looks_like_path, read_state_dict, shorten_error
from divconq_pl.errors import InputError

_AUXILIARY_HEADS = ("aux1", "aux2", "AuxLogits")


def resnet50(weights: str | None = None, freeze_batchnorm: bool | None = None) -> Backbone:
    """Build the network of both papers; see :func:`torchvision_backbone`. The papers' weights: IMAGENET1K_V1."""
    return torchvision_backbone("resnet50", weights, freeze_batchnorm=freeze_batchnorm)


def torchvision_backbone(
    name: str,
    weights: str | None = None,
    in_channels: int = 3,
    freeze_batchnorm: bool | None = None,
    grad_checkpointing: bool = False,
) -> Backbone:
    """Build a torchvision classification network up to the input of its last layer.

    Args:
        name: as torchvision names it: ``resnet50``, ``efficientnet_b0``, ``convnext_tiny``, ``vit_b_16``, ...
        weights: None for random ones; ``"DEFAULT"`` or another of torchvision's names, such as ``"IMAGENET1K_V2"``,
            which are downloaded once; or the path of a file with the network's state dict.
        in_channels: other than 3, the weights of the first convolution become their mean over the colours, scaled so
            that a grey image gives what it gave as three equal channels.
        freeze_batchnorm: see :class:`.Backbone`; by default where there are trained weights.
        grad_checkpointing: see :class:`.Backbone`.

    Returns:
        Backbone whose ``out_features`` is the width of the classifier's input: 2048 for ResNet-50.

    Raises:
        InputError: an unknown name, unknown weights, weights that cannot be downloaded, or a file that does not fit.

    Example:
        >>> torchvision_backbone("resnet18").out_features
        512
    """
    _check_name(name)
    path = weights if weights is not None and looks_like_path(weights) else None
    network = _build(name, None if path else weights)
    classifier, out_features = _remove_classifier(network)
    if path:
        load_weights(network, drop_layers(read_state_dict(path), (classifier, *_AUXILIARY_HEADS)), path)
    if in_channels != 3:
        _adapt_first_convolution(network, in_channels)
    freeze = weights is not None if freeze_batchnorm is None else freeze_batchnorm
    return Backbone(network, out_features, freeze_batchnorm=freeze, grad_checkpointing=grad_checkpointing)


def torchvision_preprocessing(name: str, weights: str | None = None) -> Preprocessing:
    """Return what weights of torchvision expect of images, without building the network or loading anything.

    Args:
        name: of the network.
        weights: as for :func:`torchvision_backbone`; a file is recognised by the name it has on torchvision's server.

    Returns:
        What the weights were evaluated with; ImageNet's usual values without weights, or for a file of another name.

    Raises:
        InputError: an unknown name or unknown weights.

    Example:
        >>> torchvision_preprocessing("resnet50", "IMAGENET1K_V2").resize
        232
    """
    _check_name(name)
    if weights is None:
        return Preprocessing()
    if looks_like_path(weights):
        own = [entry for entry in models.get_model_weights(name) if Path(entry.url).name == Path(weights).name]
    else:
        own = [_find_weights(name, weights)]
    if not own:
        return Preprocessing()
    transforms = own[0].transforms()
    return Preprocessing(
        mean=tuple(transforms.mean),
        std=tuple(transforms.std),
        interpolation=transforms.interpolation.value,
        size=transforms.crop_size[0],
        resize=transforms.resize_size[0],
    )


def _check_name(name: str) -> None:
    if name not in (known := models.list_models(module=models)):
        close = difflib.get_close_matches(str(name), known) or ["resnet50", "efficientnet_b0", "convnext_tiny"]
        raise InputError(f"unknown backbone {name!r}: torchvision has {', '.join(close)} and others")


def _find_weights(name: str, weights: str) -> Any:
    choices: Mapping[str, Any] = models.get_model_weights(name).__members__
    if weights not in choices:
        raise InputError(f"unknown weights {weights!r} for {name}: use {', '.join(choices)} or the path of a file")
    return choices[weights]


def _build(name: str, weights: str | None) -> nn.Module:
    network: nn.Module
    if weights is None:
        network = models.get_model(name)
        return network
    found = _find_weights(name, weights)
    file_name, folder = Path(found.url).name, Path(torch.hub.get_dir()) / "checkpoints"
    try:
        network = models.get_model(name, weights=found)
    except Exception as error:  # no network, or an incomplete file there: see read_state_dict
        raise InputError(
            f"the weights {weights} of {name} could not be downloaded or read ({shorten_error(error)}): fetch "
            f"{file_name} on a machine with a network and put it into {folder}, or give its path as weights"
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
