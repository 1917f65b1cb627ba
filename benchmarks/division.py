"""Time a whole division as a ratio to faiss's own Kmeans (train, then one search) in the same run.

    python benchmarks/division.py --images 59551 --dim 2048 --split-depth 3

A division is what the callback does once it has the features and all clusters exist: `divide` (cluster and match with
the previous clusters), `summarise` and the construction of a `ClusterBatchSampler`. The two alternate, so that a busy
machine slows both; medians are compared. The processor's time leaves out the waiting for others.
"""

from __future__ import annotations

import argparse
import time

import faiss
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from divconq_pl.core.division import Division, divide
from divconq_pl.core.kmeans import kmeans
from divconq_pl.core.sampling import ClusterBatchSampler
from divconq_pl.core.summary import summarise

ITERATIONS, RESTARTS = 20, 3  # those of `kmeans`


Seconds = NDArray[np.float64]


def clocks() -> Seconds:
    """Read the clock on the wall and that of the processor."""
    return np.array([time.perf_counter(), time.process_time()])


def make_features(images: int, dim: int, classes: int, groups: int) -> tuple[Tensor, Tensor]:
    """Draw (images, dim) unit rows around the centres of classes, which lie around those of a few groups.

    Returns:
        The rows, and the class of each.
    """
    generator = torch.Generator().manual_seed(0)
    labels = (torch.arange(images) * classes) // images
    centres = torch.randn(groups, dim, generator=generator)
    centres = centres[torch.randint(groups, (classes,), generator=generator)]
    centres += torch.randn(classes, dim, generator=generator)
    features = torch.randn(images, dim, generator=generator).mul_(2)
    for rows, classes_of_rows in zip(features.split(8192), labels.split(8192), strict=True):
        rows += centres[classes_of_rows]
        rows /= rows.norm(dim=1, keepdim=True)
    return features, labels


def faiss_alone(features: Tensor, clusters: int, seed: int) -> None:
    """Cluster with nothing but faiss: all images, its own random start."""
    images, dim = features.shape
    solver = faiss.Kmeans(
        dim,
        clusters,
        niter=ITERATIONS,
        nredo=RESTARTS,
        seed=seed,
        min_points_per_centroid=1,
        max_points_per_centroid=images,
    )
    solver.train(features.numpy())
    solver.index.search(features.numpy(), 1)


class TimedKmeans:
    """`kmeans`, with the seconds and the number of its calls."""

    def __init__(self) -> None:
        self.seconds: list[Seconds] = []

    def __call__(self, features: Tensor, num_clusters: int, *, seed: int) -> Tensor:
        """Cluster, and note the time."""
        start = clocks()
        assignment = kmeans(
            features, num_clusters, seed=seed, backend="faiss", iterations=ITERATIONS, restarts=RESTARTS
        )
        self.seconds.append(clocks() - start)
        return assignment


def main() -> None:
    """Run both in turn and print the medians and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=59551)
    parser.add_argument("--dim", type=int, default=2048)
    parser.add_argument("--classes", type=int, default=11318)
    parser.add_argument("--groups", type=int, default=64)
    parser.add_argument("--split-depth", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    faiss.omp_set_num_threads(arguments.threads)

    depth = arguments.split_depth
    features, labels = make_features(arguments.images, arguments.dim, arguments.classes, arguments.groups)
    previous = Division(kmeans(features[:, :64], 2**depth, seed=0), depth)  # similar clusters, cheaply
    seconds: dict[str, list[Seconds]] = {
        name: [] for name in ("faiss alone", "division", "  kmeans", "  rest of divide", "  summarise", "  sampler")
    }
    for repeat in range(arguments.repeats):
        start = clocks()
        faiss_alone(features, 2**depth, seed=repeat)
        seconds["faiss alone"].append(clocks() - start)

        clustering = TimedKmeans()
        start = clocks()
        division = divide(features, labels, previous, depth, cluster=clustering, seed=repeat)
        divided = clocks()
        if len(clustering.seconds) != 1:
            raise SystemExit(f"{len(clustering.seconds)} trials were needed; use fewer --classes")
        summary = summarise(division, previous, labels, epoch=0)
        summarised = clocks()
        ClusterBatchSampler(division.assignment, labels, batch_size=80, images_per_class=4)
        end = clocks()
        seconds["division"].append(end - start)
        seconds["  kmeans"].append(clustering.seconds[0])
        seconds["  rest of divide"].append(divided - start - clustering.seconds[0])
        seconds["  summarise"].append(summarised - divided)
        seconds["  sampler"].append(end - summarised)
    print(f"clusters of {summary['sizes']} images, {summary['moved']} moved")
    medians = {name: np.median(times, axis=0) for name, times in seconds.items()}
    for name, (wall, processor) in medians.items():
        print(f"{name:16} {wall:8.3f} s   processor {processor:8.3f} s")
    wall, processor = medians["division"] / medians["faiss alone"]
    print(f"ratio            {wall:8.3f}     processor {processor:8.3f}")


if __name__ == "__main__":
    main()
