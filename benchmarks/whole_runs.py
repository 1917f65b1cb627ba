"""Whole trainings with the callback's defaults, all divisions included, against the plain one."""

from __future__ import annotations

import time
from typing import Any

import torch
from measuring import Goal, Row, compare, run_alone
from overhead import make_images, make_module, make_trainer
from torch.utils.data import DataLoader

from divconq_pl import DivideConquerCallback

KINDS: dict[str, dict[str, Any] | None] = {
    "plain": None,
    "divided, features by a pass": {"features": "exact"},
    "divided, features of the training": {"features": "training"},
}


def rows(device: str = "cpu", quick: bool = False) -> list[Row]:
    """Train in turns; the processor's time counts."""
    images, batch, epochs = (make_images(16, 8), 16, 3) if quick else (make_images(160, 12), 64, 12)
    seconds: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for _ in range(1 if quick else 2):
        for kind, settings in KINDS.items():
            torch.manual_seed(0)
            callbacks = [] if settings is None else [DivideConquerCallback(split_depth=2, **settings)]
            trainer = make_trainer(epochs, *callbacks)
            began = time.process_time()
            trainer.fit(make_module(128), DataLoader(images, batch_size=batch, shuffle=True))
            seconds[kind].append(time.process_time() - began)
    goals = {"divided, features of the training": Goal(1.05)}
    return compare("whole_runs", f"small network, {epochs} epochs, divided every second one", seconds, goals=goals)


if __name__ == "__main__":
    run_alone(rows)
