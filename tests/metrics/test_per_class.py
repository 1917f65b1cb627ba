"""Figures of each class, against a loop over classes and queries."""

import torch

from divconq_pl.metrics.per_class import list_classes
from divconq_pl.metrics.retrieval import answer_queries


def test_each_class_has_the_mean_of_its_queries_and_the_worst_comes_first():
    generator = torch.Generator().manual_seed(0)
    labels = torch.cat([torch.arange(30) % 5, torch.tensor([6])])  # no image of class 5, a single one of class 6
    embeddings = torch.nn.functional.one_hot(labels, 7) + torch.randn(31, 7, generator=generator)
    answers = answer_queries(embeddings, labels, ks=(2, 1))
    rows = list_classes(answers, labels, list("abcdefg"))
    for row in rows[:-1]:
        mine = [i for i in range(31) if "abcdefg"[labels[i]] == row["name"]]
        assert row["images"] == len(mine)
        for metric in ("recall_at_1", "map_at_r"):
            expected = sum(float(answers.values[metric][i]) for i in mine) / len(mine)
            assert abs(row[metric] - expected) < 1e-6
    assert rows[-1] == {"name": "g", "images": 1, "recall_at_1": None, "map_at_r": None}
    ranks = [(row["recall_at_1"], row["map_at_r"]) for row in rows[:-1]]
    assert ranks == sorted(ranks)
    assert {row["name"] for row in rows} == set("abcdeg")
