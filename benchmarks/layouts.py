"""The batches of an epoch: ours of single clusters, pytorch-metric-learning's sampler, and entering an epoch late.

The data set is drawn: classes of 2 to 12 images, most of which lie in the cluster that is their class's home.
"""

from __future__ import annotations

from functools import partial

import torch
from measuring import Goal, Row, run_alone, take_turns
from pytorch_metric_learning.samplers import MPerClassSampler
from torch import Tensor

from divconq_pl.core.sampling import ClusterBatchSampler

BATCH, IMAGES_PER_CLASS, CLUSTERS = 80, 4, 8
SMALLEST, LARGEST = 2, 12
TILT = 0.826  # each size is as much rarer than the one before as to give 5.26 images per class on average
FAITHFUL = 0.8  # the share of images that lie in their class's home cluster
MANY = 200_000
"""Images from which on the peer, which takes minutes there, is left out."""


def make_labels(images: int, classes: int, generator: torch.Generator) -> Tensor:
    """Draw classes of 2 to 12 images that add up to ``images``."""
    frequencies = TILT ** torch.arange(LARGEST - SMALLEST + 1)
    sizes = SMALLEST + torch.multinomial(frequencies, classes, replacement=True, generator=generator)
    while missing := images - int(sizes.sum()):
        step = 1 if missing > 0 else -1
        changeable = torch.nonzero(sizes != (LARGEST if step > 0 else SMALLEST)).squeeze(1)
        chosen = torch.randperm(len(changeable), generator=generator)[: abs(missing)]
        sizes[changeable[chosen]] += step
    return torch.arange(classes).repeat_interleave(sizes)


def make_assignment(labels: Tensor, generator: torch.Generator) -> Tensor:
    """Put most images into their class's home cluster, the others anywhere."""
    homes = torch.randint(CLUSTERS, (int(labels.max()) + 1,), generator=generator)
    anywhere = torch.randint(CLUSTERS, labels.shape, generator=generator)
    stays = torch.rand(len(labels), generator=generator) < FAITHFUL
    return torch.where(stays, homes[labels], anywhere)


def enter(labels: Tensor, assignment: Tensor, epoch: int, batches: int) -> None:
    """Make a sampler, as after a division in epoch 0, enter the given epoch, and take its first batches."""
    length = len(labels) // BATCH
    sampler = ClusterBatchSampler(
        assignment, labels, batch_size=BATCH, images_per_class=IMAGES_PER_CLASS, length=length
    )
    sampler.set_epoch(epoch)
    for batch in range(min(batches, length)):
        sampler.images(batch)


def lay_out_by_pml(labels: Tensor) -> None:
    """Take all of an epoch's images from the sampler of pytorch-metric-learning, which knows no clusters."""
    length = len(labels) // BATCH * BATCH
    list(MPerClassSampler(labels, IMAGES_PER_CLASS, batch_size=BATCH, length_before_new_iter=length))


def rows(device: str = "cpu", quick: bool = False) -> list[Row]:
    """Take turns at the size of Stanford Online Products, then enter the fourth epoch of a million images."""
    result = []
    sizes = [(1200, 240)] if quick else [(59_551, 11_318), (1_000_000, 190_000)]
    for images, classes in sizes:
        generator = torch.Generator().manual_seed(0)
        labels = make_labels(images, classes, generator)
        assignment = make_assignment(labels, generator)
        peers = {"pytorch-metric-learning's MPerClassSampler": partial(lay_out_by_pml, labels)}
        contestants = {
            **(peers if images < MANY else {}),
            "all batches of the first epoch": partial(enter, labels, assignment, 0, images),
            "to the first batch": partial(enter, labels, assignment, 0, 1),
            "to the first batch of the fourth epoch": partial(enter, labels, assignment, 3, 1),
            "to the 64th batch of the fourth epoch": partial(enter, labels, assignment, 3, 64),
        }
        goals = {"to the first batch of the fourth epoch": Goal(1.0, of="value")}
        work = f"{images:,} images, {classes:,} classes, batches of {BATCH}"
        result += take_turns("layouts", work, contestants, turns=1 if quick else 3, warm_up=False, goals=goals)
    return result


if __name__ == "__main__":
    run_alone(rows)
