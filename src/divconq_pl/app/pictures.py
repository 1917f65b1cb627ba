"""The pictures that a run leaves behind."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from divconq_pl.app.plots import curves, gallery, montage, save_figure, tree
from divconq_pl.app.reporting import Notes
from divconq_pl.data import RetrievalDataset
from divconq_pl.lightning.callback import DivideConquerCallback

QUERIES, NEIGHBOURS = 10, 8


def draw_divisions(folder: Path, images: RetrievalDataset, divide: DivideConquerCallback) -> None:
    """Draw the tree of divisions, ``tree.png``, and the last clusters, ``clusters.png``.

    Args:
        folder: where the pictures go.
        images: the training images.
        divide: the callback after the training.
    """
    if divide.division is not None:
        save_figure(tree(divide.history, conquered_at=divide.schedule.conquer_at), folder / "tree.png")
        figure = montage(
            images.image,
            divide.division.assignment,
            groups=images.groups,
            group_names=images.group_names,
            classes=images.targets,
            title=f"What each learner trains on since epoch {divide.history[-1]['epoch']}",
        )
        save_figure(figure, folder / "clusters.png")


def draw_curves(folder: Path, notes: Notes) -> None:
    """Draw loss and validation over the epochs, ``curves.png``."""
    if notes.epochs:
        save_figure(curves(notes.epochs, [division["epoch"] for division in notes.divisions]), folder / "curves.png")


def draw_gallery(
    folder: Path, embeddings: Sequence[Tensor], parts: Sequence[RetrievalDataset], nearest: Tensor
) -> None:
    """Draw test queries with their nearest neighbours, ``gallery.png``: half of them are the worst.

    These are they with most wrong neighbours before the first right one.

    Args:
        folder: where the picture goes.
        embeddings: of the test images: one tensor (N, d), or one each for query and gallery.
        parts: the images embedded, likewise; more images than embeddings are left out at the end.
        nearest: the first images found for each query, as the evaluation found them, shape (N, n).
    """
    queries, shown = parts[0], parts[-1]
    found = nearest[:, :NEIGHBOURS].cpu()
    rows, others = embeddings[0].cpu().float(), embeddings[-1].cpu().float()
    hits = shown.targets[found] == queries.targets[: len(found), None]
    first = (~hits).cumprod(1).sum(1)  # wrong neighbours before the first right one
    worst = first.sort(descending=True, stable=True).indices[: QUERIES // 2]
    spread = torch.linspace(0, len(found) - 1, QUERIES - len(worst[first[worst] > 0])).long().unique()
    picked = torch.cat([spread, worst[(first[worst] > 0) & ~torch.isin(worst, spread)]])
    found = found[picked]
    figure = gallery(
        queries.image,
        [queries.classes[label] for label in queries.targets],
        picked.tolist(),
        found,
        shown.targets[found] == queries.targets[picked][:, None],
        gallery_images=shown.image,
        gallery_names=[shown.classes[label] for label in shown.targets],
        distances=(rows[picked][:, None] - others[found]).norm(dim=-1),
        title="Nearest neighbours, with distances; the lower rows are the worst queries",
    )
    save_figure(figure, folder / "gallery.png")
