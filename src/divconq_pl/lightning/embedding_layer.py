"""The layer of a module that gives the embedding."""

from __future__ import annotations

from typing import Any, Literal

from pytorch_metric_learning.losses import BaseMetricLossFunction
from pytorch_metric_learning.miners import BaseMiner
from torch import Tensor, nn

from divconq_pl.errors import InputError

Side = Literal["input", "output"]

WIDTHS = ("out_features", "num_features", "out_channels", "embedding_dim")


def find_embedding_layer(module: nn.Module, name: str | None = None) -> tuple[str, nn.Module, int]:
    """Find the layer that gives the embedding.

    Args:
        module: the user's module.
        name: dotted name of the layer; by default ``embedding`` if there is such a submodule, otherwise the last linear
            layer outside the losses, otherwise the last submodule that tells its width: pooled features of a backbone.

    Returns:
        The layer's name, the layer, and the width of what it gives.

    Raises:
        InputError: if there is no such layer, or its width cannot be told.
    """
    modules = {n: part for n, part in module.named_modules(remove_duplicate=False) if n}
    losses = tuple(f"{n}." for n, part in modules.items() if isinstance(part, (BaseMetricLossFunction, BaseMiner)))
    layers = {n: part for n, part in modules.items() if not f"{n}.".startswith(losses or "\0")}
    linear = [n for n, part in layers.items() if isinstance(part, nn.Linear)]
    if name is not None and name not in modules:
        raise InputError(
            f"{type(module).__name__} has no layer {name!r}, which embedding= names; "
            f"its linear layers are {', '.join(linear) or 'none'}"
        )
    if name is None:
        children = [n for n, _ in module.named_children() if n in layers and _width(layers[n])]
        own = layers.get("embedding")
        is_table = isinstance(own, (nn.Embedding, nn.EmbeddingBag))  # of a text model's tokens: its first layer
        top = linear[-1].partition(".")[0] if linear else None
        if top and _declared_width(layers[top]) == _width(layers[linear[-1]]):
            linear.append(top)  # a backbone without a classifier, whose last linear layer is one of its blocks'
        named = ["embedding"] if own is not None and not is_table else []
        name = next(iter([*named, *linear[-1:], *children[-1:]]), None)
    if name is None or (width := _width(modules[name])) is None:
        raise InputError(
            f"{type(module).__name__} has no layer that is known to give the embedding"
            + (f": {name!r} ({type(modules[name]).__name__}) has no out_features" if name else "")
            + "; name a linear layer, or one with an attribute out_features, with embedding='...'"
        )
    return name, modules[name], width


def find_backbone_parameters(module: nn.Module, layer: nn.Module) -> list[nn.Parameter]:
    """Return all parameters but those of the embedding layer and the losses."""
    kept = [part for part in module.modules() if part is layer or isinstance(part, BaseMetricLossFunction)]
    ids = {id(parameter) for part in kept for parameter in part.parameters()}
    return [parameter for parameter in module.parameters() if id(parameter) not in ids]


def feature_of(side: Side, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
    """Return what is clustered, of what goes into the layer and comes out of it.

    What goes into a whole backbone are images; its features are what comes out.
    """
    return inputs[0] if side == "input" and inputs[0].ndim == 2 else output


def _width(layer: nn.Module) -> int | None:
    """Return the width of what a layer gives, by its own word or by that of its last part that has one."""
    widths = (_declared_width(part) for part in (layer, *reversed(list(layer.modules()))))
    return next((width for width in widths if width is not None), None)


def _declared_width(layer: nn.Module) -> int | None:
    found = (getattr(layer, attribute, None) for attribute in WIDTHS)
    return next((width for width in found if isinstance(width, int)), None)
