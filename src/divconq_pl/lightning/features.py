"""The feature pass: what the images of a data set look like to the network right now."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from divconq_pl.errors import InputError


@torch.no_grad()
def extract_features(
    module: nn.Module,
    layer: nn.Module,
    batches: Iterable[Any],
    forward: Callable[[Any], object],
    take: Callable[[Tensor], object],
    *,
    side: Literal["input", "output"] = "input",
) -> None:
    """Collect what goes into (or comes out of) a layer, batch by batch, L2-normalised.

    The module is in evaluation mode meanwhile; every submodule has its own mode back afterwards.

    Args:
        module: the network.
        layer: the embedding layer, a submodule of it. Its input are the penultimate features.
        batches: batches of the data.
        forward: runs the network on a batch.
        take: is given the features of each batch, float32, shape (B, D), on the device of the network.
        side: side of the layer to look at; the output where the input is not one vector per image.

    Raises:
        InputError: if the layer does not run exactly once per batch, or does not give vectors.
    """
    collected: list[Tensor] = []

    def look(_: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        # What goes into a whole backbone are images; its features are what comes out.
        collected.append(inputs[0] if side == "input" and inputs[0].ndim == 2 else output)

    handle = layer.register_forward_hook(look)
    try:
        with evaluating(module):
            for batch in batches:
                forward(batch)
                if len(collected) != 1:
                    raise InputError(
                        f"the embedding layer ran {len(collected)} times in one forward pass of "
                        f"{type(module).__name__}; name the layer that gives the embedding with embedding='...'"
                    )
                features = collected.pop()
                if features.ndim != 2:
                    raise InputError(
                        f"the embedding layer {type(layer).__name__} gives a tensor of shape {tuple(features.shape)}, "
                        "not one vector per image; name the layer that gives the embedding with embedding='...'"
                    )
                take(nn.functional.normalize(features.float()))
    finally:
        handle.remove()


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put a module into evaluation mode, and every submodule back into its own mode afterwards."""
    modes = {submodule: submodule.training for submodule in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for submodule, training in modes.items():
            submodule.training = training
