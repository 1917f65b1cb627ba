"""Time the layout of an epoch's single-cluster batches at the size of Stanford Online Products.

    python benchmarks/sampling.py --batch 80 --images-per-class 4 2

The data set is drawn: classes of 2 to 12 images, most of which lie in the cluster that is their class's home. An epoch
has as many batches as all images fill. Its layout is ``list(sampler)`` after ``set_epoch``; the first one after a
division, which also has to make the streams, is given apart. The processor's time leaves out the waiting for others.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from divconq_pl.core.sampling import ClusterBatchSampler

SMALLEST, LARGEST = 2, 12
TILT = 0.826  # each size is as much rarer than the one before as to give 5.26 images per class on average


def clocks() -> NDArray[np.float64]:
    """Read the clock on the wall and that of the processor, in seconds."""
    return np.array([time.perf_counter(), time.process_time()])


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


def make_assignment(labels: Tensor, clusters: int, faithful: float, generator: torch.Generator) -> Tensor:
    """Put the share ``faithful`` of the images into their class's home cluster, the others anywhere."""
    homes = torch.randint(clusters, (int(labels.max()) + 1,), generator=generator)
    anywhere = torch.randint(clusters, labels.shape, generator=generator)
    stays = torch.rand(len(labels), generator=generator) < faithful
    return torch.where(stays, homes[labels], anywhere)


def main() -> None:
    """Construct and lay out a few times and print the medians and minima."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=59551)
    parser.add_argument("--classes", type=int, default=11318)
    parser.add_argument("--clusters", type=int, default=8)
    parser.add_argument("--faithful", type=float, default=0.8)
    parser.add_argument("--batch", type=int, default=80)
    parser.add_argument("--images-per-class", type=int, nargs="+", default=[4, 2])
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    generator = torch.Generator().manual_seed(0)
    labels = make_labels(arguments.images, arguments.classes, generator)
    assignment = make_assignment(labels, arguments.clusters, arguments.faithful, generator)
    sizes = torch.bincount(labels)
    print(f"{len(labels)} images of {len(sizes)} classes, {int(sizes.min())} to {int(sizes.max())} images each")
    for images_per_class in arguments.images_per_class:
        seconds: dict[str, list[NDArray[np.float64]]] = {"construction": [], "first epoch": [], "epoch": []}
        for repeat in range(arguments.repeats):
            start = clocks()
            sampler = ClusterBatchSampler(
                assignment,
                labels,
                batch_size=arguments.batch,
                images_per_class=images_per_class,
                length=len(labels) // arguments.batch,
                seed=repeat,
            )
            seconds["construction"].append(clocks() - start)
            for epoch in range(arguments.epochs + 1):
                start = clocks()
                sampler.set_epoch(epoch)
                batches = list(sampler)
                seconds["epoch" if epoch else "first epoch"].append(clocks() - start)
        print(f"{images_per_class} images per class, {len(batches)} batches of {arguments.batch}")
        for name, times in seconds.items():
            (wall, processor), (least_wall, least_processor) = np.median(times, axis=0), np.min(times, axis=0)
            print(
                f"    {name:14} median {wall:.3f} s, processor {processor:.3f} s"
                f"   minimum {least_wall:.3f} s, processor {least_processor:.3f} s"
            )


if __name__ == "__main__":
    main()
