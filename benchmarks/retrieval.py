"""Time `retrieval_metrics` as a ratio to a bare exact search of faiss, and measure the memory it takes.

    OMP_NUM_THREADS=1 python benchmarks/retrieval.py --images 60502 --dim 512 --classes 11316

The two alternate within one process, so that a busy machine slows both; medians are compared, by the clock and by the
processor's time. The memory is that of another process, which does nothing else: the highest resident size while the
metrics are computed, less that just before, with the embeddings in memory (Linux only).
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

import faiss
import torch
from torch import Tensor

from divconq_pl.metrics.retrieval import retrieval_metrics

KS = (1, 10, 100, 1000)


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


def bare_search(embeddings: Tensor) -> None:
    """Find the neighbours with nothing but faiss; the first of them is the image itself."""
    index = faiss.IndexFlatIP(embeddings.shape[1])
    index.add(embeddings.numpy())
    index.search(embeddings.numpy(), max(KS) + 1)


def resident(field: str) -> int:
    """Return a resident size of this process in bytes: VmRSS, the present one, or VmHWM, the highest."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(f"{field}:")).split()[1]) * 1024


def measure_memory(embeddings: Tensor, labels: Tensor) -> None:
    """Print the additional memory that the metrics take at their peak, in bytes."""
    retrieval_metrics(embeddings[:2000], labels[:2000] % 200, ks=KS)  # what is loaded on first use is not counted
    Path("/proc/self/clear_refs").write_text("5")  # makes the highest size the present one
    before = resident("VmRSS")
    retrieval_metrics(embeddings, labels, ks=KS)
    print(resident("VmHWM") - before)


def main() -> None:
    """Run both in turn, then once more for the memory, and print medians, their ratio and the peak."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=60502)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--classes", type=int, default=11316)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--only-memory", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()

    embeddings, labels = make_embeddings(arguments.images, arguments.dim, arguments.classes, seed=0)
    if arguments.only_memory:
        measure_memory(embeddings, labels)
        return
    contestants = {
        "faiss alone": lambda: bare_search(embeddings),
        "metrics": lambda: retrieval_metrics(embeddings, labels, ks=KS),
    }
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    processor: dict[str, list[float]] = {name: [] for name in contestants}
    for repeat in range(arguments.repeats):
        for name in sorted(contestants, reverse=repeat % 2 == 1):
            start, busy = time.perf_counter(), time.process_time()
            contestants[name]()
            seconds[name].append(time.perf_counter() - start)
            processor[name].append(time.process_time() - busy)
    child = subprocess.run([sys.executable, *sys.argv, "--only-memory"], check=True, stdout=subprocess.PIPE, text=True)
    for name in contestants:
        print(f"{name:12} {statistics.median(seconds[name]):8.1f} s ({statistics.median(processor[name]):.1f} s)")
    clock, busy = (
        statistics.median(times["metrics"]) / statistics.median(times["faiss alone"]) for times in (seconds, processor)
    )
    print(f"ratio        {clock:8.2f}   ({busy:.2f} by the processor's time)")
    size = arguments.images * arguments.dim * 4 / 1e9
    print(f"memory       {int(child.stdout) / 1e9:8.2f} GB above the embeddings' {size:.2f} GB")


if __name__ == "__main__":
    main()
