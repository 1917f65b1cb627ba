"""Time `divconq_pl.core.kmeans.kmeans` as a ratio to faiss's own Kmeans (train, then one search) in the same run.

    python benchmarks/clustering.py --images 59551 --dim 2048 --clusters 8

The two alternate, so that a busy machine slows both; medians are compared.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import faiss
import torch
from torch import Tensor

from divconq_pl.core.kmeans import kmeans


def make_features(images: int, dim: int, classes: int, seed: int) -> Tensor:
    """Draw (images, dim) unit rows around ``classes`` centres, too noisy for k-means to converge at once."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, dim, generator=generator)
    features = torch.randn(images, dim, generator=generator).mul_(2)
    for rows in features.split(8192):
        rows += centres[torch.randint(classes, (len(rows),), generator=generator)]
        rows /= rows.norm(dim=1, keepdim=True)
    return features


def faiss_alone(features: Tensor, clusters: int, seed: int, iterations: int, restarts: int) -> Tensor:
    """Cluster with nothing but faiss: all images, its own random start."""
    images, dim = features.shape
    solver = faiss.Kmeans(
        dim,
        clusters,
        niter=iterations,
        nredo=restarts,
        seed=seed,
        min_points_per_centroid=1,
        max_points_per_centroid=images,
    )
    solver.train(features.numpy())
    _, assignment = solver.index.search(features.numpy(), 1)
    return torch.from_numpy(assignment[:, 0])


def inertia(features: Tensor, assignment: Tensor) -> float:
    """Sum the squared distances of unit rows to the mean of their cluster."""
    counts = assignment.bincount()
    sums = torch.zeros(len(counts), features.shape[1]).index_add_(0, assignment, features)
    return float(len(features) - (sums.square().sum(dim=1) / counts.clamp_min(1)).sum())


def main() -> None:
    """Run both in turn and print the medians, their ratio and the inertias."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=59551)
    parser.add_argument("--dim", type=int, default=2048)
    parser.add_argument("--clusters", type=int, default=8)
    parser.add_argument("--iterations", type=int, default=20)
    parser.add_argument("--restarts", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--backend", choices=["faiss", "torch"], default="faiss")
    arguments = parser.parse_args()

    features = make_features(arguments.images, arguments.dim, classes=64, seed=0)
    kmeans(features[: 64 * arguments.clusters], arguments.clusters, seed=0, backend=arguments.backend)  # warm up
    common = {"iterations": arguments.iterations, "restarts": arguments.restarts}
    contestants: dict[str, Callable[[int], Tensor]] = {
        "faiss alone": lambda seed: faiss_alone(features, arguments.clusters, seed, **common),
        "kmeans": lambda seed: kmeans(features, arguments.clusters, seed=seed, backend=arguments.backend, **common),
    }
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    inertias: dict[str, list[float]] = {name: [] for name in contestants}
    for seed in range(arguments.repeats):
        for name, cluster in contestants.items():
            start = time.perf_counter()
            assignment = cluster(seed)
            seconds[name].append(time.perf_counter() - start)
            inertias[name].append(inertia(features, assignment))
    for name in contestants:
        print(f"{name:12} {statistics.median(seconds[name]):8.3f} s   inertia {statistics.median(inertias[name]):.6g}")
    print(f"ratio        {statistics.median(seconds['kmeans']) / statistics.median(seconds['faiss alone']):8.3f}")


if __name__ == "__main__":
    main()
