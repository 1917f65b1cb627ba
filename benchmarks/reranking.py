"""What re-ranking and flip averaging gain in a search.

    python benchmarks/reranking.py outputs/.../checkpoints/best.ckpt

The test images of a run (classes that were not trained on) are indexed, and some of them are asked for. R@1: the
nearest is of the same class; P@10: the share of the ten nearest that are. Gains over the plain search have intervals of
95 %, over classes.
"""

from __future__ import annotations

import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np

from divconq_pl.inference import load
from divconq_pl.inference.trust import build_trusted
from divconq_pl.search import ImageIndex, Model

K = 10


def main(checkpoint: Path, num_queries: int = 1000) -> None:
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


if __name__ == "__main__":
    main(Path(sys.argv[1]))
