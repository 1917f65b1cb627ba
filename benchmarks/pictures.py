"""The gallery of a run: test queries with their nearest neighbours, once the evaluation has found these."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import torch
from measuring import Goal, Row, run_alone, take_turns

from divconq_pl.app.pictures import NEIGHBOURS, QUERIES, draw_gallery
from divconq_pl.data import ArrayDataset
from divconq_pl.metrics.neighbours import neighbours


def rows(device: str = "cpu", quick: bool = False) -> list[Row]:
    """Draw and save it a few times; matplotlib's first picture does not count."""
    count = 64 if quick else 2_000
    pixels = np.random.default_rng(0).integers(0, 256, (count, 64, 64, 3), dtype=np.uint8)
    labels = torch.arange(count) // 4
    data = ArrayDataset(pixels, labels, [f"class {c}" for c in range(count // 4)], [str(i) for i in range(count)])
    embeddings = torch.nn.functional.normalize(torch.randn(count, 128, generator=torch.Generator().manual_seed(0)))
    nearest = neighbours(embeddings, k=NEIGHBOURS)
    with tempfile.TemporaryDirectory() as folder:
        draw = partial(draw_gallery, Path(folder), [embeddings], [data], nearest)
        work = f"gallery of {QUERIES} queries with {NEIGHBOURS} neighbours"
        goals = {"draw and save": Goal(1.0, of="value")}
        return take_turns("pictures", work, {"draw and save": draw}, turns=1 if quick else 3, goals=goals)


if __name__ == "__main__":
    run_alone(rows)
