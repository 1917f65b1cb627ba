"""The pictures that a run leaves behind."""

from __future__ import annotations

from pathlib import Path

import pytorch_lightning as pl
import torch

from divconq_pl.app.evaluation import embed
from divconq_pl.app.plots import gallery, montage, save_figure, tree
from divconq_pl.data import RetrievalDataModule, RetrievalDataset
from divconq_pl.lightning.callback import DivideConquerCallback
from divconq_pl.metrics.retrieval import neighbours

QUERIES, NEIGHBOURS = 10, 8


def draw_divisions(folder: Path, images: RetrievalDataset, divide: DivideConquerCallback) -> None:
    """Draw the tree of divisions, ``tree.png``, and what each learner trained on last, ``clusters.png``.

    Args:
        folder: where the pictures go.
        images: the training images.
        divide: the callback after the training.
    """
    if divide.division is not None:
        save_figure(tree(divide.history, conquered_at=divide.schedule.conquer_at), folder / "tree.png")
        save_figure(montage(images.image, divide.division.assignment), folder / "clusters.png")


def draw_gallery(folder: Path, trainer: pl.Trainer, module: pl.LightningModule, data: RetrievalDataModule) -> None:
    """Draw test queries with their nearest neighbours, ``gallery.png``.

    Args:
        folder: where the picture goes.
        trainer: embeds the test images.
        module: the trained module.
        data: the images.
    """
    queries, shown = data.tested[0], data.tested[-1]
    embeddings = embed(trainer, module, data)
    picked = torch.linspace(0, len(queries) - 1, QUERIES).long().unique()
    found = neighbours(embeddings[0], embeddings[1] if len(embeddings) > 1 else None, k=NEIGHBOURS)[picked]
    figure = gallery(
        queries.image,
        [queries.classes[label] for label in queries.targets],
        picked.tolist(),
        found,
        shown.targets[found] == queries.targets[picked][:, None],
        gallery_images=shown.image,
        gallery_names=[shown.classes[label] for label in shown.targets],
    )
    save_figure(figure, folder / "gallery.png")
