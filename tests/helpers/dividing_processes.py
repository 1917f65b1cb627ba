"""Processes that divide features together. What they import is light, since each does so by itself."""

from __future__ import annotations

from functools import partial

import torch
import torch.distributed
from torch import Tensor

from divconq_pl.core.division import Division, divide
from divconq_pl.core.features import Features
from divconq_pl.core.kmeans import kmeans


def blobs(rows: int, groups: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    group = torch.randint(groups, (rows,), generator=generator)
    centres = 30 * torch.eye(groups, 16)
    return centres[group] + torch.randn(rows, 16, generator=generator), group


def make_rows() -> Tensor:
    return blobs(401, 8)[0].half()


def divide_as_process(rank: int, folder: str) -> None:
    """Be one of two processes that divide the rows, and save what comes of it."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    rows = make_rows()
    torch.save(divide_rows(Features(rows[rank::2], size=len(rows), rank=rank, world_size=2)), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def divide_rows(features: Tensor | Features) -> dict[str, Tensor]:
    classes, undivided = torch.arange(401) % 5, Division.undivided(401)
    cluster = partial(kmeans, backend="torch" if isinstance(features, Tensor) else "auto")
    tree = divide(features, classes, undivided, 2, cluster=cluster).assignment
    return {
        "tree": tree,
        "again": divide(features, classes, Division(tree, 2), 2, cluster=cluster, seed=30).assignment,
        "from there": divide(features, classes, Division(tree, 2), 2, cluster=cluster, start="previous").assignment,
        "whole": divide(features, torch.arange(401) % 40, undivided, 2, cluster=cluster, whole_classes=True).assignment,
        "sampled": cluster(features, 2, seed=3, max_rows=1),
        "faiss": kmeans(features, 2, seed=3, backend="faiss"),
    }
