"""The pictures that a run leaves behind."""

from __future__ import annotations

from pathlib import Path

import pytorch_lightning as pl
import torch
from torch import Tensor

from divconq_pl.callback import DivideConquerCallback
from divconq_pl.data import RetrievalDataModule
from divconq_pl.plots import gallery, montage, save_figure, tree
from divconq_pl.retrieval import neighbours

QUERIES, NEIGHBOURS = 10, 8


def draw_pictures(
    folder: Path,
    trainer: pl.Trainer,
    module: pl.LightningModule,
    data: RetrievalDataModule,
    divide: DivideConquerCallback | None,
) -> None:
    """Draw test queries with their neighbours, and, where data was divided, the clusters and the tree of divisions.

    Args:
        folder: where ``gallery.png``, ``clusters.png`` and ``tree.png`` go.
        trainer: embeds the test images.
        module: the trained module.
        data: the images.
        divide: the callback of the run, if there was one.
    """
    test = data.splits.test
    queries, shown = test if isinstance(test, tuple) else (test, test)
    embeddings = _embed(trainer, module, data)
    picked = torch.linspace(0, len(queries) - 1, QUERIES).long().unique()
    found = neighbours(embeddings[0], embeddings[1] if len(embeddings) > 1 else None, NEIGHBOURS)[picked]
    hits = shown.targets[found] == queries.targets[picked][:, None]
    figure = gallery(
        queries.image,
        [queries.classes[label] for label in queries.targets],
        picked.tolist(),
        found,
        hits,
        gallery_images=shown.image,
        gallery_names=[shown.classes[label] for label in shown.targets],
    )
    save_figure(figure, folder / "gallery.png")
    if divide is None or not divide.history:
        return
    save_figure(tree(divide.history, conquered_at=divide.schedule.conquer_at), folder / "tree.png")
    if divide.division is not None:
        save_figure(montage(data.splits.train.image, divide.division.assignment), folder / "clusters.png")


def _embed(trainer: pl.Trainer, module: pl.LightningModule, data: RetrievalDataModule) -> list[Tensor]:
    """Return the embeddings of the test images, one tensor for each of their data sets."""
    predicted = trainer.predict(module, data) or []
    parts = predicted if predicted and isinstance(predicted[0], list) else [predicted]
    return [torch.cat(part) for part in parts]
