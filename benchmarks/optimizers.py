"""A step of the optimiser alone: what our module makes of Adam, fused and unfused Adam."""

from __future__ import annotations

from functools import partial

import torch
from measuring import Goal, Row, run_alone, take_turns
from overhead import make_module
from torch.optim import Adam


def rows(device: str = "cpu", quick: bool = False) -> list[Row]:
    """Let the three take turns on copies of the small network."""
    optimizers = {}
    for name in ("fused", "as our module makes it", "unfused"):
        torch.manual_seed(0)
        module = make_module(128).to(device)
        for weight in module.parameters():
            weight.grad = torch.randn_like(weight)
        if name.startswith("as"):
            optimizers[name] = module.configure_optimizers()
        else:
            optimizers[name] = Adam(module.parameters(), lr=1e-4, fused=name == "fused")
    contestants = {name: partial(optimizer.step) for name, optimizer in optimizers.items()}
    work = f"Adam, {sum(weight.numel() for weight in make_module(128).parameters()) / 1e6:.1f} million weights"
    goals = {"as our module makes it": Goal(1.05)}
    return take_turns("optimizers", work, contestants, device=device, turns=2 if quick else 200, goals=goals)


if __name__ == "__main__":
    run_alone(rows)
