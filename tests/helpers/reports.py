"""Material for a report without a training."""

import numpy as np
import torch

from divconq_pl import FixedSubspaces
from divconq_pl.core.division import Division
from divconq_pl.core.summary import summarise
from divconq_pl.metrics.retrieval import answer_queries, retrieval_metrics
from divconq_pl.report import Images, Material


def make_images(count, classes, names=None, picture="grey"):
    labels = np.arange(count) % classes
    pictures = {"grey": lambda i: np.full((8, 8), i % 250, np.uint8), "gone": lambda i: 1 / 0, None: None}
    return Images(labels, pictures[picture], names or [f"class_{c}" for c in range(classes)], lambda i: f"image-{i}")


def make_material(*, train=120, test=60, classes=6, depth=2, epochs=4, names=None, picture="grey", **changes):
    """Make what a run of a few epochs leaves."""
    torch.manual_seed(0)
    images, tested = make_images(train, classes, names, picture), make_images(test, classes, names, picture)
    labels = torch.from_numpy(images.labels)
    divisions, before = [], Division.undivided(train)
    for level in range(1, depth + 1):
        division = Division(torch.randint(2**level, (train,)), level)
        division.assignment[: 2**level] = torch.arange(2**level)
        summary = summarise(division, before, labels, epoch=level)
        central = [torch.nonzero(division.assignment == k).squeeze(1).tolist() for k in range(2**level)]
        divisions.append({**summary, "central": central, "seconds_features": 2.0, "seconds_kmeans": 1.0})
        before = division
    notes = []
    for epoch in range(epochs):
        clusters = 2 ** min(epoch, depth)
        losses = {k: 1.0 / (1 + epoch + k) for k in range(clusters)} if clusters > 1 else {-1: 1.0}
        noted = {"epoch": epoch, "phase": "divided" if clusters > 1 else "undivided", "clusters": clusters}
        noted |= {"losses": losses, "batches": dict.fromkeys(losses, 3), "rates": {"0": 0.1}}
        noted |= {"metrics": {"val/recall_at_1": 0.5 + epoch / 10, "val/map_at_r": 0.2}, "seconds": 10.0}
        notes.append({**noted, "seconds_validation": 1.0})
    embeddings = torch.nn.functional.normalize(torch.randn(classes, 32)[tested.labels] + 2 * torch.randn(test, 32))
    answers = answer_queries(embeddings, torch.from_numpy(tested.labels))
    metrics = retrieval_metrics(embeddings, torch.from_numpy(tested.labels))
    subspaces = FixedSubspaces(32, 3)
    subspaces.set_depth(min(depth, 3))
    material = Material(
        title="a run",
        epochs=notes,
        divisions=divisions,
        train=images,
        assignment=before.assignment.numpy(),
        subspaces=subspaces,
        test=tested,
        embeddings=[embeddings],
        centres=torch.eye(32)[: 2**depth],
        answers=answers,
        results={f"test/{name}": value for name, value in metrics.items()},
        verdict="It helped.",
        settings={"loss": "margin"},
        versions={"Python": "3"},
        command="python train.py",
        chosen_epoch=2,
    )
    for name, value in changes.items():
        setattr(material, name, value)
    return material
