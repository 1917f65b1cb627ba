"""A training step in a bare loop, in plain Lightning, in our module, and divided; fused Adam, bf16, compiled, pinned.

On a CPU the network is so cheap that what surrounds it shows; on a GPU it is a ResNet-50 in bf16.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytorch_lightning as pl
import torch
from measuring import Goal, Row, compare, now, run_alone
from pytorch_metric_learning.losses import MarginLoss
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from divconq_pl import DivideConquerCallback, DivideConquerModule
from divconq_pl.backbones import timm_backbone
from divconq_pl.losses import DistanceWeightedMiner

WARM_UP = 5


def cheap() -> nn.Module:
    """Return two layers."""
    backbone = nn.Sequential(nn.Flatten(), nn.Linear(1024, 512), nn.ReLU())
    backbone.out_features = 512  # type: ignore[assignment]
    return backbone


class Setting:
    """What all contestants train: network, images, batch, number of steps."""

    def __init__(self, device: str, quick: bool) -> None:
        self.device, self.bf16 = device, device != "cpu"
        self.steps = 2 * WARM_UP if quick else 200
        self.batch, size, channels = (64, 32, 1) if device == "cpu" else (112, 224, 3)
        self.backbone = cheap if device == "cpu" else partial(timm_backbone, "resnet50", image_size=size)
        generator = torch.Generator().manual_seed(0)
        labels = torch.arange(10 * self.batch) // 16
        self.images = TensorDataset(torch.randn(len(labels), channels, size, size, generator=generator), labels)
        self.name = f"{'cheap network' if device == 'cpu' else 'ResNet-50, bf16'}, batch of {self.batch}"

    def loader(self, *, pinned: bool = False) -> DataLoader[Any]:
        """Return a loader of shuffled batches."""
        torch.manual_seed(0)
        return DataLoader(self.images, batch_size=self.batch, shuffle=True, drop_last=True, pin_memory=pinned)

    def module(self, optimizer: Callable[..., torch.optim.Optimizer]) -> DivideConquerModule:
        """Return our module."""
        torch.manual_seed(0)
        loss, miner = MarginLoss(beta=1.2, learn_beta=False), DistanceWeightedMiner()
        return DivideConquerModule(self.backbone(), 128, loss, miner, optimizer=partial(optimizer, lr=1e-4))


class Plain(pl.LightningModule):
    """The least that Lightning needs to train the same."""

    def __init__(self, inner: DivideConquerModule) -> None:
        super().__init__()
        self.inner, self.loss, self.miner = nn.Sequential(inner.backbone, inner.embedding), inner.loss, inner.miner

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        """Return the loss."""
        embeddings = self.inner(batch[0])
        loss: Tensor = self.loss(embeddings, batch[1], self.miner(embeddings, batch[1]))  # type: ignore[misc]
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Train everything."""
        return torch.optim.Adam(self.parameters(), lr=1e-4)


class Stopwatch(pl.Callback):
    """Note when the first steps were over, and the last one."""

    def __init__(self, device: str) -> None:
        self._device, self.began, self.ended = device, 0.0, 0.0

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Look at the clock."""
        if trainer.global_step == WARM_UP:
            self.began = now(self._device)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look again."""
        self.ended = now(self._device)


def bare_loop(
    setting: Setting,
    *,
    optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.Adam,
    bf16: bool = False,
    compiled: bool = False,
    pinned: bool = False,
) -> float:
    """Return the seconds of a step of a loop that does nothing else."""
    plain = Plain(setting.module(torch.optim.Adam)).to(setting.device)
    network = torch.compile(plain.inner) if compiled else plain.inner
    steps, done, began = optimizer(plain.parameters(), lr=1e-4), 0, 0.0
    while True:
        for images, labels in setting.loader(pinned=pinned):
            images, labels = (x.to(setting.device, non_blocking=pinned) for x in (images, labels))
            with torch.autocast(setting.device, dtype=torch.bfloat16, enabled=bf16 or setting.bf16):
                embeddings = network(images)
            embeddings = embeddings.float()
            loss = plain.loss(embeddings, labels, plain.miner(embeddings, labels))  # type: ignore[misc]
            steps.zero_grad()
            loss.backward()
            steps.step()
            done += 1
            if done == WARM_UP:
                began = now(setting.device)
            if done == setting.steps:
                return (now(setting.device) - began) / (setting.steps - WARM_UP)


def fit(setting: Setting, module: pl.LightningModule, *callbacks: pl.Callback) -> float:
    """Return the seconds of a step in Lightning."""
    stopwatch = Stopwatch(setting.device)
    trainer = pl.Trainer(
        max_steps=setting.steps,
        accelerator="cpu" if setting.device == "cpu" else "gpu",
        devices=1,
        precision="bf16-mixed" if setting.bf16 else "32-true",
        callbacks=[*callbacks, stopwatch],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, setting.loader())
    return (stopwatch.ended - stopwatch.began) / (setting.steps - WARM_UP)


def rows(device: str = "cpu", quick: bool = False) -> list[Row]:
    """Let short trainings take turns."""
    setting = Setting(device, quick)
    fused = partial(torch.optim.Adam, fused=True)

    def divided() -> float:
        callback = DivideConquerCallback(split_depth=2, flat=True, warmup_epochs=0, every_n_epochs=100, merge_at=None)
        return fit(setting, setting.module(torch.optim.Adam), callback)

    contestants: dict[str, Callable[[], float]] = {
        "bare loop": lambda: bare_loop(setting),
        "bare loop, fused Adam": lambda: bare_loop(setting, optimizer=fused),
        "plain Lightning": lambda: fit(setting, Plain(setting.module(torch.optim.Adam))),
        "our module": lambda: fit(setting, setting.module(torch.optim.Adam)),
        "our module, fused Adam": lambda: fit(setting, setting.module(fused)),
        "our module, divided": divided,
    }
    if device == "cpu":
        contestants["bare loop, bf16"] = lambda: bare_loop(setting, bf16=True)
    else:
        contestants["bare loop, compiled"] = lambda: bare_loop(setting, compiled=True)
        contestants["bare loop, pinned memory"] = lambda: bare_loop(setting, pinned=True)
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(1 if quick else 3):
        for name, train in contestants.items():
            seconds[name].append(train())
    why = "plain Lightning takes most of it; on a network that takes longer it is a smaller share"
    return compare("steps", setting.name, seconds, goals={"our module": Goal(1.2, why=why)})


if __name__ == "__main__":
    run_alone(rows)
