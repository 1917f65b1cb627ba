"""One batch and one step of a training, outside of its loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers.logger import DummyLogger
from pytorch_lightning.utilities.signature_utils import is_param_in_hook_signature
from torch import Tensor
from torch.utils._pytree import tree_unflatten
from torch.utils.data import DataLoader, Dataset, IterableDataset

from divconq_pl.lightning._trainer import loaders


def load_batch(loader: DataLoader[Any], indices: list[int], dataset: Dataset[Any] | None = None) -> Any:
    """Load the images with these indices as ``loader`` would, as one batch, not yet transferred.

    The loader's own iterator is not touched. A loader with workers is given one of its own for this, since a data set
    may not bear to be read in the main process before they start.
    """
    changes: dict[str, Any] = {
        "num_workers": min(loader.num_workers, 1),
        "persistent_workers": False,
        "generator": None,
    }
    if not loader.num_workers:
        changes["prefetch_factor"] = None
    twin = loaders.with_batches(loader, [indices], dataset=loader.dataset if dataset is None else dataset, **changes)
    return next(iter(twin))


def load_training_batch(trainer: pl.Trainer, loader: DataLoader[Any], indices: list[int]) -> Any:
    """Load a batch as ``training_step`` is given it, beside batches of any other loaders, not yet transferred.

    Returns:
        None if another loader is none that can be read without its losing its place.
    """
    combined = trainer.fit_loop._combined_loader
    assert combined is not None
    batches = [load_batch(loader, indices)]
    for other in combined.flattened[1:]:
        if not isinstance(other, DataLoader) or isinstance(other.dataset, IterableDataset) or not other.batch_sampler:
            return None
        size = getattr(other.batch_sampler, "batch_size", None) or 1
        batches.append(load_batch(other, list(range(min(size, len(other.dataset))))))  # type: ignore[arg-type]
    return tree_unflatten(batches, combined._spec)


def transfer(trainer: pl.Trainer, batch: Any) -> Any:
    """Bring a batch to the device, through the hooks of the module or data module."""
    batch = trainer.precision_plugin.convert_input(batch)
    batch = trainer.lightning_module._on_before_batch_transfer(batch, dataloader_idx=0)
    return trainer.strategy.batch_to_device(batch, dataloader_idx=0)


def run_training_step(trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any) -> Any:
    """Run ``training_step`` on a batch by itself, in :func:`silenced`.

    Returns:
        Its loss, or the sum of what it gives to ``manual_backward``; None if there is neither.
    """
    numbered = is_param_in_hook_signature(pl_module.training_step, "batch_idx", min_args=2)
    arguments = (batch, 0) if numbered else (batch,)
    losses: list[Tensor] = []

    def backward(loss: Tensor, *args: Any, **kwargs: Any) -> None:  # the step may go on with its gradients
        losses.append(loss)
        if loss.requires_grad:
            loss.backward(*args, **{**kwargs, "retain_graph": True})

    vars(pl_module)["manual_backward"] = backward
    with torch.enable_grad(), trainer.precision_plugin.train_step_context():
        output = pl_module.training_step(*arguments)
    if losses:
        return torch.stack([loss.sum() for loss in losses]).sum()
    return output.get("loss") if isinstance(output, dict) else output


@contextmanager
def silenced(trainer: pl.Trainer, pl_module: pl.LightningModule) -> Iterator[None]:
    """Let nothing that the module logs be logged, no optimiser or schedule step, and compiled code run uncompiled."""
    given, own = trainer.loggers, vars(pl_module)
    still: dict[str, Any] = dict.fromkeys(
        ("log", "log_dict", "clip_gradients", "toggle_optimizer", "untoggle_optimizer"), _ignore
    )
    still |= {name: _standing_still(getattr(pl_module, name)) for name in ("optimizers", "lr_schedulers")}
    before = {name: own[name] for name in (*still, "manual_backward") if name in own}
    own.update(still)
    trainer.loggers = [DummyLogger() for _ in given]
    try:
        with torch.compiler.set_stance("force_eager"):
            yield
    finally:
        trainer.loggers = given
        for name in (*still, "manual_backward"):
            own.pop(name, None)
        own.update(before)


def _ignore(*args: Any, **kwargs: Any) -> None:
    """Take the place of a method that has effects only."""


def _standing_still(get: Callable[..., Any]) -> Callable[..., Any]:
    """Return what gives the same optimisers or schedules, which do not step."""

    def get_still(*args: Any, **kwargs: Any) -> Any:
        found = get(*args, **kwargs)
        if isinstance(found, list):
            return [_Still(each) for each in found]
        return None if found is None else _Still(found)

    return get_still


class _Still:
    """An optimiser or schedule that can be asked anything and does nothing."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def step(self, *args: Any, closure: Any = None, **kwargs: Any) -> Any:
        """Compute what a step would begin with."""
        closure = next((value for value in args if callable(value)), closure)
        return None if closure is None else closure()

    def zero_grad(self, *args: Any, **kwargs: Any) -> None:
        """Keep the gradients."""

    @contextmanager
    def toggle_model(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        """Leave what requires a gradient as it is."""
        yield
