"""A small network that needs no trained weights."""

from __future__ import annotations

import itertools

from torch import nn

from divconq_pl.backbones.backbone import Backbone


def small(in_channels: int = 1, width: int = 32) -> Backbone:
    """Build a network of four convolutions that trains from scratch on 32 x 32 images on a CPU.

    Args:
        in_channels: 1 for the glyphs, 3 for colour.
        width: channels after the first convolution; they double with each of the others.

    Returns:
        Backbone with ``8 * width`` features, for images of at least 8 x 8 pixels.

    Example:
        >>> import torch
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
    return Backbone(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()), channels[-1])
