"""Find, embed and compare: what evaluate.py does with one or several checkpoints."""

from __future__ import annotations

import glob
from collections.abc import Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from divconq_pl.app.results import average_over_seeds, natural
from divconq_pl.data import RetrievalDataModule, RetrievalDataset
from divconq_pl.errors import InputError
from divconq_pl.metrics.neighbours import unit_rows
from divconq_pl.metrics.retrieval import retrieval_metrics


def find_checkpoints(given: str | Sequence[str]) -> list[Path]:
    """List the checkpoints that a user names.

    Args:
        given: A path, or several: of a checkpoint; of the folder of a run or a multirun, whose
            ``checkpoints/best.ckpt`` are meant (``last.ckpt`` where a run has no best epoch); or a pattern with ``*``.

    Returns:
        The files, in the order given; those of a folder or pattern in the order of their names (2 before 10). A path to
        no file is returned as it is, for the reader of checkpoints to refuse.

    Raises:
        InputError: If a folder or a pattern leads to no checkpoint, or there is none.
    """
    found: list[Path] = []
    for path in [given] if isinstance(given, str) else given:
        if Path(path).is_dir():
            runs = [Path(path), *sorted(Path(path).iterdir(), key=lambda path: natural(str(path)))]
            matches = [c for run in runs if (c := _of_run(run)) is not None]
        elif "*" in path:
            matches = sorted(map(Path, glob.glob(path)), key=lambda path: natural(str(path)))
        else:
            matches = [Path(path)]
        if not matches:
            raise InputError(
                f"checkpoint={path!r} leads to no checkpoint; name a file, or the folder of a run or sweep"
            )
        found += matches
    if not found:
        raise InputError("no checkpoint given; use checkpoint=PATH or checkpoint=[PATH,PATH]")
    return found


def name_checkpoints(paths: Sequence[Path]) -> list[str]:
    """Name each checkpoint by the part of its path in which they differ; a single one by its file name.

    Example:
        >>> name_checkpoints([Path("sweep/0/checkpoints/best.ckpt"), Path("sweep/1/checkpoints/best.ckpt")])
        ['0', '1']
    """
    if len(set(paths)) < 2:
        return [path.name for path in paths]
    parts = [path.parts for path in paths]
    first = _num_common(parts)
    last = _num_common([p[first:][::-1] for p in parts])
    return [str(Path(*p[first : len(p) - last])) for p in parts]


def embed(trainer: pl.Trainer, module: pl.LightningModule, data: RetrievalDataModule) -> list[Tensor]:
    """Return the L2-normalised embeddings of the test images: one tensor (N, d), or one each for query and gallery.

    Raises:
        InputError: If the trainer was told to leave all of them out.
    """
    predicted: Any = trainer.predict(module, data)
    if not predicted:
        raise InputError("no image is evaluated on; use trainer.limit_test_batches=null, or 1 or more")
    parts = predicted if isinstance(predicted[0], list) else [predicted]
    return [torch.cat(part) for part in parts]


def check_channels(data: RetrievalDataModule, channels: int) -> None:
    """Refuse images that a network cannot take, before any is embedded.

    Raises:
        InputError: If the images have another number of channels.
    """
    found = len(data.tested[0].with_transform(data.test_transform)[0][0])
    if found != channels:
        raise InputError(
            f"the images to evaluate on have {found} channel(s), but the network of the checkpoint takes {channels}; "
            "choose another data set, or a network that was trained on such images"
        )


def check_same_images(
    before: tuple[RetrievalDataset, ...], now: tuple[RetrievalDataset, ...], path: Path
) -> tuple[RetrievalDataset, ...]:
    """Refuse to compare checkpoints on different images.

    Args:
        before: the test images of the checkpoints before, none for the first.
        now: those of this one.
        path: the checkpoint.

    Returns:
        ``now``.

    Raises:
        InputError: If the images or their classes are others.
    """
    if before and list(map(_identity, before)) != list(map(_identity, now)):
        raise InputError(
            f"the run of {str(path)!r} has other test images than that of the checkpoint before, so they cannot be "
            "compared; name the images to evaluate on with dataset=..."
        )
    return now


def concatenated(embeddings: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """Put the embeddings of several networks side by side, each L2-normalised, and normalise the result.

    Args:
        embeddings: Of each network, one tensor (N, d) for each part of the test set.

    Returns:
        One tensor (N, sum of d) for each part.
    """
    return [unit_rows(torch.cat([unit_rows(part) for part in parts], dim=1)) for parts in zip(*embeddings, strict=True)]


def measure(embeddings: Sequence[Tensor], parts: Sequence[RetrievalDataset], **options: Any) -> dict[str, float]:
    """Compute the metrics of an embedded test set, under the names that train.py gives them.

    Args:
        embeddings: One tensor (N, d), or one each for query and gallery.
        parts: The images embedded, likewise; more images than embeddings are left out at the end.
        options: As :func:`~divconq_pl.metrics.retrieval.retrieval_metrics` takes them.

    Returns:
        ``test/recall_at_1`` and so on.
    """
    arguments = [x for rows, data in zip(embeddings, parts, strict=True) for x in (rows, data.targets[: len(rows)])]
    return {f"test/{name}": value for name, value in retrieval_metrics(*arguments, **options).items()}


def compared(rows: Sequence[Mapping[str, Any]], together: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Lay out an evaluation of several checkpoints: each, their mean and deviation, and all embeddings side by side.

    "Separated" and "concatenated" are the two ways in which "A Metric Learning Reality Check" (Musgrave et al., 2020)
    reports the folds of a cross-validation.

    Args:
        rows: Results of each checkpoint.
        together: Results of the concatenated embeddings.

    Returns:
        Rows of a table of results.
    """
    (mean,) = average_over_seeds([{**row, "overrides": []} for row in rows])
    return [*map(dict, rows), {**mean, "name": "separated, mean"}, {**together, "name": "concatenated"}]


def _num_common(paths: Sequence[tuple[str, ...]]) -> int:
    """Count the components with which all paths begin."""
    return sum(1 for _ in takewhile(lambda names: len(set(names)) == 1, zip(*paths, strict=False)))


def _identity(data: RetrievalDataset) -> tuple[list[str], list[int], list[str]]:
    return data.classes, data.targets.tolist(), [data.name_of(i) for i in range(len(data))]


def _of_run(folder: Path) -> Path | None:
    candidates = (folder / "checkpoints" / f"{name}.ckpt" for name in ("best", "last"))
    return next((path for path in candidates if path.is_file()), None)
