"""Divide and conquer for any LightningModule, by one more callback."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
from pytorch_lightning.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import Dataset

from divconq_pl.core.cluster_stream import Draw
from divconq_pl.core.clustering import Cluster, Start, choose_clustering
from divconq_pl.core.division import Division
from divconq_pl.core.sampling import Allotment
from divconq_pl.core.schedule import ConquerScheduler, Stage, check_single_plan
from divconq_pl.core.subspaces import Subspaces
from divconq_pl.errors import InputError
from divconq_pl.lightning import reading
from divconq_pl.lightning._trainer import base, loaders, progress
from divconq_pl.lightning.continuity import Record
from divconq_pl.lightning.data_check import check_divisibility, compare_data
from divconq_pl.lightning.dividing import Divider
from divconq_pl.lightning.journal import Journal, JournalKeeper
from divconq_pl.lightning.learners import Learners, MakeSubspaces
from divconq_pl.lightning.rehearsal import Rehearsal
from divconq_pl.lightning.resume import ExactResume
from divconq_pl.lightning.routing import BatchRouter
from divconq_pl.losses.narrowing import WeightDims

PLAN = tuple(name for name in inspect.signature(ConquerScheduler).parameters if name != "max_epochs")
"""What a schedule is made from."""

SETTINGS = (
    *("cluster_on", "features", "start", "whole_classes"),  # of divisions
    *("images_per_class", "allotment", "draw", "isolate", "seed"),  # of steps
)
"""What else decides how the training goes, by which a checkpoint is compared."""


class DivideConquerCallback(reading.UsualReader, JournalKeeper, ExactResume):
    """Train an embedding by "Divide and Conquer" (Sanakoyeu et al., TPAMI 2021).

    Every ``every_n_epochs`` epochs the training images are clustered by what the network makes of them, and the
    embedding is cut into as many subspaces. Until the next division every batch comes from one cluster and trains
    that cluster's subspace (and the shared backbone) with the module's own loss and miner. In the end the full
    embedding is trained on all the data. Validation, test and prediction always see the full embedding.

    While there is a single cluster, the module's own loader delivers its own batches and nothing is narrowed; with
    ``split_depth=0`` that is the whole training, bit for bit.

    A module or a data set that keeps things elsewhere than usual is met by overriding :meth:`~.UsualReader.embed`,
    :meth:`~.UsualReader.batch_inputs`, :meth:`~.UsualReader.batch_labels` or :meth:`~.UsualReader.dataset_labels`.

    Args:
        schedule: what happens in which epoch. Without one it is a :class:`.ConquerScheduler`, made from the next eight
            arguments, which are described there.
        split_depth, every_n_epochs, warmup_epochs, freeze_epochs, merge_at, conquer_at, flat, progressive: as above.
        subspaces: ``"fixed"`` slices, ``"learned"`` masks, ``"zeroed"`` coordinates (slices among zeros),
            ``"random"`` ones in each batch, or a function of the embedding's width and the split depth that makes them,
            such as ``partial(LearnedSubspaces, lr_factor=10)``.
        cluster_on: what is clustered: the ``"penultimate"`` features or the ``"embedding"``.
        embedding: dotted name of the layer that gives the embedding; by default ``embedding`` if the module has it,
            otherwise its last linear layer.
        cluster_dataset: the training images in the same order with the test-time transform; by default the data
            module's ``cluster_dataset()`` if it has one, otherwise the training data set as it is.
        clustering: k-means backend (``"auto"``, ``"faiss"``, ``"torch"``), ``"random"`` as a control, or a function.
            ``"auto"`` is torch. With several processes it leaves features where they are; for faiss or a function other
            than :func:`.kmeans` they are gathered on every process.
        start: where k-means starts: with other seeds in each division (``"anew"``), with the ``"same_seed"`` as in the
            authors' code, or at the centres of the ``"previous"`` clusters.
        whole_classes: cluster the means of the classes instead of the images, so that no class is cut.
        features: what is clustered is made by a pass over all images (``"exact"``), or is what ``"training"`` has made
            of them since the last division, with a pass over the rest; see :class:`.LastFeatures`.
        feature_store: folder for the features that are clustered, in a memory-mapped file of float16 that is gone after
            the division; by default they are in memory.
        images_per_class, allotment, draw: what batches consist of, see :class:`.ClusterBatchSampler`.
        weight_dims: for losses of your own that own embedding-shaped weights, see :func:`.narrow_losses`.
        isolate: keep the coordinates of the embedding layer and of the losses' weights outside of the active subspace
            exactly where they are; otherwise momentum and weight decay move them, as in the authors' code. Costs a copy
            of these parameters and their optimiser state per step; fixed subspaces only.
        seed: seed of clusterings and batches.

    Attributes:
        division: who was put in which cluster by the last division, None before the first.
        history: a summary of every division so far, see :func:`.summarise`; of the last one also ``central``, the
            images nearest to each cluster's centre.
        labels: class of each training image at the last division, shape (N,).
        journal: what each epoch was like, see :class:`.Journal`.
        stage: the stage of the current epoch.
        learner: the learner the current batch belongs to, None while there is only one.

    Example:
        >>> callback = DivideConquerCallback(split_depth=3, every_n_epochs=2, merge_at=0.5)
        >>> trainer = pl.Trainer(callbacks=[callback], logger=False, enable_progress_bar=False, max_epochs=20)
    """

    def __init__(
        self,
        schedule: ConquerScheduler | None = None,
        *,
        split_depth: int = 2,
        every_n_epochs: int = 2,
        warmup_epochs: int | float | None = None,
        freeze_epochs: int = 0,
        merge_at: int | float | Literal["auto"] | None = "auto",
        conquer_at: int | float | None = None,
        flat: bool = False,
        progressive: bool = False,
        subspaces: Literal["fixed", "learned", "zeroed", "random"] | MakeSubspaces = "fixed",
        cluster_on: Literal["penultimate", "embedding"] = "penultimate",
        embedding: str | None = None,
        cluster_dataset: Dataset[Any] | None = None,
        clustering: Literal["auto", "faiss", "torch", "random"] | Cluster = "auto",
        start: Start = "anew",
        whole_classes: bool = False,
        features: Literal["exact", "training"] = "exact",
        feature_store: str | Path | None = None,
        images_per_class: int = 4,
        allotment: Allotment = "proportional",
        draw: Draw = "images",
        weight_dims: WeightDims | None = None,
        isolate: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        given = locals()
        self._plan = {name: given[name] for name in PLAN}
        self._given_schedule = schedule
        check_single_plan(schedule, self._plan)
        cluster = choose_clustering(clustering, start)
        learners = self._learners = Learners(subspaces, embedding, weight_dims, isolated=isolate)
        router = self._router = BatchRouter(images_per_class, allotment, draw, seed, self)
        self._divider = Divider(
            router, learners, cluster, cluster_on, cluster_dataset, features, feature_store, start, whole_classes, seed
        )
        self._settings = {name: given[name] for name in SETTINGS}
        self._reset()

    def _reset(self) -> None:
        self.division: Division | None = None
        self.history: list[dict[str, Any]] = []
        self.stage = Stage("undivided", 0)
        self.learner: int | None = None
        self._clusters = None  # the division, or what the conquer stage has left of it
        self._since = -1  # the epoch since which there are these clusters
        self.labels: Tensor | None = None
        self._record, self.journal = Record(), Journal()
        self._router.reset()
        self._learners.reset()
        self._divider.last.reset()

    @property
    def subspaces(self) -> Subspaces | None:
        """The subspaces of the running fit, or of the last one."""
        return self._learners.subspaces

    # When to divide, and when to conquer.

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Make the schedule, and refuse what cannot be divided."""
        super().setup(trainer, pl_module, stage)
        if stage != "fit":
            return
        self._learners.detach()
        if trainer.current_epoch == 0:
            self._reset()
        self.schedule = self._make_schedule(trainer)
        if self.schedule.split_depth:
            base.check_strategy(trainer)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Rehearse, and refuse what could not be divided later; then pick up the thread where an epoch was left."""
        if trainer.max_steps >= 0:  # by now they tell epochs; others may have changed max_epochs
            self.schedule = self._make_schedule(trainer)
        if self.schedule.split_depth:
            epochs = progress.planned_epochs(trainer)
            rank_zero_info("schedule    " + self.schedule.describe(epochs).replace("; ", "\n            "))
            if told := self.schedule.shortfall(epochs):
                rank_zero_warn(told)
            self._prepare(trainer)
        super().on_train_start(trainer, pl_module)

    def enter_epoch(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *, anew: bool) -> None:
        """Enter the stage of an epoch: divide, merge, or stay."""
        before, self.stage = self.stage, self.schedule.stage(trainer.current_epoch)
        self._divider.plan(self.schedule, trainer)
        if not anew:
            return
        if self.stage.divides and self._since != trainer.current_epoch:
            self._divide(trainer)
        elif self._clusters is not None and self._clusters.depth > self.stage.depth:
            self._set_clusters(self._clusters.merged(self.stage.depth), since=trainer.current_epoch)
        if self._clusters is not None and (before.phase, before.depth) != (self.stage.phase, self.stage.depth):
            doing = self.stage.describe(self.num_clusters)
            rank_zero_info(f"{self.stage.phase} | epoch {trainer.current_epoch} | {doing}")

    # Whose batch this is.

    def draw_batches(self, trainer: pl.Trainer, *, renew: bool, done: int) -> None:
        """Let the epoch's batches come from single clusters, or from the user's own loader while there is one."""
        if self._clusters is None or not self._clusters.depth:
            self._router.draw_from_user(trainer)
            super().draw_batches(trainer, renew=renew, done=done)
        else:
            assert self.labels is not None, "a division comes with its labels"
            renew = renew and not loaders.restores_its_batches(trainer)
            self._router.draw_from_clusters(trainer, self._clusters, self.labels, self._since, renew=renew, done=done)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Make the learner that the batch belongs to the active one."""
        self.learner = self._router.next_learner()
        divided = self.stage.phase == "divided"
        self._learners.activate(self.learner if divided else None, divided=divided)
        self._divider.last.expect(self._router.images(trainer))

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Note the loss, and return to the full embedding, after a look at the first step since a division."""
        self.note_batch(trainer, pl_module, outputs, self.learner)
        self._divider.last.note(pl_module)
        self._learners.check_step(trainer, pl_module)
        self._return_to_full_embedding()
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    # What becomes of gradients.

    def on_before_zero_grad(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer) -> None:
        """Forget the learners whose gradients are dropped now: a scaler of gradients may have skipped their step."""
        self._learners.drop_gradients(optimizer)

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        """Stop at a loss that is NaN or infinite, before it gets into the weights."""
        if self.schedule.split_depth:
            self._router.check_loss(trainer, loss)
            self._divider.last.note(pl_module)

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        """Leave a frozen backbone as it is."""
        if self.stage.frozen:
            self._learners.freeze_backbone()

    # How a fit ends, and what it leaves.

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Leave module and loaders as they were."""
        if stage == "fit":
            self._return_to_full_embedding()
            self._learners.detach()
            loaders.give_loader_back(trainer)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Leave the module as it was, at the last whole batch, whatever happened in the middle of one."""
        super().on_exception(trainer, pl_module, exception)
        self.teardown(trainer, pl_module, "fit")

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the features of training that the next division will ask for."""
        super().on_save_checkpoint(trainer, pl_module, checkpoint)
        checkpoint["callbacks"][self.state_key]["features"] = self._divider.last.state(gather=not self._failed)

    @property
    def state_key(self) -> str:
        """The name of the callback in a checkpoint."""
        return "DivideConquerCallback"

    def state_dict(self) -> dict[str, Any]:
        """Return the division, its history and what learners have of their own, as tensors and plain values."""
        return {
            **super().state_dict(),
            **self._record.state(),
            "journal": self.journal.state(),
            "assignment": None if self.division is None else self.division.assignment,
            "division_depth": None if self.division is None else self.division.depth,
            "depth": None if self._clusters is None else self._clusters.depth,
            "since": self._since,
            "labels": self.labels,
            "history": [dict(summary) for summary in self.history],
            "learners": self._learners.state(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned.

        Raises:
            InputError: if it was written by an unknown version, or with more learners than there are now.
        """
        super().load_state_dict(state_dict)
        self._record.load_state(state_dict)
        self._divider.last.load_state(state_dict.get("features"))
        self.journal.load_state(state_dict.get("journal"))
        self.history = [dict(summary) for summary in state_dict["history"]]
        self.labels = state_dict["labels"]
        assigned = state_dict["assignment"]
        self.division = None if assigned is None else Division(assigned, state_dict["division_depth"])
        split_depth = self.schedule.split_depth if hasattr(self, "schedule") else 0
        if not split_depth:  # nothing is trained, or nothing is divided
            return
        if self.division is not None:
            if state_dict["depth"] > split_depth:
                raise InputError(
                    f"the checkpoint was written while there were {2 ** state_dict['depth']} learners; resume with a "
                    f"split_depth of {state_dict['depth']} or more instead of {split_depth}"
                )
            self._set_clusters(self.division.merged(state_dict["depth"]), since=state_dict["since"])
        self._learners.load_state(state_dict["learners"])

    # How it is done.

    def _make_schedule(self, trainer: pl.Trainer) -> ConquerScheduler:
        return self._given_schedule or ConquerScheduler(**self._plan, max_epochs=progress.planned_epochs(trainer))

    def _trained(self, module: nn.Module) -> dict[str, nn.Module]:
        return super()._trained(module) | ({} if self.subspaces is None else {f"{self.state_key}/": self.subspaces})

    def _return_to_full_embedding(self) -> None:
        self.learner = None
        self._learners.activate(None, divided=False)

    def _divide(self, trainer: pl.Trainer) -> None:
        self.division, self.labels, summary = self._divider.divide(
            trainer, self._clusters, self.stage, flat=self.schedule.flat, number=len(self.history) + 1
        )
        self.history = [{**old, "central": []} for old in self.history] + [summary]  # only the last are looked at
        self._set_clusters(self.division, since=trainer.current_epoch)

    def _set_clusters(self, clusters: Division, since: int) -> None:
        """Make clusters, and as many subspaces, the present ones."""
        self._clusters, self._since = clusters, since
        self._learners.set_depth(clusters.depth)

    def _prepare(self, trainer: pl.Trainer) -> None:
        """Refuse what cannot be divided, attach the learners, and find out how batches become features."""
        split_depth = self.schedule.split_depth
        check_divisibility(trainer, self._router, 2**split_depth)
        rehearsal = Rehearsal(trainer, self._router, self._learners, self._divider, self)
        rehearsal.attach(split_depth, 0 if self._clusters is None else self._clusters.depth)
        settings = {**self._learners.describe(), **self.schedule.settings(), **self._settings}
        middle = progress.entered_mid_epoch(trainer) and self._entered == trainer.current_epoch
        compare_data(trainer, self._router, self._record, settings, mid_epoch=middle)
        self._divider.begin(trainer, rehearsal.find_way())
