"""The report of a run, ``report.html``, and the notes that other runs are compared with, ``notes.json``."""

from __future__ import annotations

import json
import logging
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from hydra.core.hydra_config import HydraConfig
from numpy.typing import NDArray
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from divconq_pl.app.going_on import spell_program
from divconq_pl.app.results import flatten
from divconq_pl.app.runs import Compared, Run
from divconq_pl.core.subspaces import Subspaces
from divconq_pl.data import RetrievalDataModule
from divconq_pl.errors import InputError
from divconq_pl.files import write_atomically
from divconq_pl.lightning.callback import DivideConquerCallback
from divconq_pl.lightning.feature_pass import evaluating
from divconq_pl.lightning.journal import JournalKeeper
from divconq_pl.metrics.neighbours import unit_rows
from divconq_pl.metrics.retrieval import Answers
from divconq_pl.report import Images, Material, write_page
from divconq_pl.report.callback import list_versions

NOTES_FILE = "notes.json"
"""``epochs`` and ``divisions`` of a run, as :class:`.Journal` and :func:`.summarise` describe them."""

_CENTRAL = 12
_log = logging.getLogger("divconq_pl")


@dataclass
class Notes:
    """What was noted of a training, taken before its test restores the best epoch.

    Attributes:
        epochs: a mapping for each epoch.
        divisions: a mapping for each division.
        assignment: cluster of each training image at the last one.
        subspaces: of the learners.
        last_epoch: the last epoch, from 0.
    """

    epochs: list[dict[str, Any]] = field(default_factory=list)
    divisions: list[dict[str, Any]] = field(default_factory=list)
    assignment: NDArray[Any] | None = None
    subspaces: Subspaces | None = None
    last_epoch: int = 0


def collect_notes(trainer: pl.Trainer) -> Notes:
    """Take the notes of a training that has ended."""
    notes = Notes(last_epoch=trainer.current_epoch - 1)
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, JournalKeeper) and len(callback.journal.epochs) >= len(notes.epochs):
            notes.epochs = list(callback.journal.epochs)
        if isinstance(callback, DivideConquerCallback) and callback.division is not None:
            notes.divisions, notes.subspaces = list(callback.history), callback.subspaces
            notes.assignment = callback.division.assignment.numpy()
    return notes


def report_run(
    folder: Path,
    cfg: DictConfig,
    data: RetrievalDataModule,
    notes: Notes,
    compared: Compared | None = None,
    *,
    module: pl.LightningModule | None = None,
    embeddings: Sequence[Tensor] = (),
    answers: Answers | None = None,
    seconds: Mapping[str, float] | None = None,
) -> Path | None:
    """Write the report of a run and its notes.

    Args:
        folder: of the run.
        cfg: its configuration.
        data: the images.
        notes: of the training.
        compared: with the plain run, if it came to its end.
        module: the network with the weights that were tested; None if none were.
        embeddings: of the test images.
        answers: what each query was answered.
        seconds: what else took how long, by name.

    Returns:
        The report; None where the run has no epoch to report.
    """
    if not notes.epochs:
        return None
    began = time.perf_counter()
    write_notes(folder, notes)
    hydra: Any = HydraConfig.get()
    run, plain, verdict = compared or (None, None, "The run was stopped before its end.")
    parts = [_describe_images(part, len(rows)) for part, rows in zip(data.tested, embeddings, strict=False)]
    material = Material(
        title=_name_run(cfg),
        epochs=notes.epochs,
        divisions=notes.divisions,
        train=_describe_images(data.splits.train),
        assignment=notes.assignment,
        subspaces=notes.subspaces,
        test=parts[0] if parts else None,
        gallery=parts[1] if len(parts) > 1 else None,
        embeddings=embeddings,
        centres=None if module is None else _embed_centres(module, data, notes.divisions),
        answers=answers,
        protocol=cfg.protocol,
        seconds=seconds or {},
        results={} if run is None else run.results,
        plain=None if plain is None else _describe(plain),
        verdict=verdict,
        settings=list_settings(cfg),
        versions=list_versions(),
        command=f"{spell_program(hydra)} {shlex.join(hydra.overrides.task)}",
        chosen_epoch=None if run is None else run.results.get("epoch"),
    )
    path = write_page(material, folder / "report.html")
    _log.info(f"report: {path} ({time.perf_counter() - began:.1f} s)")
    return path


@contextmanager
def timing(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Add the seconds that something takes to those of its name."""
    began = time.perf_counter()
    yield
    seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - began


def write_notes(folder: Path, notes: Notes) -> Path:
    """Write what other runs are compared with."""
    divisions = [{key: value for key, value in summary.items() if key != "central"} for summary in notes.divisions]
    text = json.dumps({"epochs": notes.epochs, "divisions": divisions})
    return write_atomically(folder / NOTES_FILE, text)


def read_epochs(folder: Path) -> list[dict[str, Any]]:
    """Return the notes of each epoch of a run; none where it has left none.

    Raises:
        InputError: if the file is damaged.
    """
    path = folder / NOTES_FILE
    if not path.is_file():
        return []
    try:
        return list(json.loads(path.read_text(encoding="utf-8"))["epochs"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"'{path}' does not hold the notes of a run ({error}); remove it") from error


def list_settings(cfg: DictConfig) -> dict[str, Any]:
    """Return the whole configuration of a run, nested keys joined by dots."""
    return flatten(OmegaConf.to_container(cfg, resolve=True))  # type: ignore[arg-type]


def _name_run(cfg: DictConfig) -> str:
    choices = HydraConfig.get().runtime.choices
    return f"{choices['dataset']}, {choices['loss']}, divide={choices['divide']}, seed {cfg.seed}"


def _describe_images(part: Any, count: int | None = None) -> Images:
    return Images.of_dataset(part, part.targets[:count].numpy())


def _describe(plain: Run) -> dict[str, Any]:
    return {"name": plain.place, "results": plain.results, "epochs": read_epochs(plain.folder)}


@torch.no_grad()
def _embed_centres(
    module: pl.LightningModule, data: RetrievalDataModule, divisions: Sequence[dict[str, Any]]
) -> Tensor | None:
    """Embed the images nearest to each cluster's centre, and return the mean of each cluster."""
    central = divisions[-1].get("central") if divisions else None
    if not central:
        return None
    images = data.cluster_dataset()
    with evaluating(module):
        means = [
            unit_rows(module(torch.stack([images[i][0] for i in members[:_CENTRAL]]).to(module.device))).mean(0)
            for members in central
        ]
    return unit_rows(torch.stack(means)).cpu()
