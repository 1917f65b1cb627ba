"""The layer of a module that gives the embedding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pytorch_metric_learning.losses import BaseMetricLossFunction
from torch import Tensor, nn

from divconq_pl.errors import InputError
from divconq_pl.lightning.tracing import Trace, choose_call, describe_consumers, find_norms
from divconq_pl.losses.masking import embedding_dim
from divconq_pl.losses.narrowing import PARTS

Side = Literal["input", "output", "returned"]
"""What the features of a batch are: what goes into the embedding layer, what comes out of it, what `embed` returns."""

WIDTHS = ("out_features", "num_features", "out_channels", "embedding_dim")


@dataclass(frozen=True)
class Embedding:
    """The layer that gives the embedding, and what was seen of its use.

    Attributes:
        name: dotted name of the layer.
        layer: the layer.
        width: width of what it gives.
        consumers: what consumes the embedding, in words.
        has_unknown: whether something does that is no loss that can be narrowed.
        feeds_losses: whether the known losses are given the embedding, and not what another layer makes of it.
        norms: batch normalisations that the embedding goes into.
        is_traced: whether that was seen in a training step.
    """

    name: str
    layer: nn.Module
    width: int
    consumers: str
    has_unknown: bool = False
    feeds_losses: bool = True
    norms: Sequence[nn.Module] = ()
    is_traced: bool = False


def find_embedding(module: nn.Module, name: str | None, trace: Trace | None) -> Embedding:
    """Find the embedding layer by its name or place, and by what the losses are given in a training step.

    Args:
        module: the user's module.
        name: dotted name of the layer, None to find it.
        trace: of a training step, None if none could be traced.

    Raises:
        InputError: if there is no such layer, or the one that is named does not give what the losses are given.
    """
    modules = dict(module.named_modules())
    failure, taken = None, None
    try:
        taken = find_embedding_layer(module, name)
    except InputError as error:
        if trace is None or (name is not None and name not in modules):
            raise
        failure = error
    layer = modules[name] if name is not None else taken[1] if taken else None
    is_named = name is not None or (taken is not None and taken[0] == "embedding")
    call = None if trace is None else choose_call(trace, layer, is_named=is_named, is_wanted=name is not None)
    if trace is None or call is None:
        if failure is not None:
            raise failure
        assert taken is not None
        if trace is not None and not trace.of(taken[1]):
            raise InputError(
                f"{taken[0]!r} of {type(module).__name__}, {taken[2]} wide, is taken for the embedding layer and does "
                "not run in training_step; name the layer that gives the embedding with embedding='...'"
            )
        return Embedding(*taken, consumers=f"a function in {type(module).__name__}.training_step")
    values = call.outputs[0]
    goal = trace.given[0].shape[-1] if trace.given else None
    width = values.shape[embedding_dim(values, call.module, goal)]
    if name is not None and call.module is not layer:
        gives = f"{taken[2]} wide, " if taken else ""
        raise InputError(
            f"embedding={name!r} names a layer, {gives}that does not give what the losses are given, which is {width} "
            f"wide and comes from {call.name!r}; use embedding={call.name!r}"
        )
    outputs = [output for own in trace.of(call.module) for output in own.outputs]
    return Embedding(
        name if name is not None else taken[0] if taken and call.module is taken[1] else call.name,
        call.module,
        width,
        describe_consumers(trace, call.module, module),
        trace.loss is not None and trace.reaches(trace.loss, outputs, around=trace.results),
        trace.is_given(outputs),
        find_norms(trace, call.module, width),
        is_traced=True,
    )


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
    losses = tuple(f"{n}." for n, part in modules.items() if isinstance(part, PARTS))
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


def feature_of(side: Side, inputs: tuple[Any, ...], output: Any) -> Any:
    """Return what is clustered, of what goes into the layer and comes out of it.

    What goes into a whole backbone are images; its features are what comes out.
    """
    given = inputs[0] if inputs and side == "input" else None
    return given if isinstance(given, Tensor) and given.ndim == 2 else output


def _width(layer: nn.Module) -> int | None:
    """Return the width of what a layer gives, by its own word or by that of its last part that has one."""
    widths = (_declared_width(part) for part in (layer, *reversed(list(layer.modules()))))
    return next((width for width in widths if width is not None), None)


def _declared_width(layer: nn.Module) -> int | None:
    found = (getattr(layer, attribute, None) for attribute in WIDTHS)
    return next((width for width in found if isinstance(width, int)), None)
