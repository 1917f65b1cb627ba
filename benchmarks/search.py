"""Measure what re-ranking and flip averaging gain in a search, and what inverted lists cost and miss.

    python benchmarks/search.py gains outputs/.../checkpoints/best.ckpt
    OMP_NUM_THREADS=1 python benchmarks/search.py lists --images 1200000 --dim 128

`gains` indexes the test images of a run (classes that were not trained on) and asks for some of them. R@1: the nearest
is of the same class; P@10: the share of the ten nearest that are. Gains over the plain search have intervals of 95 %,
over classes. `lists` draws embeddings around centres and compares the lists with an exact search.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from divconq_pl.inference import load
from divconq_pl.inference.trust import build_trusted
from divconq_pl.search import ImageIndex, Model
from divconq_pl.search.nearest import Block, Flat, Inverted, build_inverted, count_sample, name_parts

K = 10
BLOCK = 65_536


def measure_gains(checkpoint: Path, num_queries: int) -> None:
    """Print R@1 and P@10 with and without re-ranking and flip averaging."""
    embedder = load(checkpoint)
    images = build_trusted(embedder.config["data"], "dataset").tested[0]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for i, label in enumerate(images.targets.tolist()):
            (folder / "images" / f"{label}").mkdir(parents=True, exist_ok=True)
            images.image(i).save(folder / "images" / f"{label}" / f"{i}.png")
        results = {}
        for flip in (False, True):
            embed = partial(embedder.embed, flip=flip)
            index = ImageIndex.build(folder / f"index {flip}", folder / "images", embed, Model("", flip=flip))
            asked = np.random.default_rng(0).permutation(len(index))[:num_queries] + 1
            for rerank in (False, True):
                results[flip, rerank] = ask(index, asked.tolist(), rerank)
    print(f"{len(images)} images of {len(images.classes)} classes, {len(asked)} queries")
    plain = results[False, False]
    for (flip, rerank), right in results.items():
        gains = [describe_gain(right[:, i] - plain[:, i], plain[:, 2]) for i in (0, 1)]
        means = ", ".join(f"{name} {100 * right[:, i].mean():.2f}" for i, name in enumerate(("R@1", f"P@{K}")))
        print(f"flip={flip!s:5} rerank={rerank!s:5} {means}; gains {' and '.join(gains)}")


def ask(index: ImageIndex, numbers: list[int], rerank: bool) -> np.ndarray:
    """Return for each query whether the nearest is right, the share of ten that are, and its class, (Q, 3)."""
    rows = []
    for number in numbers:
        label = index.find_path(number).parent.name
        hits = [match.path.parent.name == label for match in index.query_own(number, K, rerank=rerank)]
        rows.append((hits[0], sum(hits) / K, int(label)))
    return np.array(rows, dtype=float)


def describe_gain(gains: np.ndarray, classes: np.ndarray) -> str:
    """Say the mean gain in points, with an interval by drawing classes again and again."""
    names, place = np.unique(classes, return_inverse=True)
    sums, counts = np.bincount(place, gains), np.bincount(place)
    drawn = np.random.default_rng(0).integers(0, len(names), (2000, len(names)))
    low, high = np.percentile(sums[drawn].sum(1) / counts[drawn].sum(1), [2.5, 97.5])
    return f"{100 * gains.mean():+.2f} [{100 * low:+.2f}, {100 * high:+.2f}]"


def draw_blocks(images: int, dim: int) -> Iterator[Block]:
    """Draw embeddings around one centre for every fifty, block by block, always the same."""
    centres = torch.randn(images // 50, dim, generator=torch.Generator().manual_seed(0))
    for first in range(0, images, BLOCK):
        generator = torch.Generator().manual_seed(first + 1)
        count = min(BLOCK, images - first)
        chosen = torch.randint(len(centres), (count,), generator=generator)
        rows = centres[chosen] + torch.randn(count, dim, generator=generator)
        yield np.arange(first, first + count), normalize(rows)


def measure_lists(images: int, dim: int, num_queries: int) -> None:
    """Print time, memory and recall of a search by inverted lists."""
    _, queries = next(draw_blocks(images, dim))
    queries = normalize(queries[:num_queries] + 0.03 * torch.randn(num_queries, dim))
    wanted = count_sample(images)
    sample: Tensor = torch.cat([rows[:: max(1, images // wanted)] for _, rows in draw_blocks(images, dim)])
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "lists"
        began = time.perf_counter()
        parts = build_inverted(file, sample, draw_blocks(images, dim), images)
        print(f"{images} x {dim}: built in {time.perf_counter() - began:.0f} s, ", end="")
        print(f"at most {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB in memory")
        size = sum(part.stat().st_size for part in name_parts(file, parts))
        lists = Inverted(name_parts(file, parts), [])
        found, seconds = time_search(lists, queries)
        print(f"{parts} files, {size / 2**30:.2f} GiB; {1000 * seconds:.1f} ms for a query")
        flat = Flat(lambda: draw_blocks(images, dim))
        exact, seconds = time_search(flat, queries)
        recall = np.mean([len(set(a) & set(b)) / K for a, b in zip(found, exact, strict=True)])
        print(f"exact search {1000 * seconds:.1f} ms; {100 * recall:.1f} % of its {K} nearest are found by the lists")


def time_search(searcher: Flat | Inverted, queries: Tensor) -> tuple[list[list[int]], float]:
    """Return what is found for each query, asked one by one, and the median of the seconds."""
    found, seconds = [], []
    for query in queries:
        began = time.perf_counter()
        found.append(searcher.search(query[None], K)[1][0].tolist())
        seconds.append(time.perf_counter() - began)
    return found, float(np.median(seconds))


def main() -> None:
    """Measure one of the two."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, dest="what")
    gains = commands.add_parser("gains")
    gains.add_argument("checkpoint", type=Path)
    gains.add_argument("--queries", type=int, default=1000)
    lists = commands.add_parser("lists")
    lists.add_argument("--images", type=int, default=1_200_000)
    lists.add_argument("--dim", type=int, default=128)
    lists.add_argument("--queries", type=int, default=200)
    arguments = parser.parse_args()
    if arguments.what == "gains":
        measure_gains(arguments.checkpoint, arguments.queries)
    else:
        measure_lists(arguments.images, arguments.dim, arguments.queries)


if __name__ == "__main__":
    main()
