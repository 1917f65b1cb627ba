"""Retrieval metrics of each class, the worst first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from divconq_pl.metrics.retrieval import Answers


def list_classes(answers: Answers, labels: Tensor, classes: Sequence[str]) -> list[dict[str, Any]]:
    """Average what queries were answered over each class.

    Args:
        answers: of all queries.
        labels: class of each query, shape (Q,).
        classes: name of each class.

    Returns:
        A mapping for each class with a query: ``name``, ``images`` (its queries), and the means of Recall@K for the
        smallest K and, where it was computed, of MAP@R, as fractions in [0, 1], over the queries that have an image to
        find; None where there is no such. The class with the lowest recall comes first, the lower MAP@R among equals.

    Example:
        >>> answers = Answers({"recall_at_1": torch.tensor([1.0, 0.0, 0.0])}, torch.ones(3), torch.zeros(3, 1))
        >>> list_classes(answers, torch.tensor([0, 0, 1]), ["cat", "dog"])
        [{'name': 'dog', 'images': 1, 'recall_at_1': 0.0}, {'name': 'cat', 'images': 2, 'recall_at_1': 0.5}]
    """
    labels, answerable = labels.cpu(), (answers.num_relevant > 0).cpu()
    recall = min((name for name in answers.values if name.startswith("recall_at_")), key=read_k)
    shown = [recall, *(["map_at_r"] if "map_at_r" in answers.values else [])]
    images, asked = labels.bincount(minlength=len(classes)), labels[answerable].bincount(minlength=len(classes))
    columns = {}
    for name in shown:
        values = answers.values[name].cpu().double()[answerable]
        total = torch.zeros(len(classes), dtype=torch.float64).index_add_(0, labels[answerable], values)
        columns[name] = (total / asked).tolist()
    rows = [
        {"name": classes[c], "images": int(images[c]), **{n: v[c] if asked[c] else None for n, v in columns.items()}}
        for c in images.nonzero().flatten().tolist()
    ]
    return sorted(rows, key=lambda row: ([row[n] is None for n in shown], [row[n] or 0.0 for n in shown], row["name"]))


def read_k(name: str) -> int:
    """Read the K of ``recall_at_<K>``."""
    return int(name.rpartition("_")[2])
