import numpy as np
import pytest
import torch
from reports import make_material

from divconq_pl.core.subspaces import FixedSubspaces
from divconq_pl.metrics.retrieval import retrieval_metrics
from divconq_pl.report.sections.curves import find_stages
from divconq_pl.report.sections.errors import show_errors
from divconq_pl.report.sections.learners import describe_cluster, sample_classes, show_learners
from divconq_pl.report.sections.map import flatten
from divconq_pl.report.svg import draw_flow
from divconq_pl.report.thumbnails import Thumbnails


def test_a_cluster_is_described_as_counting_by_hand_does():
    generator = np.random.default_rng(0)
    labels, assignment = generator.integers(0, 5, 40), generator.integers(0, 3, 40)
    for cluster in range(3):
        found = describe_cluster(labels, assignment, cluster)
        members = [i for i in range(40) if assignment[i] == cluster]
        assert found["images"] == len(members)
        pairs = [(i, j) for i in members for j in range(40) if i != j and labels[i] == labels[j]]
        assert found["kept"] == pytest.approx(np.mean([assignment[j] == cluster for _, j in pairs]))
        at_home = 0
        for i in members:
            counts = [sum((labels == labels[i]) & (assignment == k)) for k in range(3)]
            at_home += counts[cluster] == max(counts)
        assert found["purity"] == pytest.approx(at_home / len(members))


def test_a_subspace_is_judged_alone_and_left_out():
    material = make_material()
    rows = show_learners(material, Thumbnails())["rows"]
    values, labels = material.embeddings[0], torch.from_numpy(material.test.labels)
    assert len(rows) == 4
    for k, row in enumerate(rows):
        own = torch.arange(32) // 8 == k
        assert row["alone"] == pytest.approx(retrieval_metrics(values[:, own], labels)["recall_at_1"])
        assert row["without"] == pytest.approx(retrieval_metrics(values[:, ~own], labels)["recall_at_1"])
    assert isinstance(material.subspaces, FixedSubspaces)
    assert material.subspaces.active is None


def test_a_sample_holds_whole_classes():
    labels = np.repeat(np.arange(100), 10)
    values, sample = sample_classes(torch.randn(1000, 4), labels, most=200)
    assert len(values) == len(sample) == 200
    assert sample.unique(return_counts=True)[1].eq(10).all()


def test_the_worst_query_is_the_one_whose_wrong_neighbour_is_nearest_by_most():
    material = make_material()
    worst = show_errors(material, Thumbnails())["queries"][0]
    values, labels = material.embeddings[0], torch.from_numpy(material.test.labels)
    margins = []
    for i in range(len(values)):
        others = torch.arange(len(values)) != i
        similarity = values @ values[i]
        wrong, right = similarity[labels != labels[i]].max(), similarity[others & (labels == labels[i])].max()
        margins.append(float(wrong - right))
    assert worst["title"] == f"image-{int(np.argmax(margins))}"
    assert not worst["answers"][0]["right"]
    assert worst["answers"][0]["distance"] <= worst["answers"][1]["distance"]


def test_stages_are_the_stretches_of_equal_epochs():
    notes = [
        {"epoch": e, "phase": p, "clusters": c} for e, (p, c) in enumerate([("undivided", 1)] * 2 + [("divided", 2)])
    ]
    assert [(band.start, band.end, band.label) for band in find_stages(notes)] == [
        (-0.5, 1.5, "undivided"),
        (1.5, 2.5, "divided, 2"),
    ]


def test_the_map_of_points_in_a_plane_keeps_their_distances():
    plane = torch.randn(50, 2) * torch.tensor([3.0, 1.0])
    values = plane @ torch.linalg.qr(torch.randn(10, 10))[0][:2]
    places, method, explained = flatten(values)
    assert method in ("PCA", "UMAP")
    if method == "PCA":
        assert explained == pytest.approx(1.0)
        order = np.argsort(places[:, 0])
        own = torch.linalg.svd(plane - plane.mean(0), full_matrices=False)[2]
        along = ((plane - plane.mean(0)) @ own[0]).numpy()
        assert abs(np.corrcoef(places[:, 0], along)[0, 1]) == pytest.approx(1.0)
        assert len(order) == 50


def test_a_flow_is_drawn_for_every_move_with_its_number():
    svg = draw_flow([[10], [6, 4], [5, 5]], [[[6, 4]], [[5, 1], [0, 4]]], ["a", "b", "c"], ["", "", ""])
    assert svg.count('class="flow"') == 5
    assert "1 images: cluster 0 to cluster 1" in svg


def test_pictures_stop_when_reading_takes_too_long():
    thumbnails, material = Thumbnails(patience=-1), make_material()
    assert thumbnails.make(material.test, 0) == ""
    assert thumbnails.skipped == 1
