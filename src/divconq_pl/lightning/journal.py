"""What a training went through, epoch by epoch: what a report is made of."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from divconq_pl.core.division import Division
from divconq_pl.core.schedule import Stage


class Journal:
    """Notes of a training, as plain values that a checkpoint can hold.

    Attributes:
        epochs: one mapping per finished epoch: ``epoch``; ``phase`` and ``clusters``; ``losses`` and ``batches``, the
            mean loss and the number of batches of each learner (-1 stands for all together); ``metrics``, what was
            logged by its last validation; ``rates``, the learning rates by parameter group; ``seconds`` of it all and
            ``seconds_validation`` of its validations.
    """

    def __init__(self) -> None:
        self.epochs: list[dict[str, Any]] = []
        self._open: dict[str, Any] | None = None
        self._losses: dict[int, list[Tensor]] = {}
        self._metrics: dict[str, float] = {}
        self._began = self._validation_began = time.perf_counter()
        self._validating = 0.0

    def begin(self) -> None:
        """Note that the clock runs from now on."""
        self._began = time.perf_counter()

    def note_batch(self, learner: int | None, outputs: Any, scale: float = 1.0) -> None:
        """Note the loss of a batch, where the training step has returned one.

        Args:
            learner: whose batch it was; None for all.
            outputs: what the Trainer hands on from the training step.
            scale: by how much it has divided the loss.
        """
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if isinstance(loss, Tensor) and loss.numel() == 1:  # kept where it is: reading it would wait for the device
            self._losses.setdefault(-1 if learner is None else learner, []).append(loss.detach().reshape(()) * scale)

    def begin_validation(self) -> None:
        """Note that a validation begins."""
        self._validation_began = time.perf_counter()

    def end_validation(self, metrics: Mapping[str, Any]) -> None:
        """Note what a validation has measured."""
        self._validating += time.perf_counter() - self._validation_began
        self._metrics = {name: float(value) for name, value in metrics.items() if torch.as_tensor(value).numel() == 1}

    def begin_epoch(self, epoch: int, stage: Stage, clusters: int) -> None:
        """Note which epoch the next batches belong to, and end the last one, if a resumed fit has not done so."""
        if self._open is not None and self._open["epoch"] != epoch and self._losses:
            self.end_epoch({})
        self._losses, self._open = {}, {"epoch": epoch, "phase": stage.phase, "clusters": clusters}

    def end_epoch(self, rates: Mapping[str, float]) -> dict[str, Any]:
        """Note that an epoch is over.

        Returns:
            What was noted of it.
        """
        now, sums = time.perf_counter(), self._sums()
        noted = {
            **(self._open or {}),
            "losses": {learner: total / count for learner, (total, count) in sums.items()},
            "batches": {learner: count for learner, (_, count) in sums.items()},
            "metrics": self._metrics,
            "rates": dict(rates),
            "seconds": now - self._began,
            "seconds_validation": self._validating,
        }
        self.epochs.append(noted)
        self._open, self._losses, self._metrics, self._validating, self._began = None, {}, {}, 0.0, now
        return noted

    def state(self) -> dict[str, Any]:
        """Return all notes, those of an epoch that is not over too, as plain values."""
        return {
            "epochs": [dict(epoch) for epoch in self.epochs],
            "open": self._open,
            "sums": self._sums(),
            "metrics": dict(self._metrics),
        }

    def load_state(self, state: Mapping[str, Any] | None) -> None:
        """Restore what :meth:`state` returned; a checkpoint of before there was a journal has none."""
        if state is None:
            return
        self.epochs = [dict(epoch) for epoch in state["epochs"]]
        self._open, self._metrics = state["open"], dict(state["metrics"])
        self._losses = {k: [torch.tensor(total / count)] * count for k, (total, count) in state["sums"].items()}

    def _sums(self) -> dict[int, tuple[float, int]]:
        return {k: (float(torch.stack(v).double().sum()), len(v)) for k, v in sorted(self._losses.items())}


class JournalKeeper(pl.Callback):
    """Keep the :class:`Journal` of a fit.

    Attributes:
        journal: the notes of the running fit, or of the last one.
    """

    journal: Journal
    stage: Stage
    _clusters: Division | None = None

    @property
    def num_clusters(self) -> int:
        """How many clusters, and learners, there are now."""
        return 1 if self._clusters is None else self._clusters.num_clusters

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Let the clock run."""
        super().on_train_start(trainer, pl_module)
        self.journal.begin()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note the epoch and its stage, once that is entered."""
        super().on_train_epoch_start(trainer, pl_module)
        self.journal.begin_epoch(trainer.current_epoch, self.stage, self.num_clusters)

    def note_batch(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, learner: int | None = None
    ) -> None:
        """Note the loss of a batch, which the Trainer divides by the batches of a step in automatic optimisation."""
        scale = trainer.accumulate_grad_batches if pl_module.automatic_optimization else 1
        self.journal.note_batch(learner, outputs, scale)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note that a validation begins."""
        super().on_validation_start(trainer, pl_module)
        self.journal.begin_validation()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note what a validation has measured."""
        super().on_validation_end(trainer, pl_module)
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self.journal.end_validation(trainer.callback_metrics)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note how the epoch went, and log the mean loss of each learner."""
        rates = {
            str(group.get("name", number)): float(group["lr"])
            for optimizer in trainer.optimizers
            for number, group in enumerate(optimizer.param_groups)
        }
        losses = self.journal.end_epoch(rates)["losses"]
        live = {f"rate/{name}": value for name, value in rates.items()}
        live |= {f"learner/{k}/loss": value for k, value in losses.items() if k >= 0}
        if self.num_clusters > 1:
            live["division/learners"] = float(self.num_clusters)
        for logger in trainer.loggers:
            logger.log_metrics(live, step=trainer.global_step)
        super().on_train_epoch_end(trainer, pl_module)


class PlainJournal(JournalKeeper):
    """Keep the journal of a training that is not divided."""

    def __init__(self) -> None:
        self.stage = Stage("undivided", 0)
        self.journal = Journal()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Note the loss."""
        self.note_batch(trainer, pl_module, outputs)

    def state_dict(self) -> dict[str, Any]:
        """Return the notes."""
        return self.journal.state()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self.journal.load_state(state_dict)
