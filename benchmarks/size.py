"""Two divisions of a large set of synthetic features that lie in a memory-mapped file, and the memory they take.

The features arrive batch by batch in a `RowStore`, as in the feature pass of the callback. Then come a first division
(top-down to the split depth) and a second one (clustered anew, matched, summarised), as the callback makes them. All of
it happens in a process of its own.

Memory is that of /proc/self/status (Linux), looked at every 20 ms: RssAnon, what the process has allocated. Pages of
the mapped file that happen to be in memory are left out, since the system can drop them at any time.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import TracebackType

import torch
from measuring import Goal, Row, run_alone
from torch import Tensor

from divconq_pl.core.division import Division, divide
from divconq_pl.core.features import Features
from divconq_pl.core.kmeans import kmeans
from divconq_pl.core.row_store import RowStore
from divconq_pl.core.summary import summarise
from divconq_pl.core.usable import classes_per_cluster

GROUPS, DEPTH = 64, 3


def memory(field: str) -> int:
    """Read a field of /proc/self/status, in bytes."""
    found = re.search(rf"^{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None
    return 1024 * int(found[1])


class Watched:
    """A part of the run, with the processor's seconds and the most memory it allocated."""

    def __init__(self) -> None:
        self.seconds, self.peak = 0.0, 0
        self._done = threading.Event()
        self._watcher = threading.Thread(target=self._watch)

    def _watch(self) -> None:
        while not self._done.wait(0.02):
            self.peak = max(self.peak, memory("RssAnon"))

    def __enter__(self) -> Watched:
        """Begin to watch."""
        self._began = time.process_time()
        self._watcher.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Stop watching."""
        self._done.set()
        self._watcher.join()
        self.seconds = time.process_time() - self._began


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


def measure(images: int, dim: int, classes: int, folder: str) -> None:
    """Fill the store, divide twice, and print the seconds and the highest memory of each part."""
    torch.set_num_threads(1)
    store = RowStore(images, folder)
    parts = {name: Watched() for name in ("filling the file", "first division", "second division", "summary")}
    with parts["filling the file"]:
        labels = fill(store, images, dim, classes, GROUPS)
    features = Features(store.rows)
    with parts["first division"]:
        first = divide(features, labels, Division.undivided(images), DEPTH, cluster=kmeans)
    with parts["second division"]:
        second = divide(features, labels, first, DEPTH, cluster=kmeans, seed=30)
    with parts["summary"]:
        summarise(second, first, labels, epoch=1)
    assert (classes_per_cluster(second.assignment, labels, 2**DEPTH) >= 2).all()
    print(json.dumps({name: (part.seconds, part.peak) for name, part in parts.items()}))


def rows(device: str = "cpu", quick: bool = False) -> list[Row]:
    """Measure in a process of its own; nothing where there is no /proc."""
    if not Path("/proc/self/status").exists():
        return []
    images, dim, classes = (4_000, 16, 200) if quick else (5_000_000, 256, 100_000)
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--measure", *map(str, (images, dim, classes)), folder]
        child = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, tuple[float, int]] = json.loads(child.stdout)
    work = f"{images:,} x {dim} into {2**DEPTH}, in a file"
    goal, peak = Goal(2.0, of="value"), max(peak for _, peak in found.values())
    return [
        *(Row("size", work, name, seconds) for name, (seconds, _) in found.items()),
        *(Row("size", f"{work}: memory", name, peak / 1e9, "GB") for name, (_, peak) in found.items()),
        Row("size", f"{work}: memory", "at most", peak / 1e9, "GB", goal=goal),
    ]


if __name__ == "__main__":
    if "--measure" in sys.argv:
        images, dim, classes, folder = sys.argv[2:]
        measure(int(images), int(dim), int(classes), folder)
    else:
        run_alone(rows)
