"""Embed the test images once, and measure the embeddings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from divconq_pl.data import RetrievalDataModule, RetrievalDataset
from divconq_pl.errors import InputError
from divconq_pl.metrics.reidentification import reidentification_metrics
from divconq_pl.metrics.reidentification import rerank as compute_reranked
from divconq_pl.metrics.retrieval import Answers, retrieval_metrics


def embed(
    trainer: pl.Trainer, module: pl.LightningModule, data: RetrievalDataModule, checkpoint: str | Path | None = None
) -> list[Tensor]:
    """Embed the test images.

    Args:
        trainer: runs the module; with several processes each of them embeds all images.
        module: the network.
        data: the images.
        checkpoint: the weights to load first; None takes those that the module has.

    Returns:
        L2-normalised embeddings on the Trainer's device: one tensor (N, d), or one each for query and gallery.

    Raises:
        InputError: if the trainer was told to leave all images out.
    """
    predicted: Any = trainer.predict(module, data, ckpt_path=checkpoint)
    if not predicted:
        raise InputError("there is no image to evaluate on; use trainer.limit_test_batches=null, or 1 or more")
    parts = predicted if isinstance(predicted[0], list) else [predicted]
    return [torch.cat(part).to(trainer.strategy.root_device) for part in parts]


def measure(
    embeddings: Sequence[Tensor],
    parts: Sequence[RetrievalDataset],
    seen: list[Answers] | None = None,
    *,
    recall_ks: Sequence[int] = (1, 2, 4, 8),
    map_at_r: bool = True,
    nmi_runs: int = 0,
    marp: bool = False,
    reid_draws: int = 0,
    cross_camera: bool = False,
    rerank: bool = False,
) -> dict[str, float]:
    """Compute the metrics of an embedded test set.

    Args:
        embeddings: one tensor (N, d), or one each for query and gallery.
        parts: the images embedded, likewise; more images than embeddings are left out at the end.
        seen: a list to which what each query was answered is added.
        recall_ks: the K of Recall@K.
        map_at_r: False leaves out MAP@R and R-precision, about half of the time where classes are large.
        nmi_runs: k-means runs to average the NMI over (the papers: 10); 0 leaves it out, since it clusters into as many
            clusters as there are classes.
        marp: also compute the papers' mARP, which is not MAP@R.
        reid_draws: galleries to average Recall@K of the re-identification protocol over (usually 10); 0 leaves it out.
        cross_camera: also compute mAP and CMC of re-identification, without matches of the query's own camera; the
            cameras are the groups of the images.
        rerank: also compute mAP and CMC after k-reciprocal re-ranking; likewise without such matches, if
            ``cross_camera`` is asked for, too.

    Returns:
        ``test/recall_at_<K>``, ``test/map_at_r``, ``test/r_precision`` and, where asked for, ``test/nmi``,
        ``test/marp``, ``test/reid_recall_at_<K>``, ``test/cross_camera_map``, ``test/cross_camera_cmc_<K>``,
        ``test/reranked_map`` and ``test/reranked_cmc_<K>``, as fractions in [0, 1];
        and what they are of: ``test/images`` and ``test/classes``, with ``test/queries`` where there is a gallery,
        whose images the former are. Of a single class there are these only.

    Raises:
        InputError: if cameras are needed and not known.
    """
    counts = {
        "test/images": len(embeddings[-1]),
        "test/classes": len(parts[-1].targets[: len(embeddings[-1])].unique()),
    }
    counts |= {"test/queries": len(embeddings[0])} if len(embeddings) > 1 else {}
    if counts["test/classes"] == 1:
        return {**counts}
    arguments = [x for rows, data in zip(embeddings, parts, strict=True) for x in (rows, data.targets[: len(rows)])]
    metrics = retrieval_metrics(
        *arguments, ks=recall_ks, map_at_r=map_at_r, nmi_runs=nmi_runs, marp=marp, reid_draws=reid_draws, seen=seen
    )
    if cross_camera or rerank:
        cameras = _list_cameras(embeddings, parts) if cross_camera else [torch.arange(len(rows)) for rows in embeddings]
        known = [data.targets[: len(rows)] for rows, data in zip(embeddings, parts, strict=True)]
        described = (known[0], cameras[0], known[-1], cameras[-1])
        if not cross_camera and len(parts) > 1:  # no image is another's
            described = (known[0], cameras[0] - len(cameras[0]), known[-1], cameras[-1])
        distances = {"cross_camera": 1 - embeddings[0] @ embeddings[-1].T} if cross_camera else {}
        distances |= {"reranked": compute_reranked(*embeddings)} if rerank else {}
        for name, values in distances.items():
            found = reidentification_metrics(values, *described, ks=recall_ks)
            metrics |= {f"{name}_{metric}": value for metric, value in found.items()}
    return {f"test/{name}": value for name, value in metrics.items()} | counts


def _list_cameras(embeddings: Sequence[Tensor], parts: Sequence[RetrievalDataset]) -> list[Tensor]:
    cameras = []
    for rows, data in zip(embeddings, parts, strict=True):
        if data.groups is None:
            raise InputError(
                "evaluation.cross_camera=true needs the camera of each image, and this data set does not say it; "
                "use dataset=market1501, or a column camera in dataset=csv"
            )
        cameras.append(data.groups[: len(rows)])
    return cameras


def check_channels(data: RetrievalDataModule, channels: int) -> None:
    """Refuse images that a network cannot take, before any is embedded.

    Args:
        data: the images.
        channels: the number of channels that the network takes.

    Raises:
        InputError: if the images have another number of channels.
    """
    found = len(data.tested[0].with_transform(data.test_transform)[0][0])
    if found != channels:
        raise InputError(
            f"the images to evaluate on have {found} channel(s), but the network of the checkpoint takes {channels}; "
            "choose another data set, or a network that was trained on such images"
        )


def check_protocol(protocol: str, dataset: Mapping[str, Any] | None) -> None:
    """Refuse to ask for classes that were trained on where the data set holds images of new classes only.

    Args:
        protocol: what the test asks for.
        dataset: the configuration of the data set.

    Raises:
        InputError: if the data set knows no other protocol than ``"open"``.
    """
    if protocol != "open" and "protocol" not in (dataset or {}):
        name = str((dataset or {}).get("_target_", "this data set")).rpartition(".")[2]
        raise InputError(
            f"protocol={protocol} asks for images of classes that are trained on, and {name} tests on new classes; use "
            "it with dataset=image_folder, csv or huggingface"
        )
