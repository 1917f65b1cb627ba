"""Networks of timm, by name: vision transformers, ConvNeXts and many more; ``pip install "divconq-pl[timm]"``."""

from __future__ import annotations

import difflib
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from divconq_pl.backbones.backbone import Backbone
from divconq_pl.backbones.preprocessing import Preprocessing
from divconq_pl.backbones.weights import (
    drop_layers,
    find_differences,
    load_weights,
    looks_like_path,
    read_state_dict,
    shorten_error,
)
from divconq_pl.errors import InputError


def timm_backbone(
    name: str,
    weights: str | None = None,
    in_channels: int = 3,
    freeze_batchnorm: bool | None = None,
    grad_checkpointing: bool = False,
    image_size: int | Sequence[int] | None = None,
) -> Backbone:
    """Build a network of timm up to its pooled features.

    Args:
        name: as timm names it, with or without a tag: ``vit_small_patch16_224.dino``, ``convnext_tiny``, ...
        weights: None for random ones; ``"DEFAULT"`` for those of the tag in the name, or else timm's first choice;
            another of timm's tags; these are downloaded once. Or the path of a file: timm's own, also as
            ``.safetensors``, or one of the original authors that timm can convert.
        in_channels: other than 3, the weights of the first convolution are adapted, as timm does it.
        freeze_batchnorm: see :class:`.Backbone`; by default where there are trained weights.
        grad_checkpointing: see :class:`.Backbone`.
        image_size: height and width of the images in pixels, one number or two, where the network is made for one size
            (vision transformers: position embeddings are resampled to it); by default that of the weights.

    Returns:
        Backbone whose ``out_features`` is the width of the pooled features: 384 for ViT-S.

    Raises:
        InputError: if timm is missing; for an unknown name, unknown weights, weights that cannot be downloaded, a file
            that does not fit, or a size that the network cannot be built for.
    """
    timm = _import_timm()
    path = weights if weights is not None and looks_like_path(weights) else None
    full_name, config = _find(timm, name, None if path else weights)
    options: dict[str, Any] = {"num_classes": 0, "in_chans": in_channels}
    if image_size is not None and config.get("fixed_input_size"):
        options["img_size"] = image_size if isinstance(image_size, int) else tuple(image_size)
    network: Any = _build(timm, full_name, options, config if weights is not None and not path else None)
    if path:
        load_timm_weights(network, read_state_dict(path), path)
    freeze = weights is not None if freeze_batchnorm is None else freeze_batchnorm
    width: int = getattr(network, "head_hidden_size", network.num_features)
    return Backbone(network, width, freeze_batchnorm=freeze, grad_checkpointing=grad_checkpointing)


def timm_preprocessing(name: str, weights: str | None = None) -> Preprocessing:
    """Return what weights of timm expect of images, without building the network or loading anything.

    Args:
        name: of the network.
        weights: as for :func:`.timm_backbone`; for None or a file, the weights that the name stands for.

    Raises:
        InputError: if timm is missing, for an unknown name or unknown weights.
    """
    timm = _import_timm()
    is_tag = weights is not None and not looks_like_path(weights)
    expected = timm.data.resolve_data_config(pretrained_cfg=_find(timm, name, weights if is_tag else None)[1])
    size = expected["input_size"][-1]
    return Preprocessing(
        mean=tuple(expected["mean"]),
        std=tuple(expected["std"]),
        interpolation=expected["interpolation"],
        size=size,
        resize=math.floor(size / expected["crop_pct"]),
        squash=expected["crop_mode"] == "squash",
    )


def load_timm_weights(network: Any, state: Mapping[str, Any], path: str | Path) -> None:
    """Load weights into a network of timm, converted as timm converts those it downloads.

    Args:
        network: of timm, without a classifier.
        state: name -> tensor; names of the original authors, another number of channels and position embeddings for
            another image size are converted where timm can do it.
        path: where it comes from.

    Raises:
        InputError: if it does not fit.
    """
    config = network.pretrained_cfg
    classifier = _as_tuple(config.get("classifier"))
    if find_differences(drop_layers(state, classifier), network.state_dict()):
        state = _convert(network, state, _as_tuple(config.get("first_conv")), path)
    load_weights(network, drop_layers(state, classifier), path)


def _convert(network: Any, state: Mapping[str, Any], first: tuple[str, ...], path: str | Path) -> dict[str, Any]:
    convert = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
    try:
        converted = dict(convert(state, network) if convert else state)
        for name in first:
            weight, channels = converted.get(f"{name}.weight"), network.get_submodule(name).in_channels
            if weight is not None and weight.shape[1] != channels:
                converted[f"{name}.weight"] = _import_timm().models.adapt_input_conv(channels, weight)
    except Exception as error:  # a conversion is written for certain files, and fails on others in many ways
        raise InputError(f"{path} cannot be converted to {type(network).__name__}: {shorten_error(error)}") from error
    return converted


def _import_timm() -> ModuleType:
    try:
        import timm
    except ImportError as error:
        raise InputError(
            'timm, which brings this backbone, is not installed: pip install "divconq-pl[timm]"'
        ) from error
    module: ModuleType = timm
    return module


def _find(timm: ModuleType, name: str, weights: str | None) -> tuple[str, dict[str, Any]]:
    """Return a network's name with the tag of its weights, and what timm knows about them."""
    architecture, _, tag = str(name).partition(".")
    if not timm.is_model(architecture):
        known = timm.list_models()
        close = difflib.get_close_matches(architecture, known) or ["vit_small_patch16_224", "convnext_tiny"]
        raise InputError(f"unknown backbone {name!r}: timm has {', '.join(close)} and others")
    tag = tag if weights in (None, "DEFAULT") else str(weights)
    tags = [full.partition(".")[2] for full in timm.list_pretrained(f"{architecture}.*")]
    if tag and tag not in tags:
        raise InputError(
            f"Unknown weights {tag!r} for {architecture}: use {', '.join([*tags, 'DEFAULT'])} or the path of a file"
        )
    if weights is not None and not tags:
        raise InputError(f"timm has no weights for {architecture}: give the path of a file")
    full_name = f"{architecture}.{tag}" if tag else architecture
    config = timm.get_pretrained_cfg(full_name)
    return full_name, {} if config is None else config.to_dict()


def _build(timm: ModuleType, name: str, options: dict[str, Any], trained: dict[str, Any] | None) -> nn.Module:
    """Build a network; with the weights that ``trained`` describes, unless it is None."""
    try:
        network: nn.Module = timm.create_model(name, pretrained=trained is not None, **options)
    except Exception as error:
        if trained is None and "img_size" in options:
            size = options["img_size"]
            height, width = (size, size) if isinstance(size, int) else size
            raise InputError(
                f"{name} cannot be built for images of {height} x {width} pixels "
                f"({shorten_error(error)}): use its own size, image_size=null"
            ) from error
        if trained is None:
            raise
        raise InputError(
            f"the weights of {name} could not be downloaded or read ({shorten_error(error)}): fetch "
            f"{_name_source(trained)} on a machine with a network, and give its path as weights"
        ) from error
    return network


def _name_source(trained: dict[str, Any]) -> str:
    if hub_id := trained.get("hf_hub_id"):
        return f"{trained.get('hf_hub_filename') or 'model.safetensors'} of {hub_id} on the Hugging Face Hub"
    return f"{Path(str(trained.get('url'))).name} ({trained.get('url')})"


def _as_tuple(value: str | tuple[str, ...] | None) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value or ())
