"""What the callback adds to a training step of the divided stage, as a share of a step without it.

In one real fit every divided step is followed by a step of a copy of the module without the callback, on the same
batch: forward, miner, loss, backward, optimiser. The cost is what is spent inside of the callback's and the narrowing's
hooks, and backwards through the narrowing. (A difference of two whole steps would hide it: the narrowed loss and miner
are cheaper than the full ones.) That of learned masks leaves out their own gradient, push and step.
"""

from __future__ import annotations

import time
from copy import deepcopy
from functools import partial
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from measuring import Goal, Row, compare, run_alone
from pytorch_lightning.profilers import SimpleProfiler
from pytorch_metric_learning.losses import BaseMetricLossFunction, MarginLoss
from pytorch_metric_learning.miners import BaseMiner, DistanceWeightedMiner
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from divconq_pl import DivideConquerCallback, DivideConquerModule
from divconq_pl.backbones import small


def make_images(classes: int, per_class: int) -> TensorDataset:
    """Draw images of the glyphs' size, (N, 1, 32, 32), noise around a picture of their class."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(classes).repeat_interleave(per_class)
    pictures = torch.randn(classes, 1, 32, 32, generator=generator)
    noise = torch.randn(len(labels), 1, 32, 32, generator=generator)
    return TensorDataset(pictures[labels] + noise, labels)


class Stopwatch(pl.Callback):
    """Time the narrowing's hooks of every step, then a step of a module without the callback.

    Args:
        plain: the module without the callback.
    """

    def __init__(self, plain: DivideConquerModule) -> None:
        self._plain = plain
        self._optimizer = plain.configure_optimizers()
        self._began = 0.0
        self._narrowing = 0.0
        self.narrowing_seconds: list[float] = []
        self.plain_seconds: list[float] = []

    def _start(self, *_: Any) -> None:
        self._began = time.process_time()

    def _stop(self, *_: Any) -> None:
        self._narrowing += time.process_time() - self._began

    def _stop_entering(self, part: nn.Module, inputs: tuple[Any, ...]) -> None:
        self._stop()
        node = inputs[0].grad_fn  # of the narrowed embeddings
        node.register_prehook(self._start)
        node.register_hook(self._stop)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put a clock before and after the hooks of all losses and miners."""
        for part in pl_module.modules():
            if isinstance(part, (BaseMetricLossFunction, BaseMiner)):
                part.register_forward_pre_hook(self._start, prepend=True)
                part.register_forward_pre_hook(self._stop_entering)
                part.register_forward_hook(self._start, prepend=True)
                part.register_forward_hook(self._stop)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Note what the narrowing took, and take a plain step."""
        self.narrowing_seconds.append(self._narrowing)
        self._narrowing = 0.0
        began = time.process_time()
        images, labels = batch
        embeddings = self._plain(images)
        loss: Tensor = self._plain.loss(embeddings, labels, self._plain.miner(embeddings, labels))  # type: ignore[misc]
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        self.plain_seconds.append(time.process_time() - began)


def make_module(width: int) -> DivideConquerModule:
    """Return the small network with margin loss and distance-weighted miner."""
    return DivideConquerModule(
        small(),
        width,
        MarginLoss(beta=1.2, learn_beta=False),
        DistanceWeightedMiner(),
        optimizer=partial(torch.optim.Adam, lr=1e-4),
    )


def make_trainer(epochs: int, *callbacks: pl.Callback, **options: Any) -> pl.Trainer:
    """Return a Trainer that does nothing but train."""
    return pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )


class ProcessorProfiler(SimpleProfiler):
    """Take the processor's time instead of the clock's."""

    def start(self, action_name: str) -> None:
        """Begin to take the time of an action."""
        self.current_actions[action_name] = time.process_time()

    def stop(self, action_name: str) -> None:
        """Note the time of an action."""
        began = self.current_actions.pop(action_name)
        self.recorded_durations[action_name].append(time.process_time() - began)


def measure(
    subspaces: Literal["fixed", "learned"], images: TensorDataset, batch: int, steps: int, warm_up: int
) -> dict[str, list[float]]:
    """Fit, and return the seconds of each step after the first ones."""
    torch.manual_seed(0)
    loader = DataLoader(images, batch_size=batch, shuffle=True)
    module = make_module(128)
    epochs = -(-(steps + warm_up) // len(loader))
    callback = DivideConquerCallback(
        split_depth=2, flat=True, warmup_epochs=0, every_n_epochs=epochs, merge_at=None, subspaces=subspaces
    )
    stopwatch, profiler = Stopwatch(deepcopy(module)), ProcessorProfiler()
    trainer = make_trainer(epochs, callback, stopwatch, profiler=profiler)
    trainer.fit(module, loader)
    assert callback.stage.phase == "divided"
    of_the_callback = f"[Callback]{callback.state_key}."
    hooks = [  # those called once in every step, also the empty ones
        seconds
        for name, seconds in profiler.recorded_durations.items()
        if name.startswith(of_the_callback) and len(seconds) == trainer.global_step
    ]
    in_hooks = [sum(step) for step in zip(*hooks, strict=True)]
    both = [sum(step) for step in zip(in_hooks, stopwatch.narrowing_seconds, strict=True)]
    seconds = {
        "a step without the callback": stopwatch.plain_seconds,
        "the callback's hooks": in_hooks,
        "narrowing": stopwatch.narrowing_seconds,
        "both": both,
    }
    return {name: values[warm_up:] for name, values in seconds.items()}


def rows(device: str = "cpu", quick: bool = False) -> list[Row]:
    """Measure slices, then learned masks; the processor's time counts."""
    images, batch, steps, warm_up = (make_images(16, 8), 16, 2, 1) if quick else (make_images(160, 12), 64, 100, 20)
    kinds: dict[str, Literal["fixed", "learned"]] = {"fixed subspaces": "fixed", "learned masks": "learned"}
    result = []
    for name, subspaces in kinds.items():
        seconds = measure(subspaces, images, batch, steps, warm_up)
        work = f"small network, batch of {batch}, {name}"
        result += compare("overhead", work, seconds, goals={"both": Goal(0.03)})
    return result


if __name__ == "__main__":
    run_alone(rows)
