"""Compare the distance-weighted miner with pytorch-metric-learning's: what each draws, and what a call takes.

    python benchmarks/mining.py --batches 80 112 --widths 64 128 512

Embeddings are random points around random class centres, in all directions or ("rank 16") in 16 of them, as those of a
network that is not trained yet. Anchors: those that are in a triplet. Within: the drawn negatives that are nearer than
1.4. Rank: the mean place of the drawn negatives in the order of distance, 0 for an anchor's nearest; with two images
of a class an anchor draws one negative, with four three. The contestants take turns; a time is the median over the
rounds.

The last tables have slices of 16 coordinates of an embedding of 512, weighed as what they are and as 512 wide.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Mapping

import torch
from measuring import Row, take_turns
from pytorch_metric_learning import miners
from torch import Tensor
from torch.nn.functional import normalize

from divconq_pl.losses import DistanceWeightedMiner

SPREAD = 1.0  # of a class around its centre, whose coordinates have a standard deviation of 1


def embeddings(labels: Tensor, width: int, rank: int | None, generator: torch.Generator) -> Tensor:
    """Draw embeddings of images of the given classes."""
    inner = rank or width
    centres = torch.randn(int(labels.max()) + 1, inner, generator=generator)
    points = centres[labels] + SPREAD * torch.randn(len(labels), inner, generator=generator)
    return points @ torch.randn(inner, width, generator=generator) if rank else points


def describe(contestants: Mapping[str, torch.nn.Module], labels: Tensor, batches: list[Tensor]) -> None:
    """Print for each miner the shares of anchors and of negatives within reach, the mean rank, and the time."""
    milliseconds: dict[str, list[float]] = {name: [] for name in contestants}
    kept: dict[str, list[float]] = {name: [] for name in contestants}
    within: dict[str, list[Tensor]] = {name: [] for name in contestants}
    ranks: dict[str, list[Tensor]] = {name: [] for name in contestants}
    for z in batches:
        distances = torch.cdist(normalize(z), normalize(z))
        order = distances.masked_fill(labels[:, None] == labels, torch.inf).argsort(dim=1).argsort(dim=1)
        for name, miner in contestants.items():
            start = time.perf_counter()
            anchors, _, negatives = miner(z, labels)
            milliseconds[name].append(1000 * (time.perf_counter() - start))
            kept[name].append(len(anchors.unique()) / len(z))
            within[name].append(distances[anchors, negatives] < 1.4)
            ranks[name].append(order[anchors, negatives].float())
    for name in contestants:
        print(
            f"    {name:24} anchors {100 * statistics.mean(kept[name]):5.1f} %"
            f"   within {100 * float(torch.cat(within[name]).float().mean()):5.1f} %"
            f"   rank {float(torch.cat(ranks[name]).mean()):5.1f}   {statistics.median(milliseconds[name]):6.2f} ms"
        )


def rows(device: str = "cpu", quick: bool = False) -> list[Row]:
    """Time a call of either miner; what they draw is printed by the script itself."""
    labels = torch.arange(20).repeat_interleave(4).to(device)
    z = embeddings(labels.cpu(), 128, None, torch.Generator().manual_seed(0)).to(device)
    contestants = {
        "pytorch-metric-learning's": lambda: miners.DistanceWeightedMiner()(z, labels),
        "ours": lambda: DistanceWeightedMiner()(z, labels),
    }
    work = "distance-weighted miner, 80 x 128, 4 images a class"
    return take_turns("mining", work, contestants, device=device, turns=2 if quick else 100)


def main() -> None:
    """Print a table for each batch size, number of images per class and width."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, nargs="+", default=[80, 112])
    parser.add_argument("--images-per-class", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--widths", type=int, nargs="+", default=[64, 128, 512])
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    contestants: dict[str, torch.nn.Module] = {
        "pytorch-metric-learning": miners.DistanceWeightedMiner(),
        "ours": DistanceWeightedMiner(),
        "ours, far_weight=1e-12": DistanceWeightedMiner(far_weight=1e-12),
    }
    for batch in arguments.batches:
        for images in arguments.images_per_class:
            labels = torch.arange(batch // images).repeat_interleave(images)
            for width in arguments.widths:
                for rank in (None, 16):
                    print(f"{batch} images, {images} per class, width {width}{f', rank {rank}' if rank else ''}")
                    rounds = range(arguments.rounds)
                    describe(contestants, labels, [embeddings(labels, width, rank, generator) for _ in rounds])
    slices = {
        "slice as 16 wide": DistanceWeightedMiner(),
        "slice as 512 wide": DistanceWeightedMiner(width=512),
        "the same, 1e-12": DistanceWeightedMiner(width=512, far_weight=1e-12),
    }
    for images in arguments.images_per_class:
        labels = torch.arange(80 // images).repeat_interleave(images)
        print(f"80 images, {images} per class, slices of 16 of 512")
        describe(slices, labels, [embeddings(labels, 16, None, generator) for _ in range(arguments.rounds)])


if __name__ == "__main__":
    main()
