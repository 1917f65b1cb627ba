"""How far a run has come: the progress bar, the plan before the first step, the time it will take."""

from __future__ import annotations

import logging
import time
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import TQDMProgressBar

from divconq_pl.data import RetrievalDataModule, RetrievalDataset
from divconq_pl.lightning._trainer.progress import planned_epochs
from divconq_pl.lightning.callback import DivideConquerCallback
from divconq_pl.lightning.module import DivideConquerModule
from divconq_pl.report.page import tell_seconds

_TIMED = 20
"""Batches by which the time of a training is told."""

_log = logging.getLogger("divconq_pl")


class StageBar(TQDMProgressBar):
    """Lightning's bar, which also says what stage an epoch is, of how many learners, and R@1 of the last validation."""

    def on_train_epoch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """Name the epoch and its stage."""
        super().on_train_epoch_start(trainer)
        words = [f"epoch {trainer.current_epoch}/{planned_epochs(trainer)}"]
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, DivideConquerCallback) and callback.stage.phase in ("divided", "merged"):
                things = "learners" if callback.stage.phase == "divided" else "clusters"
                words.append(f"{callback.stage.phase}, {callback.num_clusters} {things}")
            elif isinstance(callback, DivideConquerCallback):
                words.append(callback.stage.phase)
        self.train_progress_bar.set_description(", ".join(words))

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        """Show the loss and R@1 of the validation classes under short names."""
        short = {"train/loss": "loss", "val/recall_at_1": "val R@1"}
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        return {short.get(name, name): value for name, value in metrics.items()}


class TellTime(pl.Callback):
    """Tell after the first 20 batches how long the training is going to take."""

    _began = 0.0

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Measure from the end of the first batch, in which much is done only once, to that of the 20th."""
        done, batches = batch_idx + 1, trainer.num_training_batches
        if trainer.current_epoch or not isinstance(batches, int):
            return
        if done == 1:
            self._began = time.perf_counter()
        elif self._began and done == min(_TIMED, batches):
            epoch = (time.perf_counter() - self._began) / (done - 1) * batches
            whole = epoch * max(planned_epochs(trainer), 1)
            text = f"about {tell_seconds(epoch)} an epoch, {tell_seconds(whole)} in all"
            _log.info(f"expected time: {text}, by {done} batches; validation and divisions come on top")


def describe_plan(
    trainer: pl.Trainer, module: DivideConquerModule, data: RetrievalDataModule, divide: pl.Callback
) -> list[str]:
    """Say in a few lines what is about to be trained on what.

    Args:
        trainer: the Trainer of the run.
        module: what is trained.
        data: the images.
        divide: the callback that divides, if it does.
    """
    batches = len(data.train_dataloader())
    limit = trainer.limit_train_batches
    limited = limit if isinstance(limit, int) else int(limit * batches)
    query, *gallery = data.tested
    tested = _count(query) if not gallery else f"{_count(query)} to find among {len(gallery[0]):,}"
    validated = data.splits.val
    miner = "" if module.miner is None else f", {type(module.miner).__name__}"
    lines = [
        f"training    {_count(data.splits.train)}",
        f"validation  {_count(validated) if validated and data.validate_on == 'val' else data.validate_on or 'none'}",
        f"test        {tested}; {'' if data.splits.protocol == 'open' else 'new images '}of classes that are "
        f"{'not ' if data.splits.protocol == 'open' else ''}trained on",
        f"batches     {min(batches, limited):,} an epoch, {data.batch_size} images each, {data.images_per_class} of a "
        "class",
        f"{_tell_length(trainer)}; how long that takes is told after the first batches",
        f"embedding   {module.embedding.out_features} numbers, {type(module.loss).__name__}{miner}",
    ]
    return lines if isinstance(divide, DivideConquerCallback) else [*lines, "schedule    no division: the plain loss"]


def _tell_length(trainer: pl.Trainer) -> str:
    if trainer.max_steps >= 0:
        return f"steps       {trainer.max_steps:,}"
    return f"epochs      {trainer.max_epochs}"


def _count(data: RetrievalDataset) -> str:
    return f"{len(data):,} images of {len(data.targets.unique()):,} classes"
