"""Gradient checkpointing: activations inside a block are computed again in the backward pass instead of kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from divconq_pl.backbones.blocks import layers_in_order


def recompute_blocks(network: nn.Module) -> None:
    """Let the blocks of a network keep their inputs only, and compute the rest again in the backward pass.

    Random numbers are the same both times, and BatchNorm sees a batch once (timm's own ``set_grad_checkpointing`` would
    update its statistics twice). The names in the state dict stay; bare layers outside of blocks stay as they are.

    Args:
        network: the network, which is changed in place.

    Source: Chen et al., Training Deep Nets with Sublinear Memory Cost, 2016.
    """
    for block in dict.fromkeys(layers_in_order(network)):
        if next(block.children(), None) is not None:
            # With the module as an argument, not bound to it, a copy of the network recomputes its own blocks.
            block.forward = partial(_recompute_forward, block)


def _recompute_forward(block: nn.Module, *args: Any, **kwargs: Any) -> Any:
    forward = partial(type(block).forward, block)
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)

    def first_and_second() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _keep_statistics(block)

    # A DenseNet goes on to fill the list that it gives to its layers.
    inputs = [list(value) if isinstance(value, list) else value for value in args]
    return checkpoint(forward, *inputs, use_reentrant=False, context_fn=first_and_second, **kwargs)


@contextmanager
def _keep_statistics(block: nn.Module) -> Iterator[None]:
    """Let BatchNorm layers update copies of their statistics, which are then thrown away."""
    layers = [part for part in block.modules() if isinstance(part, _BatchNorm) and part.training]
    kept = [(layer, name, value) for layer in layers for name, value in layer.named_buffers(recurse=False)]
    for layer, name, value in kept:
        setattr(layer, name, value.clone())
    try:
        yield
    finally:
        for layer, name, value in kept:
            setattr(layer, name, value)
