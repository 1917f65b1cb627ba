"""The distance-weighted miner beside pytorch-metric-learning's: what a call takes, and what each draws.

Embeddings are random points around random class centres. For what is drawn they lie in 16 of all directions, as those
of a network that is not trained yet. Anchors kept: the share that is in a triplet. Within reach: the drawn negatives
that are nearer than 1.4. Nearer ones: how many images of other classes are nearer to the anchor than the negative
drawn, on average; with two images of a class an anchor draws one negative, with four three. Slices are 16 of 512
coordinates, weighed as what they are and as 512 wide.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from measuring import Row, run_alone, take_turns
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


def draw(work: str, contestants: Mapping[str, torch.nn.Module], labels: Tensor, batches: list[Tensor]) -> list[Row]:
    """Say of each miner the shares of anchors and of negatives within reach, and how many were nearer."""
    result = []
    for name, miner in contestants.items():
        kept, within, ranks = [], [], []
        for z in batches:
            distances = torch.cdist(normalize(z), normalize(z))
            order = distances.masked_fill(labels[:, None] == labels, torch.inf).argsort(dim=1).argsort(dim=1)
            anchors, _, negatives = miner(z, labels)
            kept.append(len(anchors.unique()) / len(z))
            within.append(distances[anchors, negatives] < 1.4)
            ranks.append(order[anchors, negatives].float())
        figures = {
            "anchors kept": (100 * sum(kept) / len(kept), "%"),
            "negatives within reach": (100 * float(torch.cat(within).float().mean()), "%"),
            "nearer ones": (float(torch.cat(ranks).mean()), "images"),
        }
        result += [Row("mining", f"{work}: {what}", name, *figure) for what, figure in figures.items()]
    return sorted(result, key=lambda row: row.work)


def rows(device: str = "cpu", quick: bool = False) -> list[Row]:
    """Time a call of either miner, then look at what they draw."""
    labels = torch.arange(20).repeat_interleave(4).to(device)
    generator = torch.Generator().manual_seed(0)
    z = embeddings(labels.cpu(), 128, None, generator).to(device)
    timed = {
        "pytorch-metric-learning's": lambda: miners.DistanceWeightedMiner()(z, labels),
        "ours": lambda: DistanceWeightedMiner()(z, labels),
    }
    work = "distance-weighted miner, 80 x 128, 4 images a class"
    result = take_turns("mining", work, timed, device=device, turns=2 if quick else 100)
    torch.manual_seed(0)
    rounds = range(1 if quick else 100)
    whole: dict[str, torch.nn.Module] = {
        "pytorch-metric-learning's": miners.DistanceWeightedMiner(),
        "ours": DistanceWeightedMiner(),
        "ours, far_weight=1e-12": DistanceWeightedMiner(far_weight=1e-12),
    }
    slices: dict[str, torch.nn.Module] = {
        "weighed as 16 wide": DistanceWeightedMiner(),
        "weighed as 512 wide": DistanceWeightedMiner(width=512),
    }
    for images in (2, 4):
        labels = torch.arange(80 // images).repeat_interleave(images)
        for width in (128, 512):
            batches = [embeddings(labels, width, 16, generator) for _ in rounds]
            result += draw(f"80 x {width}, {images} images a class", whole, labels, batches)
        batches = [embeddings(labels, 16, None, generator) for _ in rounds]
        result += draw(f"80 slices, {images} images a class", slices, labels, batches)
    return result


if __name__ == "__main__":
    run_alone(rows)
