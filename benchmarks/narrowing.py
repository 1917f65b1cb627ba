"""Time a narrowed ProxyAnchorLoss, forward and backward, as a ratio to the same loss built at the subspace's width.

    python benchmarks/narrowing.py --classes 11318 --width 512 --split-depth 3 --batch 80

The contestants alternate, so that a busy machine slows all of them; a ratio is the median over the rounds. The narrowed
loss has to fill a gradient as large as its weight, mostly with zeros, which one of the subspace's width need not.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from pytorch_metric_learning.losses import ProxyAnchorLoss
from torch import Tensor, nn

from divconq_pl.core.subspaces import FixedSubspaces
from divconq_pl.losses.narrowing import narrow_losses


def make_step(loss: nn.Module, embeddings: Tensor, labels: Tensor) -> Callable[[], None]:
    """Return a function that runs the loss forward and backward, as after an optimiser's ``zero_grad()``."""
    embeddings = embeddings.requires_grad_()

    def step() -> None:
        embeddings.grad = None
        loss.zero_grad()
        loss(embeddings, labels).backward()
        if embeddings.device.type == "cuda":
            torch.cuda.synchronize()

    return step


def main() -> None:
    """Run the three in turn and print the median times and ratios to the narrow loss."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, default=11318)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--split-depth", type=int, default=3)
    parser.add_argument("--batch", type=int, default=80)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)

    width, narrow = arguments.width, arguments.width >> arguments.split_depth
    labels = torch.randint(arguments.classes, (arguments.batch,), device=arguments.device)
    full, narrowed = (ProxyAnchorLoss(arguments.classes, width).to(arguments.device) for _ in range(2))
    native = ProxyAnchorLoss(arguments.classes, narrow).to(arguments.device)
    subspaces = FixedSubspaces(width, arguments.split_depth).to(arguments.device)
    narrow_losses(narrowed, subspaces)
    subspaces.set_depth(arguments.split_depth)
    subspaces.activate(1)

    def embeddings(columns: int) -> Tensor:
        return torch.randn(arguments.batch, columns, device=arguments.device)

    contestants = {
        f"built at {narrow}": make_step(native, embeddings(narrow), labels),
        f"narrowed to {narrow}": make_step(narrowed, embeddings(width), labels),
        f"full width {width}": make_step(full, embeddings(width), labels),
    }
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for repeat in range(arguments.repeats + 2):
        for name, step in contestants.items():
            start = time.perf_counter()
            step()
            if repeat >= 2:  # the first ones warm up
                seconds[name].append(time.perf_counter() - start)
    reference = seconds[f"built at {narrow}"]
    for name, times in seconds.items():
        ratio = statistics.median(mine / theirs for mine, theirs in zip(times, reference, strict=True))
        print(f"{name:20} {1000 * statistics.median(times):8.2f} ms   ratio {ratio:.3f}")


if __name__ == "__main__":
    main()
