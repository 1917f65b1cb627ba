"""A narrowed ProxyAnchorLoss, forward and backward, against the same loss built at the subspace's width.

The narrowed loss has to fill a gradient as large as its weight, mostly with zeros, which one of the subspace's width
need not.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from measuring import Goal, Row, run_alone, take_turns
from pytorch_metric_learning.losses import ProxyAnchorLoss
from torch import Tensor, nn

from divconq_pl.core.subspaces import FixedSubspaces
from divconq_pl.losses.narrowing import narrow_losses

BATCH, DEPTH = 80, 3


def make_step(loss: nn.Module, embeddings: Tensor, labels: Tensor) -> Callable[[], None]:
    """Return a function that runs the loss forward and backward, as after an optimiser's ``zero_grad()``."""
    embeddings = embeddings.requires_grad_()

    def step() -> None:
        embeddings.grad = None
        loss.zero_grad()
        loss(embeddings, labels).backward()

    return step


def rows(device: str = "cpu", quick: bool = False) -> list[Row]:
    """Time the three in turns."""
    classes, width = (50, 32) if quick else (11_318, 512)
    narrow = width >> DEPTH
    torch.manual_seed(0)
    labels = torch.randint(classes, (BATCH,), device=device)
    full, narrowed = (ProxyAnchorLoss(classes, width).to(device) for _ in range(2))
    native = ProxyAnchorLoss(classes, narrow).to(device)
    subspaces = FixedSubspaces(width, DEPTH).to(device)
    narrow_losses(narrowed, subspaces)
    subspaces.set_depth(DEPTH)
    subspaces.activate(1)

    def embeddings(columns: int) -> Tensor:
        return torch.randn(BATCH, columns, device=device)

    contestants = {
        f"built at {narrow}": make_step(native, embeddings(narrow), labels),
        f"narrowed to {narrow}": make_step(narrowed, embeddings(width), labels),
        f"full width {width}": make_step(full, embeddings(width), labels),
    }
    work = f"ProxyAnchorLoss of {classes:,} classes, batch of {BATCH}"
    goals = {f"narrowed to {narrow}": Goal(1.1)}
    return take_turns("narrowing", work, contestants, device=device, turns=2 if quick else 30, goals=goals)


if __name__ == "__main__":
    run_alone(rows)
