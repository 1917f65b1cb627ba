"""Reports from any Lightning project."""

from __future__ import annotations

import platform
import shlex
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor
from torch.utils.data import DataLoader

from divconq_pl.errors import InputError
from divconq_pl.lightning.callback import DivideConquerCallback
from divconq_pl.lightning.feature_pass import evaluating
from divconq_pl.lightning.journal import PlainJournal
from divconq_pl.lightning.reading import UsualReader
from divconq_pl.metrics.neighbours import unit_rows
from divconq_pl.metrics.retrieval import answer_queries, retrieval_metrics
from divconq_pl.report.material import Images, Material
from divconq_pl.report.page import write_page

_PACKAGES = ("divconq-pl", "torch", "pytorch-lightning", "pytorch-metric-learning", "faiss-cpu", "numpy")


class ReportCallback(PlainJournal):
    """Write ``report.html`` at the end of a fit, also of one that is stopped, and also without a division.

    Args:
        folder: where it goes; by default the logger's folder, or else the Trainer's ``default_root_dir``.

    Example:
        >>> trainer = pl.Trainer(callbacks=[ReportCallback("out")], logger=False)
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        super().__init__()
        self._folder = folder

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the report, on one process."""
        self._write(trainer)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Write what there is of the report when a fit is stopped."""
        if self.journal.epochs and trainer.state.fn == "fit":
            self._write(trainer)

    def _write(self, trainer: pl.Trainer) -> None:
        if trainer.is_global_zero:
            folder = self._folder or trainer.log_dir or trainer.default_root_dir
            rank_zero_info(f"report: {write_report(trainer, folder)}")


def write_report(trainer: pl.Trainer, folder: str | Path) -> Path:
    """Write ``report.html`` about the last fit of a Trainer.

    The training images come from its training loader. Its test loader, or else its validation loader (the first of
    several), gives the images that are embedded and looked at.

    Args:
        trainer: after ``fit``. Its :class:`.DivideConquerCallback`, if it has one, has collected what is shown; a
            :class:`ReportCallback` collects for a training that is not divided.
        folder: where the file goes; it is made if it does not exist.

    Returns:
        The file.

    Raises:
        InputError: if the Trainer has not trained anything.
    """
    if trainer.train_dataloader is None:
        raise InputError("write_report needs a Trainer that has trained something; call trainer.fit(...) first")
    divide = _find(trainer, DivideConquerCallback)
    keeper: Any = divide or _find(trainer, ReportCallback)
    reader = divide or UsualReader()
    loader = trainer.train_dataloader
    material = Material(
        title=f"{type(trainer.lightning_module).__name__}",
        epochs=keeper.journal.epochs if keeper else (),
        versions=list_versions(),
        command=shlex.join([Path(sys.executable).name, *sys.argv]),
        settings=_list_hparams(trainer.lightning_module),
    )
    dataset = getattr(loader, "dataset", None)
    labels = None if dataset is None else reader.dataset_labels(dataset)
    if divide is not None and divide.division is not None:
        labels = divide.labels if divide.labels is not None else labels
        material.divisions, material.subspaces = divide.history, divide.subspaces
        material.assignment = divide.division.assignment.numpy()
    if dataset is not None and labels is not None:
        material.train = Images.of_dataset(dataset, labels)
    _add_test(material, trainer, reader)
    return write_page(material, Path(folder) / "report.html")


def list_versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that make a difference, where they are installed."""
    found = {"Python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _add_test(material: Material, trainer: pl.Trainer, reader: UsualReader) -> None:
    """Embed the images of the test loader, or of the validation loader, and judge the answers."""
    loader = _first(trainer.test_dataloaders) or _first(trainer.val_dataloaders)
    if loader is None:
        return
    try:
        embeddings, labels = _embed(trainer, loader, reader)
    except Exception as error:  # a module may want batches of any kind; the rest of the report does without
        rank_zero_warn(f"the report has no test images: embedding a batch of the loader failed ({error})")
        return
    if len(embeddings):
        material.test = Images.of_dataset(loader.dataset, labels.numpy())
        material.embeddings = [embeddings]
        material.answers = answer_queries(embeddings, labels)
        metrics = retrieval_metrics(embeddings, labels)
        material.results = {f"test/{name}": value for name, value in metrics.items()}


@torch.no_grad()
def _embed(trainer: pl.Trainer, loader: DataLoader[Any], reader: UsualReader) -> tuple[Tensor, Tensor]:
    module, rows, labels = trainer.lightning_module, [], []
    with evaluating(module):
        for batch in loader:
            labels.append(torch.as_tensor(np.asarray(reader.batch_labels(batch))).cpu())
            moved = trainer.strategy.batch_to_device(batch)
            rows.append(unit_rows(module(reader.batch_inputs(moved))).cpu())
    return (torch.cat(rows), torch.cat(labels).long()) if rows else (torch.zeros(0, 1), torch.zeros(0))


def _first(loaders: Any) -> DataLoader[Any] | None:
    first = loaders[0] if isinstance(loaders, list | tuple) and loaders else loaders
    return first if isinstance(first, DataLoader) else None


def _find(trainer: pl.Trainer, kind: type[Any]) -> Any:
    return next((callback for callback in trainer.callbacks if isinstance(callback, kind)), None)  # type: ignore[attr-defined]


def _list_hparams(module: pl.LightningModule) -> dict[str, Any]:
    hparams: Mapping[str, Any] = getattr(module, "hparams", None) or {}
    return {str(name): value for name, value in hparams.items()}
