"""Recall@K, MAP@R and R-precision against a bare exact search and pytorch-metric-learning's AccuracyCalculator.

The memory is that of another process, which does nothing else: the highest resident size while the metrics are
computed, less that just before, with the embeddings in memory (Linux only).
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import torch
from measuring import Goal, Row, run_alone, take_turns
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
from torch import Tensor

from divconq_pl.metrics.neighbours import neighbours
from divconq_pl.metrics.retrieval import retrieval_metrics

SIZES = [(20_000, 512, 6, 2.0), (20_000, 512, 3_740, 1.15)]
"""Images, width, classes, and how many times a bare search the metrics should take at most; few classes, and those
of a third of the test set of Stanford Online Products."""

QUICK_SIZES = [(300, 16, 75, 9.0)]
GALLERY, GALLERY_CLASSES = 120_000, (12_000, 120, 6, 1)
FEW = 10
WHY = "beside the products, each query's similarities are made into whole numbers and partly sorted"


def make_embeddings(images: int, dim: int, classes: int, seed: int) -> tuple[Tensor, Tensor]:
    """Draw (images, dim) unit rows around ``classes`` centres, as noisy as Stanford Online Products is difficult."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(images) % classes
    embeddings = torch.randn(images, dim, generator=generator).mul_(3)
    centres = torch.randn(classes, dim, generator=generator)
    for rows, label in zip(embeddings.split(8192), labels.split(8192), strict=True):
        rows += centres[label]
        rows /= rows.norm(dim=1, keepdim=True)
    return embeddings, labels


def faiss_search(embeddings: Tensor) -> None:
    """Find a few neighbours with nothing but faiss; the first of them is the image itself."""
    import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())
    index = faiss.IndexFlatIP(embeddings.shape[1])
    index.add(embeddings.numpy())
    index.search(embeddings.numpy(), FEW + 1)


def resident(field: str) -> int:
    """Return a resident size of this process in bytes: VmRSS, the present one, or VmHWM, the highest."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(f"{field}:")).split()[1]) * 1024


def measure_memory(images: int, dim: int, classes: int) -> None:
    """Print the additional memory that the metrics take at their peak, in bytes."""
    embeddings, labels = make_embeddings(images, dim, classes, seed=0)
    retrieval_metrics(embeddings[:2000], labels[:2000] % 200)  # what is loaded on first use is not counted
    Path("/proc/self/clear_refs").write_text("5")  # makes the highest size the present one
    before = resident("VmRSS")
    retrieval_metrics(embeddings, labels)
    print(resident("VmHWM") - before)


def rows(device: str = "cpu", quick: bool = False) -> list[Row]:
    """Time all in turns, once each; then the metrics alone as classes grow, and their memory."""
    result = []
    for images, dim, classes, limit in QUICK_SIZES if quick else SIZES:
        embeddings, labels = (x.to(device) for x in make_embeddings(images, dim, classes, seed=0))
        contestants: dict[str, Callable[[], object]] = {
            f"searching {FEW} neighbours": partial(neighbours, embeddings, k=FEW),
            "metrics": partial(retrieval_metrics, embeddings, labels, marp=True),
            "metrics, Recall@K alone": partial(retrieval_metrics, embeddings, labels, map_at_r=False),
        }
        if find_spec("faiss"):
            if device == "cpu":
                contestants[f"faiss alone searching {FEW}"] = partial(faiss_search, embeddings)
            wanted = ("precision_at_1", "mean_average_precision_at_r", "r_precision")
            calculator = AccuracyCalculator(include=wanted, k="max_bin_count", device=torch.device(device))
            contestants["PML's AccuracyCalculator"] = partial(calculator.get_accuracy, embeddings, labels)
        work = f"{images:,} x {dim} in {classes:,} classes"
        goals = {"metrics": Goal(limit, why=WHY)}
        result += take_turns("retrieval", work, contestants, device=device, turns=1, warm_up=False, goals=goals)
    return [*result, *grow(device, quick), *([] if quick or device != "cpu" else memory(30_000, 512, 5_600))]


def grow(device: str, quick: bool) -> list[Row]:
    """Time queries to a gallery whose classes grow, as a ratio to the search."""
    queries, size, dim = (20, 200, 16) if quick else (500, GALLERY, 128)
    embeddings = make_embeddings(size, dim, size, seed=1)[0].to(device)
    asked = embeddings[:queries].clone()
    contestants: dict[str, Callable[[], object]] = {
        f"searching {FEW} neighbours": partial(neighbours, asked, embeddings, k=FEW)
    }
    for classes in (5, 1) if quick else GALLERY_CLASSES:
        labels = torch.arange(size, device=device) % classes
        contestants[f"metrics, {size // classes:,} images a class"] = partial(
            retrieval_metrics, asked, labels[:queries], embeddings, labels
        )
    return take_turns("retrieval", f"{queries} queries, gallery of {size:,} x {dim}", contestants, device=device)


def memory(images: int, dim: int, classes: int) -> list[Row]:
    """Measure the memory of a process of its own."""
    if not Path("/proc/self/clear_refs").exists():
        return []
    command = [sys.executable, __file__, "--memory", *map(str, (images, dim, classes))]
    child = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    work, name = f"{images:,} x {dim}: memory beside the embeddings", "metrics"
    return [Row("retrieval", work, name, int(child.stdout) / 1e9, "GB", goal=Goal(1.5, of="value"))]


if __name__ == "__main__":
    if "--memory" in sys.argv:
        measure_memory(*map(int, sys.argv[2:]))
    else:
        run_alone(rows)
