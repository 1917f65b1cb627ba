"""How a batch becomes features: by the module's forward pass, by its training step, or by the user's word."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from divconq_pl.lightning._trainer import trial
from divconq_pl.lightning.embedding_layer import Side, feature_of


@dataclass(frozen=True)
class Way:
    """How the features of a batch are got.

    Attributes:
        run: runs the network on a batch.
        side: what the features are: what goes into the embedding layer, what comes out of it, or what ``run`` returns.
    """

    run: Callable[[Any], Any]
    side: Side


def by_training_step(trainer: pl.Trainer, pl_module: pl.LightningModule, layer: nn.Module) -> Callable[[Any], None]:
    """Return what runs ``training_step`` on a batch until the embedding layer has run, and no further.

    So no loss, memory bank or optimiser hears of it.
    """

    def run(batch: Any) -> None:
        with trial.silenced(trainer, pl_module), _stopping_after(layer), torch.no_grad():
            trial.run_training_step(trainer, pl_module, batch)

    return run


class _LayerHasRun(BaseException):
    """Ends a training step."""


@contextmanager
def _stopping_after(layer: nn.Module) -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise _LayerHasRun

    handle = layer.register_forward_hook(stop)
    try:
        yield
    except _LayerHasRun:
        pass
    finally:
        handle.remove()


def features_of(collected: list[tuple[tuple[Any, ...], Any]], returned: Any, side: Side) -> Tensor | None:
    """Return the features among what the embedding layer's runs were given and gave, and the network returned.

    Args:
        collected: input and output of each run of the layer; the first one counts.
        returned: what the network returned.
        side: what to take; the output where the input is not one vector per item.

    Returns:
        None if that is no tensor of one vector for each item.
    """
    found = returned
    if side != "returned":
        found = feature_of(side, *collected[0]) if collected else None
    return found if isinstance(found, Tensor) and found.ndim == 2 else None


def describe_no_features(
    module: nn.Module, layer: nn.Module, collected: list[tuple[tuple[Any, ...], Any]], returned: Any, side: Side
) -> str:
    """Say why there are no features, and what would work."""
    advice = "name the layer that gives the embedding with embedding='...', or override embed(module, batch)"
    if side == "returned":
        return f"embed(module, batch) returned {_describe(returned)}, not one vector per item"
    if not collected:
        return f"the embedding layer did not run in a forward pass of {type(module).__name__}; {advice}"
    gave = _describe(collected[0][1])
    return f"the embedding layer {type(layer).__name__} gives {gave}, not one vector per image; {advice}"


def _describe(value: Any) -> str:
    return f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
