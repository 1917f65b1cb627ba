"""K-means at the size of Stanford Online Products and of a million images, against faiss and scikit-learn.

Then the variance that clusters explain, over data sets and seeds, against following every start on all rows.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from unittest.mock import patch

import torch
from measuring import Goal, Row, compare, now, run_alone, take_turns
from sklearn.cluster import KMeans, MiniBatchKMeans
from torch import Tensor

from divconq_pl.core import kmeans as kmeans_module
from divconq_pl.core.kmeans import kmeans

SIZES = [(59_551, 2048, 8, 1.8), (1_000_000, 128, 32, 1.0)]
"""Rows, width, clusters, and the seconds it should take."""

WHY = "of a million rows a third goes to the starts, a third to 131,072 rows, a fifth to assigning all"
WHY_LESS = "one draw of many optima; see the differences over data sets and seeds"
MANY = 200_000
"""Rows from which on only what is quick takes part."""

QUICK_SIZES = [(600, 16, 4, 1.0)]
THOROUGH, READING = "faiss, 3 starts on all rows", "reading the rows once"
STRUCTURES = {"64 classes": (64, 64), "1,000 classes in 16 groups": (16, 1000), "no structure": (1, 1)}
"""Groups and classes of rows that clusters are judged on."""


def make_features(images: int, dim: int, classes: int, seed: int) -> Tensor:
    """Draw (images, dim) unit rows around ``classes`` centres, too noisy for k-means to converge at once."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, dim, generator=generator)
    features = torch.randn(images, dim, generator=generator).mul_(2)
    for rows in features.split(8192):
        rows += centres[torch.randint(classes, (len(rows),), generator=generator)]
        rows /= rows.norm(dim=1, keepdim=True)
    return features


def explained(features: Tensor, assignment: Tensor) -> float:
    """Return the share of the rows' variance that lies between the clusters."""
    assignment = assignment.to(features.device)
    counts = assignment.bincount()
    sums = torch.zeros(len(counts), features.shape[1], device=features.device).index_add_(0, assignment, features)
    mean = features.mean(dim=0)
    between = ((sums / counts[:, None] - mean).square().sum(dim=1) * counts).sum()
    return float(between / (features.square().sum() - len(features) * mean.square().sum()))


def faiss_alone(features: Tensor, clusters: int, **options: int) -> Tensor:
    """Cluster with nothing but faiss and its random start, then assign all rows."""
    import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())
    solver = faiss.Kmeans(features.shape[1], clusters, gpu=features.device.type == "cuda", **options)
    rows = features.cpu().numpy()
    solver.train(rows)
    _, assignment = solver.index.search(rows, 1)
    return torch.from_numpy(assignment[:, 0])


def sklearn_alone(make: Callable[..., KMeans | MiniBatchKMeans], features: Tensor, clusters: int) -> Tensor:
    """Cluster with scikit-learn's defaults, which are one start, and three."""
    return torch.from_numpy(make(clusters, random_state=0).fit_predict(features.numpy())).long()


def read_once(features: Tensor) -> Tensor:
    """Read all rows, which is what an iteration takes at least; one cluster."""
    features.sum()
    return torch.zeros(len(features), dtype=torch.int64)


def rows(device: str = "cpu", quick: bool = False) -> list[Row]:
    """Time all in turns, once each, and compare the variance that their clusters explain."""
    result = []
    for images, dim, clusters, seconds in QUICK_SIZES if quick else SIZES:
        features = make_features(images, dim, 64, seed=0).to(device)
        contestants = make_contestants(features, clusters, slow=images <= MANY)
        found: dict[str, Tensor] = {}

        def remember(name: str, cluster: Callable[[], Tensor], found: dict[str, Tensor] = found) -> None:
            found[name] = cluster()

        work = f"{images:,} x {dim} into {clusters}"
        timed = {name: partial(remember, name, cluster) for name, cluster in contestants.items()}
        goals = {"ours": Goal(seconds, of="value", why=WHY)}
        result += take_turns("clustering", work, timed, device=device, turns=1, warm_up=device != "cpu", goals=goals)
        found.pop(READING)
        shares = {name: 100 * explained(features, assignment) for name, assignment in found.items()}
        against = THOROUGH if THOROUGH in shares else "ours"
        for name, share in shares.items():
            goal = Goal(0.99, at_least=True, why=WHY_LESS) if name == "ours" and against == THOROUGH else None
            ratio = share / shares[against]
            result.append(Row("clustering", f"{work}: variance explained", name, share, "%", against, ratio, goal))
    return [*result, *judge_stages(device, quick)]


def judge_stages(device: str, quick: bool) -> list[Row]:
    """Compare time and variance explained with those of following every start on all rows, seed by seed."""
    result = []
    images, dim, seeds, counts = (2**14 + 100, 4, 1, (2,)) if quick else (59_551, 256, 4, (2, 8, 32))
    for name, (groups, classes) in STRUCTURES.items():
        seconds: dict[tuple[int, str], list[float]] = defaultdict(list)
        gains: dict[int, list[float]] = defaultdict(list)
        for seed in range(seeds):
            features = make_groups(images, dim, groups, classes, seed).to(device)
            for clusters in counts:
                began = now(device)
                ours = kmeans(features, clusters, seed=seed)
                between = now(device)
                with patch.object(kmeans_module, "_RESTART_ROWS", images):
                    thorough = kmeans(features, clusters, seed=seed)
                seconds[clusters, "every start on all rows"].append(now(device) - between)
                seconds[clusters, "ours"].append(between - began)
                gains[clusters].append(100 * (explained(features, ours) / explained(features, thorough) - 1))
        for clusters in counts:
            work = f"{name}, {images:,} x {dim} into {clusters}"
            both = {kind: seconds[clusters, kind] for kind in ("every start on all rows", "ours")}
            result += compare("clustering", work, both)
            figures: dict[str, Callable[[list[float]], float]] = {
                "mean": statistics.fmean,
                "worst seed": min,
                "best seed": max,
            }
            for kind, figure in figures.items():
                more = figure(gains[clusters])
                result.append(Row("clustering", f"{work}: variance explained", f"ours, {kind}", more, "% more"))
    return result


def make_groups(images: int, dim: int, groups: int, classes: int, seed: int) -> Tensor:
    """Draw unit rows around the centres of classes, which lie around those of groups."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(groups, dim, generator=generator)[torch.randint(groups, (classes,), generator=generator)]
    centres += torch.randn(classes, dim, generator=generator)
    features = centres[torch.randint(classes, (images,), generator=generator)]
    features += 2 * torch.randn(images, dim, generator=generator)
    return torch.nn.functional.normalize(features)


def make_contestants(features: Tensor, clusters: int, *, slow: bool) -> dict[str, Callable[[], Tensor]]:
    """Return what clusters the features, by name, as far as it is installed and can use the device."""
    ours = partial(kmeans, features, clusters, seed=0)
    contestants: dict[str, Callable[[], Tensor]] = {"ours": ours}
    if find_spec("faiss"):
        all_rows = {"min_points_per_centroid": 1, "max_points_per_centroid": len(features)}
        contestants["ours, by faiss"] = partial(ours, backend="faiss")
        if slow:
            contestants[THOROUGH] = partial(faiss_alone, features, clusters, niter=20, nredo=3, **all_rows)
        contestants["faiss's defaults"] = partial(faiss_alone, features, clusters)
    if features.device.type == "cpu":
        if slow:
            contestants["scikit-learn's KMeans"] = partial(sklearn_alone, KMeans, features, clusters)
        contestants["scikit-learn's MiniBatchKMeans"] = partial(sklearn_alone, MiniBatchKMeans, features, clusters)
    contestants[READING] = partial(read_once, features)
    return contestants


if __name__ == "__main__":
    run_alone(rows)
