"""A small network that needs no trained weights."""

from __future__ import annotations

import itertools
from typing import Literal

from torch import nn

from divconq_pl.backbones.backbone import Backbone
from divconq_pl.backbones.weights import load_weights, read_state_dict
from divconq_pl.errors import InputError

GROUPS = 8


def small(
    in_channels: int = 1, width: int = 32, norm: Literal["batch", "group"] = "batch", weights: str | None = None
) -> Backbone:
    """Build a network of four convolutions that trains from scratch on 32 x 32 images on a CPU.

    Args:
        in_channels: 1 for the glyphs, 3 for colour.
        width: channels after the first convolution; they double with each of the others.
        norm: ``"batch"`` normalises by the statistics of the batch, ``"group"`` each image by its own, in 8 groups of
            channels, so that what becomes of an image does not hang on the batch it is in.
        weights: path of a checkpoint of an earlier run, or of a state dict; None for random ones.

    Returns:
        Backbone with ``8 * width`` features, for images of at least 8 x 8 pixels.

    Raises:
        InputError: if there is no such file, or it does not fit; if there is no such ``norm``, or groups of equal size
            cannot be made.

    Example:
        >>> import torch
        >>> backbone = small()
        >>> backbone(torch.zeros(2, 1, 32, 32)).shape == (2, backbone.out_features)
        True
    """
    if norm not in ("batch", "group"):
        raise InputError(f"norm={norm!r} is unknown; choose 'batch' or 'group'")
    if norm == "group" and width % GROUPS:
        raise InputError(f"width={width} is no multiple of {GROUPS}, which norm='group' needs")
    layers: list[nn.Module] = []
    channels = [in_channels, width, 2 * width, 4 * width, 8 * width]
    for position, (before, after) in enumerate(itertools.pairwise(channels)):
        if position:
            layers.append(nn.MaxPool2d(2))
        normalise = nn.BatchNorm2d(after) if norm == "batch" else nn.GroupNorm(GROUPS, after)
        layers += [nn.Conv2d(before, after, 3, padding=1, bias=False), normalise, nn.ReLU(inplace=True)]
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    if weights is not None:
        load_weights(network, read_state_dict(weights), weights)
    return Backbone(network, channels[-1])
