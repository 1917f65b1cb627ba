"""A search by inverted lists, as a large index has them, against one through all embeddings."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from measuring import Goal, Row, compare, run_alone
from torch import Tensor
from torch.nn.functional import normalize

from divconq_pl.search.nearest import Block, Flat, Inverted, build_inverted, count_sample, name_parts

K = 10
BLOCK = 65_536
DIM = 128
MANY = Goal(90, of="value", at_least=True)


def draw_blocks(images: int) -> Iterator[Block]:
    """Draw embeddings around one centre for every fifty, block by block, always the same."""
    centres = torch.randn(images // 50, DIM, generator=torch.Generator().manual_seed(0))
    for first in range(0, images, BLOCK):
        generator = torch.Generator().manual_seed(first + 1)
        count = min(BLOCK, images - first)
        chosen = torch.randint(len(centres), (count,), generator=generator)
        rows = centres[chosen] + torch.randn(count, DIM, generator=generator)
        yield np.arange(first, first + count), normalize(rows)


def time_search(searcher: Flat | Inverted, queries: Tensor) -> tuple[list[list[int]], list[float]]:
    """Return what is found for each query, asked one by one, and its seconds."""
    found, seconds = [], []
    for query in queries:
        began = time.process_time()
        found.append(searcher.search(query[None], K)[1][0].tolist())
        seconds.append(time.process_time() - began)
    return found, seconds


def rows(device: str = "cpu", quick: bool = False) -> list[Row]:
    """Build the lists and ask; the work is the processor's, whatever the device."""
    images, count = (2_000, 5) if quick else (300_000, 100)
    _, some = next(draw_blocks(images))
    queries = normalize(some[:count] + 0.03 * torch.randn(count, DIM, generator=torch.Generator().manual_seed(0)))
    every = max(1, images // count_sample(images))
    sample = torch.cat([embeddings[::every] for _, embeddings in draw_blocks(images)])
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "lists"
        began = time.process_time()
        parts = build_inverted(file, sample, draw_blocks(images), images)
        building = time.process_time() - began
        found, by_lists = time_search(Inverted(name_parts(file, parts), []), queries)
    exact, by_all = time_search(Flat(lambda: draw_blocks(images)), queries)
    share = np.mean([len(set(own) & set(true)) / K for own, true in zip(found, exact, strict=True)])
    work = f"{images:,} x {DIM}"
    return [
        *compare("search", f"{work}, a query", {"comparing with all": by_all, "by lists": by_lists}),
        Row("search", f"{work}, lists", "to build them", building),
        Row("search", f"{work}, lists", f"of the true {K} nearest found", 100 * float(share), "%", goal=MANY),
    ]


if __name__ == "__main__":
    run_alone(rows)
