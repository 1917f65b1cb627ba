"""Time what the callback adds to a training step of the divided stage, as a share of a step without it.

    python benchmarks/overhead.py --steps 100 --threads 1

In one real fit every divided step is followed by a step of a copy of the module without the callback, on the same
batch: forward, miner, loss, backward, optimiser. The cost is what is spent inside of the callback's and the narrowing's
hooks, and backwards through the narrowing. (A difference of two whole steps would hide it: the narrowed loss and miner
are cheaper than the full ones.) That of learned masks leaves out their own gradient, push and step.

    python benchmarks/overhead.py --whole-runs 3 --threads 1

Time whole trainings, all divisions included, as ratios to the plain one: 12 epochs with the callback's defaults,
divided on what a pass over the images makes of them and on what training has made. They take turns, plain first, and
the processor's time counts, which other programs disturb less. What is spent in the callback's hooks, where the
divisions are, is printed as a share of the rest of the same run, too: that moves least.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import time
import warnings
from copy import deepcopy
from functools import partial
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.profilers import SimpleProfiler
from pytorch_metric_learning.losses import BaseMetricLossFunction, MarginLoss
from pytorch_metric_learning.miners import BaseMiner, DistanceWeightedMiner
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from divconq_pl import DivideConquerCallback, DivideConquerModule
from divconq_pl.backbones import small

WARM_UP = 20


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
        self._began = time.perf_counter()

    def _stop(self, *_: Any) -> None:
        self._narrowing += time.perf_counter() - self._began

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
        began = time.perf_counter()
        images, labels = batch
        embeddings = self._plain(images)
        loss: Tensor = self._plain.loss(embeddings, labels, self._plain.miner(embeddings, labels))  # type: ignore[misc]
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        self.plain_seconds.append(time.perf_counter() - began)


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


def time_whole_runs(images: TensorDataset, arguments: argparse.Namespace) -> None:
    """Train in turns, and print what each kind of training takes."""
    kinds: dict[str, dict[str, Any] | None] = {
        "plain": None,
        "features=exact": {"features": "exact"},
        "features=training": {"features": "training"},
    }
    seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
    for _ in range(arguments.whole_runs):
        for kind, settings in kinds.items():
            torch.manual_seed(0)
            loader = DataLoader(images, batch_size=arguments.batch, shuffle=True)
            options = {"split_depth": arguments.split_depth, "subspaces": arguments.subspaces}
            callbacks = [] if settings is None else [DivideConquerCallback(**options, **settings)]
            profiler = ProcessorProfiler()
            trainer = make_trainer(12, *callbacks, profiler=profiler)
            began = time.process_time()
            trainer.fit(make_module(arguments.width), loader)
            took = time.process_time() - began
            seconds[kind].append(took)
            hooks = sum(
                sum(durations)
                for name, durations in profiler.recorded_durations.items()
                if name.startswith("[Callback]DivideConquerCallback.")
            )
            share = 100 * hooks / (took - hooks)
            print(f"{kind:18} {took:7.1f} s, in the callback {hooks:5.2f} s: {share:.1f} % of the rest", flush=True)
    for kind in list(kinds)[1:]:
        ratios = [own / plain for own, plain in zip(seconds[kind], seconds["plain"], strict=True)]
        spread = f"{min(ratios):.3f} to {max(ratios):.3f}"
        print(f"{kind:18} {statistics.median(ratios):.3f} times the plain training ({spread})")


class ProcessorProfiler(SimpleProfiler):
    """Take the processor's time instead of the clock's."""

    def start(self, action_name: str) -> None:
        """Begin to take the time of an action."""
        self.current_actions[action_name] = time.process_time()

    def stop(self, action_name: str) -> None:
        """Note the time of an action."""
        began = self.current_actions.pop(action_name)
        self.recorded_durations[action_name].append(time.process_time() - began)


def main() -> None:
    """Fit, and print the medians and the share."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--split-depth", type=int, default=2)
    parser.add_argument("--subspaces", choices=["fixed", "learned"], default="fixed")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--whole-runs", type=int, default=0, help="rounds of whole trainings, in place of steps")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    torch.manual_seed(0)

    images = make_images(classes=160, per_class=12)
    if arguments.whole_runs:
        time_whole_runs(images, arguments)
        return
    loader = DataLoader(images, batch_size=arguments.batch, shuffle=True)
    module = make_module(arguments.width)
    epochs = -(-(arguments.steps + WARM_UP) // len(loader))
    callback = DivideConquerCallback(
        split_depth=arguments.split_depth,
        flat=True,
        warmup_epochs=0,
        every_n_epochs=epochs,
        merge_at=None,
        subspaces=arguments.subspaces,
    )
    stopwatch, profiler = Stopwatch(deepcopy(module)), SimpleProfiler()
    trainer = make_trainer(epochs, callback, stopwatch, profiler=profiler)
    trainer.fit(module, loader)
    assert callback.stage.phase == "divided"

    of_the_callback = f"[Callback]{callback.state_key}."
    hooks = [  # those called once in every step, also the empty ones
        seconds
        for name, seconds in profiler.recorded_durations.items()
        if name.startswith(of_the_callback) and len(seconds) == trainer.global_step
    ]
    cost = {"callback": [sum(step) for step in zip(*hooks, strict=True)], "narrowing": stopwatch.narrowing_seconds}
    cost["both"] = [sum(step) for step in zip(*cost.values(), strict=True)]
    plain = statistics.median(stopwatch.plain_seconds[WARM_UP:])
    divided = statistics.median(profiler.recorded_durations["run_training_batch"][WARM_UP:])
    print(f"plain step        {1000 * plain:8.3f} ms")
    print(f"divided step      {1000 * divided:8.3f} ms   (in the Trainer, with its logging)")
    for name, seconds in cost.items():
        median = statistics.median(seconds[WARM_UP:])
        print(f"{name:12}      {1000 * median:8.3f} ms   {100 * median / plain:.2f} % of a plain step")


if __name__ == "__main__":
    main()
