"""The batches of an epoch: ours of single clusters, pytorch-metric-learning's sampler, and entering an epoch late."""

from __future__ import annotations

from functools import partial

import torch
from measuring import Goal, Row, run_alone, take_turns
from pytorch_metric_learning.samplers import MPerClassSampler
from sampling import make_assignment, make_labels
from torch import Tensor

from divconq_pl.core.sampling import ClusterBatchSampler

BATCH, IMAGES_PER_CLASS, CLUSTERS = 80, 4, 8
MANY = 200_000
"""Images from which on the peer, which takes minutes there, is left out."""


def lay_out(labels: Tensor, assignment: Tensor, epoch: int, *, whole: bool) -> None:
    """Make a sampler that enters the given epoch, and take its first batch or all of them."""
    length = len(labels) // BATCH
    sampler = ClusterBatchSampler(
        assignment, labels, batch_size=BATCH, images_per_class=IMAGES_PER_CLASS, length=length
    )
    sampler.set_epoch(epoch)
    batches = iter(sampler)
    next(batches)
    if whole:
        list(batches)


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
        assignment = make_assignment(labels, CLUSTERS, 0.8, generator)
        peers = {"pytorch-metric-learning's MPerClassSampler": partial(lay_out_by_pml, labels)}
        contestants = {
            **(peers if images < MANY else {}),
            "single clusters": partial(lay_out, labels, assignment, 0, whole=True),
            "to the first batch of the fourth epoch": partial(lay_out, labels, assignment, 3, whole=False),
        }
        why = "an epoch is laid out whole, after those before it"
        goals = {"to the first batch of the fourth epoch": Goal(1.0, of="value", why=why)}
        work = f"{images:,} images, {classes:,} classes, batches of {BATCH}"
        result += take_turns("layouts", work, contestants, turns=1 if quick else 3, warm_up=False, goals=goals)
    return result


if __name__ == "__main__":
    run_alone(rows)
