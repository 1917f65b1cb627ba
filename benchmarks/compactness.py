"""What a smaller embedding costs: the first or the principal coordinates only, float16, int8.

python benchmarks/compactness.py RUN [RUN ...] > benchmarks/compactness.csv

Each RUN is the folder of a run of train.py, whose test images are embedded once by its best epoch. Then the embeddings
are made smaller, and their test classes searched as ever.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import torch
from torch import Tensor

from divconq_pl.data import RetrievalDataModule
from divconq_pl.inference.checkpoints import CONFIG_KEY, read_checkpoint
from divconq_pl.inference.finding import find_best
from divconq_pl.inference.loading import make_embedder
from divconq_pl.inference.trust import build_trusted
from divconq_pl.metrics.neighbours import unit_rows
from divconq_pl.metrics.retrieval import retrieval_metrics

WIDTHS = (128, 64, 32, 16)


def keep_first(rows: Tensor, width: int) -> Tensor:
    """Keep the first coordinates, in the order that the network gives them."""
    return unit_rows(rows[:, :width])


def keep_principal(rows: Tensor, width: int, seen: Tensor) -> Tensor:
    """Keep the directions in which the embeddings of other images vary most, without centring."""
    directions = torch.linalg.svd(seen, full_matrices=False)[2]
    return unit_rows(rows @ directions[:width].T)


def round_to_int8(rows: Tensor) -> Tensor:
    """Round each row to whole numbers from -127 to 127, by its largest entry."""
    return (rows / rows.abs().amax(dim=1, keepdim=True) * 127).round().to(torch.int8)


def embed(folder: Path) -> tuple[Tensor, Tensor, Tensor]:
    """Return embeddings of validation images, and embeddings and labels of test images, by the best epoch of a run."""
    path = find_best(folder)
    assert path is not None
    content = read_checkpoint(path)
    embedder = make_embedder(content, path, "cpu")
    data: RetrievalDataModule = build_trusted(content[CONFIG_KEY]["data"], "dataset")
    (test,) = data.tested
    others = data.splits.val
    assert others is not None
    seen, rows = (embedder.embed(part.image(i) for i in range(len(part))) for part in (others, test))
    return seen, rows, test.targets


def main() -> None:
    """Print a row for each kind of embedding of each run."""
    table = csv.writer(sys.stdout)
    table.writerow(["run", "kept", "dimensions", "type", "bytes", "recall_at_1", "map_at_r"])
    for run in map(Path, sys.argv[1:]):
        seen, rows, labels = embed(run)
        for width in (width for width in WIDTHS if width <= rows.shape[1]):
            ways = {"first": keep_first(rows, width), "principal": keep_principal(rows, width, seen)}
            for kept, few in ways.items():
                kinds = {"float32": few, "float16": few.half(), "int8": round_to_int8(few)}
                for kind, small in kinds.items():
                    found = retrieval_metrics(small.float(), labels, ks=(1,))
                    size = small.element_size() * width
                    figures = [f"{found[name]:.4f}" for name in ("recall_at_1", "map_at_r")]
                    table.writerow([run.name, kept, width, kind, size, *figures])


if __name__ == "__main__":
    main()
