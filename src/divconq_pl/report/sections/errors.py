"""The queries that are answered worst, and the classes that are taken for one another."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from divconq_pl.metrics.per_class import list_classes, read_k
from divconq_pl.metrics.retrieval import Answers
from divconq_pl.report.material import Images, Material, Missing
from divconq_pl.report.thumbnails import Thumbnails

_QUERIES, _NEIGHBOURS, _PAIRS, _LOOKED_AT, _CLASSES = 10, 7, 10, 1000, 15


def show_errors(material: Material, thumbnails: Thumbnails) -> dict[str, Any]:
    """Return the worst queries with their neighbours, the worst classes, and the commonest confusions."""
    test, found, answers, embeddings = material.test, material.found, material.answers, material.embeddings
    if test is None or found is None or answers is None or not embeddings:
        raise Missing("the run was not tested, so it is not known where it fails")
    nearest = answers.nearest.cpu().numpy()
    labels = test.labels[: len(nearest)]
    if not nearest.shape[1]:
        raise Missing("there is a single test image")
    wrong = (found.labels[nearest[:, 0]] != labels) & (answers.num_relevant.cpu().numpy() > 0)
    worst = _find_worst(embeddings, test.labels, found.labels, nearest[:, 0], wrong)
    queries = [_show_query(thumbnails, test, query, found, nearest[query], embeddings) for query in worst]
    pairs = Counter(zip(labels[wrong].tolist(), found.labels[nearest[wrong, 0]].tolist(), strict=True))
    confusions = []
    for (asked, answered), count in pairs.most_common(_PAIRS):
        example = int(np.flatnonzero(wrong & (labels == asked) & (found.labels[nearest[:, 0]] == answered))[0])
        confusions.append(
            {
                "asked": test.class_name(asked),
                "answered": found.class_name(answered),
                "count": count,
                "of": int((labels == asked).sum()),
                "pictures": [
                    thumbnails.make(test, example, 48),
                    thumbnails.make(found, int(nearest[example, 0]), 48),
                ],
            }
        )
    return {
        "queries": queries,
        "confusions": confusions,
        "wrong": int(wrong.sum()),
        "asked": len(labels),
        **_show_classes(test, answers),
        "in_file": bool(material.protocol),
    }


def _show_classes(test: Images, answers: Answers) -> dict[str, Any]:
    """Return the classes with the lowest recall, and how many classes have how much."""
    labels = torch.from_numpy(test.labels[: len(answers.nearest)])
    names = [test.class_name(label) for label in range(int(labels.max()) + 1)]
    rows = list_classes(answers, labels, names)
    recall = next(key for key in rows[0] if key.startswith("recall_at_"))
    known = [row for row in rows if row[recall] is not None]
    return {
        "k": read_k(recall),
        "classes": [{**row, "recall": row[recall]} for row in known[:_CLASSES] if row[recall] < 1],
        "all_classes": len(known),
        "perfect": sum(row[recall] == 1 for row in known),
    }


def _find_worst(
    embeddings: Sequence[Tensor], labels: NDArray[Any], found: NDArray[Any], nearest: NDArray[Any], wrong: NDArray[Any]
) -> list[int]:
    """Find the queries whose nearest image is nearer than any right one by most, no two of one class.

    Args:
        embeddings: one tensor (N, d), or one each for query and gallery.
        labels: class of each query.
        found: class of each image among which neighbours are searched.
        nearest: the image nearest to each query.
        wrong: whether that is of another class, though there are some of its own.
    """
    queries, gallery = (rows.detach().cpu().float() for rows in (embeddings[0], embeddings[-1]))
    picked = torch.from_numpy(np.flatnonzero(wrong))
    if len(picked) > _LOOKED_AT:
        picked = picked[torch.linspace(0, len(picked) - 1, _LOOKED_AT).long()]
    members, starts = _sort_by_class(found[: len(gallery)])
    margins = []
    for query in picked.tolist():
        right = members[starts[labels[query]] : starts[labels[query] + 1]]
        if len(embeddings) == 1:
            right = right[right != query]
        margins.append(float(gallery[nearest[query]] @ queries[query] - (gallery[right] @ queries[query]).max()))
    order = np.argsort(-np.asarray(margins), kind="stable").tolist()
    chosen: dict[int, int] = {}
    for place in order:
        query = int(picked[place])
        chosen.setdefault(int(labels[query]), query)
        if len(chosen) == _QUERIES:
            break
    return list(chosen.values())


def _sort_by_class(labels: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return indices in the order of their labels, and where those of each label begin."""
    counts = np.bincount(labels, minlength=int(labels.max()) + 1)
    return np.argsort(labels, kind="stable"), np.concatenate([[0], counts.cumsum()])


def _show_query(
    thumbnails: Thumbnails, test: Images, query: int, found: Images, nearest: NDArray[Any], embeddings: Sequence[Tensor]
) -> dict[str, Any]:
    place, other = embeddings[0][query], embeddings[-1]
    answers = []
    for index in nearest[:_NEIGHBOURS].tolist():
        distance = float((place - other[index].to(place)).norm())
        answers.append(
            {
                "uri": thumbnails.make(found, index),
                "name": found.class_of(index),
                "title": found.name(index),
                "right": bool(found.labels[index] == test.labels[query]),
                "distance": distance,
            }
        )
    return {
        "uri": thumbnails.make(test, query),
        "name": test.class_of(query),
        "title": test.name(query),
        "answers": answers,
    }
