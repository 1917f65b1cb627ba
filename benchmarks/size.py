"""Divide a large set of synthetic features that lie in a memory-mapped file, and watch the memory it takes.

    OMP_NUM_THREADS=1 python benchmarks/size.py --images 5000000 --dim 256 --folder /tmp

The features arrive batch by batch in a `RowStore`, as in the feature pass of the callback. Then come a first division
(top-down to the split depth) and a second one (clustered anew, matched, summarised), as the callback makes them.

Memory is that of /proc/self/status (Linux), looked at every 20 ms: RssAnon, what the process has allocated. RssFile,
pages of the mapped file (and of libraries) that happen to be in memory, can be dropped by the system at any time;
VmHWM is the kernel's own peak of both together.
"""

from __future__ import annotations

import argparse
import re
import threading
import time
from functools import partial
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor

from divconq_pl.core.division import Division, divide
from divconq_pl.core.features import Features
from divconq_pl.core.kmeans import kmeans
from divconq_pl.core.row_store import RowStore
from divconq_pl.core.summary import summarise
from divconq_pl.core.usable import classes_per_cluster


def memory(field: str) -> int:
    """Read a field of /proc/self/status, in bytes."""
    found = re.search(rf"^{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None
    return 1024 * int(found[1])


class Watched:
    """A part of the run, with its seconds and the most memory it allocated."""

    def __init__(self, name: str) -> None:
        self.name, self.peak = name, 0
        self._done = threading.Event()
        self._watcher = threading.Thread(target=self._watch)

    def _watch(self) -> None:
        while not self._done.wait(0.02):
            self.peak = max(self.peak, memory("RssAnon"))

    def __enter__(self) -> Watched:
        """Begin to watch."""
        self._began = time.perf_counter()
        self._watcher.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Print what was seen."""
        self._done.set()
        self._watcher.join()
        seconds = time.perf_counter() - self._began
        print(f"{self.name:16} {seconds:8.1f} s   RssAnon at most {self.peak / 1e9:6.3f} GB", flush=True)


def fill(store: RowStore, images: int, dim: int, classes: int, groups: int) -> Tensor:
    """Put unit rows around the centres of classes, which lie around those of groups, into the store.

    Returns:
        The class of each.
    """
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(classes, (images,), generator=generator)
    centres = torch.randn(groups, dim, generator=generator)
    group = torch.randint(groups, (classes,), generator=generator)
    within = torch.randn(classes, dim, generator=generator)
    for some in labels.split(2048):
        rows = torch.randn(len(some), dim, generator=generator).add_(centres[group[some]]).add_(within[some])
        store.append(torch.nn.functional.normalize(rows))
    return labels


def main() -> None:
    """Fill the store, divide twice, and print times and memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5_000_000)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--classes", type=int, default=100_000)
    parser.add_argument("--groups", type=int, default=64)
    parser.add_argument("--split-depth", type=int, default=3)
    parser.add_argument("--backend", choices=["auto", "faiss", "torch"], default="auto")
    parser.add_argument("--folder", default=".", help="of the file")
    parser.add_argument("--bound", type=float, default=2.0, help="GB to allocate at most, or exit with 1")
    arguments = parser.parse_args()

    print(f"before           RssAnon {memory('RssAnon') / 1e9:.3f} GB: Python, torch and other libraries")
    store = RowStore(arguments.images, arguments.folder)
    parts = [Watched("filling"), Watched("first division"), Watched("second division"), Watched("summary")]
    with parts[0]:
        labels = fill(store, arguments.images, arguments.dim, arguments.classes, arguments.groups)
    features, depth = Features(store.rows), arguments.split_depth
    cluster = partial(kmeans, backend=arguments.backend)
    with parts[1]:
        first = divide(features, labels, Division.undivided(arguments.images), depth, cluster=cluster)
    with parts[2]:
        second = divide(features, labels, first, depth, cluster=cluster, seed=30)
    with parts[3]:
        summary = summarise(second, first, labels, epoch=1)
    if not (classes_per_cluster(second.assignment, labels, 2**depth) >= 2).all() or second.depth != depth:
        raise SystemExit("a cluster is not usable")
    peak = max(part.peak for part in parts) / 1e9
    print(f"clusters of {summary['sizes']} images, {summary['moved']} moved")
    print(
        f"file {2 * arguments.images * arguments.dim / 1e9:.2f} GB; VmHWM {memory('VmHWM') / 1e9:.2f} GB, file included"
    )
    print(f"peak of RssAnon  {peak:.3f} GB, of {arguments.bound:.3f} GB allowed")
    raise SystemExit(peak > arguments.bound)


if __name__ == "__main__":
    main()
