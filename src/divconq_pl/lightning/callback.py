"""Divide and conquer for any LightningModule, by one more callback."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
from pytorch_lightning.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import Dataset
from torch.utils.hooks import RemovableHandle

from divconq_pl.core.clustering import Cluster, choose_clustering
from divconq_pl.core.division import Division, divide
from divconq_pl.core.features import Features
from divconq_pl.core.sampling import Allotment
from divconq_pl.core.schedule import ConquerScheduler, Stage
from divconq_pl.core.subspaces import FixedSubspaces, LearnedSubspaces, Subspaces
from divconq_pl.core.summary import division_line, summarise
from divconq_pl.core.usable import check_divisible
from divconq_pl.errors import InputError
from divconq_pl.lightning import _trainer, conventions
from divconq_pl.lightning.continuity import check_images, compare_settings, fingerprint
from divconq_pl.lightning.feature_pass import training_features
from divconq_pl.lightning.resume import ResumePoint
from divconq_pl.lightning.routing import BatchRouter, batch_size, check_loader
from divconq_pl.losses.isolation import embedding_slices, isolate
from divconq_pl.losses.narrowing import WeightDims, has_losses, loss_slices, narrow_losses, narrow_output

SUBSPACES: dict[str, Callable[[int, int], Subspaces]] = {"fixed": FixedSubspaces, "learned": LearnedSubspaces}
STATE_VERSION = 2


class DivideConquerCallback(_trainer.CallbackBase):
    """Train an embedding by "Divide and Conquer" (Sanakoyeu et al., TPAMI 2021).

    Every ``every_n_epochs`` epochs the training images are clustered by what the network makes of them, and the
    embedding is cut into as many subspaces. Until the next division every batch comes from one cluster and trains
    that cluster's subspace (and the shared backbone) with the module's own loss and miner. In the end the full
    embedding is trained on all the data. Validation, test and prediction always see the full embedding.

    While there is a single cluster, the module's own loader delivers its own batches and nothing is narrowed; with
    ``split_depth=0`` that is the whole training, bit for bit.

    A module or a data set that keeps things elsewhere than usual is met by overriding :meth:`batch_inputs`,
    :meth:`batch_labels` or :meth:`dataset_labels`.

    Args:
        schedule: what happens in which epoch; made from the next eight arguments if not given, which are those of
            :class:`ConquerScheduler`.
        split_depth: how many times data and embedding are halved; ``2 ** split_depth`` learners.
        every_n_epochs: division period.
        warmup_epochs: epochs before the first division (one period by default), or a fraction of ``max_epochs``.
        freeze_epochs: epochs after a division in which only the embedding layer and the losses are trained.
        merge_at: epoch (or fraction) from which the full embedding is trained on single-cluster batches.
        conquer_at: epoch (or fraction) from which it is trained on all the data.
        flat: divide into all clusters at once instead of top-down.
        progressive: conquer up the tree, level by level.
        subspaces: ``"fixed"`` slices, ``"learned"`` masks, or a function of the embedding's width and the split depth
            that makes them, such as ``partial(LearnedSubspaces, lr_factor=10)``.
        cluster_on: what is clustered: the ``"penultimate"`` features or the ``"embedding"``.
        embedding: dotted name of the layer that gives the embedding; by default ``embedding`` if the module has it,
            otherwise its last linear layer.
        cluster_dataset: the training images in the same order with the test-time transform; by default the data
            module's ``cluster_dataset()`` if it has one, otherwise the training data set as it is.
        clustering: k-means backend (``"auto"``, ``"faiss"``, ``"torch"``), or a function in its place. With several
            processes ``"auto"`` is torch, which leaves the features where they are; for faiss or a function other than
            :func:`.kmeans` they are gathered on every process.
        feature_store: folder for the features that are clustered, in a memory-mapped file of float16 that is gone after
            the division; by default they are in memory.
        images_per_class: images of a class in a batch.
        allotment: how batches are shared among clusters, ``"proportional"`` or ``"equal"``.
        weight_dims: for losses of your own that own embedding-shaped weights, see :func:`.narrow_losses`.
        isolate: keep the coordinates of the embedding layer and of the losses' weights outside of the active subspace
            exactly where they are; otherwise momentum and weight decay move them, as in the authors' code. Costs a copy
            of these parameters and their optimiser state per step; fixed subspaces only.
        seed: seed of clusterings and batches.

    Attributes:
        division: who was put in which cluster by the last division, None before the first.
        history: a summary of every division so far, see :func:`.summarise`.
        stage: the stage of the current epoch.
        learner: the learner the current batch belongs to, None while there is only one.

    Example:
        >>> callback = DivideConquerCallback(split_depth=3, every_n_epochs=2, conquer_at=0.75)
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
        merge_at: int | float | None = None,
        conquer_at: int | float | None = None,
        flat: bool = False,
        progressive: bool = False,
        subspaces: Literal["fixed", "learned"] | Callable[[int, int], Subspaces] = "fixed",
        cluster_on: Literal["penultimate", "embedding"] = "penultimate",
        embedding: str | None = None,
        cluster_dataset: Dataset[Any] | None = None,
        clustering: Literal["auto", "faiss", "torch"] | Cluster = "auto",
        feature_store: str | Path | None = None,
        images_per_class: int = 4,
        allotment: Allotment = "proportional",
        weight_dims: WeightDims | None = None,
        isolate: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if cluster_on not in ("penultimate", "embedding"):
            raise InputError(f"cluster_on={cluster_on!r} is unknown; choose 'penultimate' or 'embedding'")
        if isinstance(subspaces, str) and subspaces not in SUBSPACES:
            raise InputError(f"subspaces={subspaces!r} is unknown; choose {' or '.join(map(repr, SUBSPACES))}")
        self._given_schedule = schedule
        self._schedule_settings: dict[str, Any] = {
            "split_depth": split_depth,
            "every_n_epochs": every_n_epochs,
            "warmup_epochs": warmup_epochs,
            "freeze_epochs": freeze_epochs,
            "merge_at": merge_at,
            "conquer_at": conquer_at,
            "flat": flat,
            "progressive": progressive,
        }
        self._make_subspaces = SUBSPACES[subspaces] if isinstance(subspaces, str) else subspaces
        self._cluster_on = cluster_on
        self._embedding = embedding
        self._cluster_dataset = cluster_dataset
        self._cluster: Cluster = choose_clustering(clustering)
        self._feature_store = feature_store
        self._images_per_class = images_per_class
        self._allotment = allotment
        self._weight_dims = weight_dims
        self._isolate = isolate
        self._seed = seed
        self._settings: dict[str, Any] = {}
        self._handles: list[RemovableHandle] = []
        self._subspaces: Subspaces | None = None
        self._reset()

    def _reset(self) -> None:
        self.division: Division | None = None
        self.history: list[dict[str, Any]] = []
        self.stage = Stage("undivided", 0)
        self.learner: int | None = None
        self._clusters: Division | None = None  # the division, or what the conquer stage has left of it
        self._since = -1  # the epoch since which there are these clusters
        self._entered = -1  # the last epoch that was begun
        self._labels: Tensor | None = None
        self._images: Tensor | None = None  # by what each image is known again
        self._checkpoint: dict[str, Any] | None = None  # settings and images of the one that was loaded
        self._router = BatchRouter(self._images_per_class, self._allotment, self._seed)
        self._resume_point = ResumePoint()

    # What a user may want to adapt.

    def batch_inputs(self, batch: Any) -> Any:
        """Return what the module's ``forward`` takes from a batch; see :func:`.conventions.batch_inputs`."""
        return conventions.batch_inputs(batch)

    def batch_labels(self, batch: Any) -> Any:
        """Return the labels in a batch; see :func:`.conventions.batch_labels`."""
        return conventions.batch_labels(batch)

    def dataset_labels(self, dataset: Dataset[Any]) -> Tensor | None:
        """Return the classes of a data set, or None to read them from its batches; see :func:`.dataset_labels`."""
        return conventions.dataset_labels(dataset)

    # What the Trainer calls.

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Make the schedule and the subspaces, and narrow the module's losses and miners."""
        if stage != "fit":
            return
        self._remove_hooks()
        if trainer.current_epoch == 0:
            self._reset()
            self._subspaces = None
        self._resume_point.forget()
        self._checkpoint = None
        self.schedule = self._given_schedule or ConquerScheduler(
            **self._schedule_settings, max_epochs=trainer.max_epochs
        )
        if not self.schedule.split_depth:
            self._subspaces = None
            return
        _trainer.check_strategy(trainer)
        if shortfall := self.schedule.shortfall(trainer.max_epochs):
            rank_zero_warn(shortfall)
        name, self._layer, width = conventions.find_embedding_layer(pl_module, self._embedding)
        no_layer_of_its_own = self._embedding is None and name != "embedding" and not isinstance(self._layer, nn.Linear)
        self._side: Literal["input", "output"] = (
            "output" if self._cluster_on == "embedding" or no_layer_of_its_own else "input"
        )
        if self._subspaces is None:  # or the same fit goes on for more epochs
            self._subspaces = self._make_subspaces(width, self.schedule.split_depth)
        if isinstance(self._subspaces, LearnedSubspaces):
            _trainer.check_order(trainer, self)
        self._settings = self._describe_settings(width)
        pl_module.add_module("divide_conquer_subspaces", self._subspaces)
        if has_losses(pl_module):
            self._handles = narrow_losses(pl_module, self._subspaces, self._weight_dims)
        else:
            self._handles = [narrow_output(self._layer, self._subspaces)]
            rank_zero_info(
                f"{type(pl_module).__name__} has no loss of pytorch-metric-learning among its submodules, so the "
                f"output of {name!r} is narrowed instead"
            )
        if trainer.world_size > 1 and isinstance(self._subspaces, LearnedSubspaces):
            self._handles.append(self._layer.register_forward_hook(_anchored(self._subspaces)))
        self._frozen = conventions.backbone_parameters(pl_module, self._layer) if self.schedule.freeze_epochs else []
        rank_zero_info(
            f"Divide and conquer: {type(self._subspaces).__name__} of the {width}-wide embedding given by {name!r}, "
            f"divided from epoch {self.schedule.first_division} on, up to {2**self.schedule.split_depth} learners"
        )

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """See to it that learned masks are optimised, also where the module chose its parameters itself."""
        self._resume_point.begin_fit(trainer)
        if self._subspaces is None:
            return
        groups = [group for optimizer in trainer.optimizers for group in optimizer.param_groups]
        optimised = {id(parameter) for group in groups for parameter in group["params"]}
        groups[0]["params"] += [mask for mask in self._subspaces.parameters() if id(mask) not in optimised]
        if self._isolate:
            losses = loss_slices(pl_module, self._subspaces.width, self._weight_dims)
            slices = embedding_slices(self._layer, losses)
            self._handles += isolate(trainer.optimizers, slices, self._subspaces)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Refuse what could not be divided later, and pick up the thread where a resumed epoch was left."""
        if self._subspaces is not None:
            self._check_data(trainer, pl_module)
        # A resumed epoch has no start of its own, nor has the one after a checkpoint from an epoch's last batch.
        if _trainer.entered_mid_epoch(trainer):
            if self._entered == trainer.current_epoch:
                self._enter_mid_epoch(trainer, pl_module)
            else:
                self.on_train_epoch_start(trainer, pl_module)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Enter the stage of the epoch: divide or merge, and choose where its batches come from."""
        resumed = self._resume_point.is_restored
        if resumed:
            _trainer.begin_batches(trainer)
        self._resume_point.begin_epoch(trainer, pl_module)
        before, self.stage = self.stage, self.schedule.stage(trainer.current_epoch)
        if self.stage.divides and self._since != trainer.current_epoch:
            self._divide(trainer, pl_module)
        elif self._clusters is not None and self._clusters.depth > self.stage.depth:
            self._use(self._clusters.merged(self.stage.depth), since=trainer.current_epoch)
        if self._clusters is not None and (before.phase, before.depth) != (self.stage.phase, self.stage.depth):
            doing = self.stage.describe(self._clusters.num_clusters)
            rank_zero_info(f"{self.stage.phase} | epoch {trainer.current_epoch} | {doing}")
        self._route_batches(trainer, renew=resumed and not _trainer.restores_its_batches(trainer))
        self._entered = trainer.current_epoch

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Make the learner that the batch belongs to the active one."""
        if self._subspaces is not None:
            self.learner = self._router.next_learner()
            self._subspaces.activate(self.learner if self.stage.phase == "divided" else None)

    def on_before_zero_grad(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer) -> None:
        """Forget the learners whose gradients are dropped now: a scaler of gradients may have skipped their step."""
        if self._subspaces is not None:
            self._subspaces.used.intersection_update({self._subspaces.active})

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        """Stop at a loss that is no number, before it gets into the weights."""
        if self._subspaces is not None and _trainer.has_diverged(trainer, loss):
            raise InputError(
                f"the loss is {float(loss)} in epoch {trainer.current_epoch} for "
                f"{self._router.describe_batch(trainer)}; the weights are still those before it. Try a smaller "
                "learning rate or full precision, look at these images, and go on from a checkpoint of before"
            )

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Return to the full embedding."""
        if self._subspaces is not None:
            self.learner = None
            self._subspaces.activate(None)
        self._resume_point.remember(trainer, pl_module)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Let what is decided at the end of an epoch be decided in a resumed one, too."""
        _trainer.forget_restart(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note that the training goes on from here."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._resume_point.remember(trainer, pl_module, validated=True)

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        """Push learned masks apart, and leave a frozen backbone as it is."""
        if isinstance(self._subspaces, LearnedSubspaces) and _optimises(optimizer, self._subspaces):
            self._subspaces.finish_gradients(
                push_apart=self.stage.phase == "divided", scale=_trainer.gradient_scale(trainer, optimizer)
            )
        if self.stage.frozen:
            for parameter in self._frozen:
                parameter.grad = None

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Leave the module as it was."""
        if stage == "fit":
            self._remove_hooks()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Return to the full embedding and to the last whole batch, whatever happened in the middle of one."""
        if self._subspaces is not None:
            self._subspaces.activate(None)
        self._resume_point.rewind(trainer, pl_module)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add what it takes to go on exactly from here; called by all processes."""
        checkpoint["callbacks"][self.state_key]["resume_point"] = self._resume_point.state(
            trainer, pl_module, self._entered
        )
        _trainer.settle_epochs(checkpoint)
        if _trainer.in_step(trainer):
            _trainer.drop_batch(checkpoint)
        if _trainer.before_validation(trainer):
            _trainer.count_batch(checkpoint)

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Take it back."""
        state = checkpoint["callbacks"].get(self.state_key, {}).get("resume_point")
        if state is not None and trainer.state.fn == "fit":
            self._resume_point.load(state, trainer.global_rank, trainer.world_size)

    @property
    def state_key(self) -> str:
        """The name of the callback in a checkpoint."""
        return "DivideConquerCallback"

    def state_dict(self) -> dict[str, Any]:
        """Return the division, its history and the learned masks, as tensors and plain values."""
        division, clusters, subspaces = self.division, self._clusters, self._subspaces
        return {
            "version": STATE_VERSION,
            "settings": self._settings,
            "images": self._images,
            "assignment": None if division is None else division.assignment,
            "division_depth": None if division is None else division.depth,
            "depth": None if clusters is None else clusters.depth,
            "since": self._since,
            "entered": self._entered,
            "used": [] if subspaces is None else sorted(subspaces.used),
            "labels": self._labels,
            "history": [dict(summary) for summary in self.history],
            "masks": subspaces.masks_state() if isinstance(subspaces, LearnedSubspaces) else None,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned.

        Raises:
            InputError: if it was written by an unknown version, or for other subspaces.
        """
        if state_dict["version"] != STATE_VERSION:
            raise InputError(
                f"the checkpoint holds a divide-and-conquer state of version {state_dict['version']}, "
                f"this version of divconq-pl reads version {STATE_VERSION}"
            )
        if state_dict["images"] is not None:
            self._checkpoint = {"settings": state_dict["settings"], "images": state_dict["images"]}
        self.history = [dict(summary) for summary in state_dict["history"]]
        self._labels = state_dict["labels"]
        self._entered = state_dict["entered"]
        divided = state_dict["assignment"] is not None
        self.division = Division(state_dict["assignment"], state_dict["division_depth"]) if divided else None
        if self._subspaces is None:  # nothing is trained, or nothing is divided
            return
        if self.division is not None:
            if state_dict["depth"] > self._subspaces.split_depth:
                raise InputError(
                    f"the checkpoint was written while there were {2 ** state_dict['depth']} learners; resume with a "
                    f"split_depth of {state_dict['depth']} or more instead of {self._subspaces.split_depth}"
                )
            self._use(self.division.merged(state_dict["depth"]), since=state_dict["since"])
        self._subspaces.used = set(state_dict["used"])  # in what is accumulated for the next step
        if isinstance(self._subspaces, LearnedSubspaces):
            if state_dict["masks"] is None or state_dict["masks"].shape != self._subspaces.masks_state().shape:
                raise InputError(
                    "the checkpoint holds no masks that fit; resume with its own subspaces and split_depth"
                )
            self._subspaces.load_masks_state(state_dict["masks"])

    # How it is done.

    def _describe_settings(self, width: int) -> dict[str, Any]:
        """Return what decides how the training goes, as plain values."""
        return {
            "subspaces": type(self._subspaces).__name__,
            "width": width,
            **self.schedule.settings(),
            "cluster_on": self._cluster_on,
            "images_per_class": self._images_per_class,
            "allotment": self._allotment,
            "isolate": self._isolate,
            "seed": self._seed,
        }

    def _check_data(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Refuse data that cannot be divided, or with which a checkpoint cannot be gone on from."""
        loader = self._router.users_loader(trainer)
        check_loader(loader, self._images_per_class, learners := 2**self.schedule.split_depth)
        labels = self.dataset_labels(loader.dataset)
        if labels is not None:
            check_divisible(labels, learners)
        if advice := conventions.label_advice(pl_module, loader.dataset):
            rank_zero_warn(advice)
        name_of = partial(conventions.image_name, loader.dataset)
        self._images = fingerprint(labels, name_of, len(loader.dataset))  # type: ignore[arg-type]
        self._settings |= {"batch_size": batch_size(loader), "batches": len(loader), "processes": trainer.world_size}
        if self._checkpoint is not None:
            check_images(self._checkpoint["images"], self._images, name_of)
            mid_epoch = _trainer.entered_mid_epoch(trainer) and self._entered == trainer.current_epoch
            change = compare_settings(self._checkpoint["settings"], self._settings, mid_epoch=mid_epoch)
            if change:
                rank_zero_warn(change)
            self._checkpoint = None

    def _enter_mid_epoch(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Go on in the middle of an epoch, or at its end, where a run was stopped."""
        self.stage = self.schedule.stage(trainer.current_epoch)
        done = _trainer.batches_done(trainer)
        restored = self._resume_point.is_restored
        self._resume_point.begin_again(trainer)
        if self._clusters is not None or (restored and not _trainer.restores_its_batches(trainer)):
            self._route_batches(trainer, renew=trainer.current_epoch > 0, done=done)
        self._resume_point.go_on(trainer, pl_module, done)

    def _divide(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look at the training images, divide them anew, and say what came of it."""
        began = time.perf_counter()
        features, labels = training_features(
            trainer,
            pl_module,
            self._layer,
            self._router.users_loader(trainer),
            self,
            side=self._side,
            cluster_dataset=self._cluster_dataset or conventions.cluster_dataset(trainer),
            feature_store=self._feature_store,
        )
        looked = time.perf_counter()
        previous = self._clusters if self._clusters is not None else Division.undivided(len(features))
        if len(previous.assignment) != len(features):
            raise InputError(
                f"the training data set has {len(features)} images now and had {len(previous.assignment)} at the last "
                "division; resume with the data set that the training began with"
            )
        clustering = _Timed(self._cluster)
        division = divide(
            features,
            labels,
            previous,
            self.stage.depth,
            cluster=clustering,
            flat=self.schedule.flat,
            seed=self._seed,
            epoch=trainer.current_epoch,
        )
        if division.depth < self.stage.depth:
            rank_zero_warn(
                f"the images could not be divided into {2**self.stage.depth} clusters of at least two classes with two "
                f"images each; {division.num_clusters} clusters are used until the next division"
            )
        elif division is previous:
            rank_zero_warn(
                f"the images could not be clustered anew into {division.num_clusters} clusters of at least two classes "
                "with two images each; the clusters stay as they were until the next division"
            )
        self.division, self._labels = division, labels
        self._use(division, since=trainer.current_epoch)
        summary = summarise(division, previous, labels, epoch=trainer.current_epoch)
        summary |= {
            "seconds_features": looked - began,
            "seconds_kmeans": clustering.seconds,
            "seconds_rest": time.perf_counter() - looked - clustering.seconds,
        }
        self.history.append(summary)
        rank_zero_info(division_line({"number": len(self.history), **summary}))
        for logger in trainer.loggers:
            logger.log_metrics(
                {f"division/{name}": value for name, value in summary.items() if isinstance(value, (int, float))},
                step=trainer.global_step,
            )

    def _use(self, clusters: Division, since: int) -> None:
        """Make clusters, and as many subspaces, the present ones."""
        assert self._subspaces is not None
        self._clusters, self._since = clusters, since
        self._subspaces.set_depth(clusters.depth)

    def _route_batches(self, trainer: pl.Trainer, *, renew: bool, done: int = 0) -> None:
        self._router.enter_epoch(trainer, self._clusters, self._labels, self._since, renew=renew, done=done)

    def _remove_hooks(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []


class _Timed:
    """A clustering that adds up the seconds it takes."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.seconds = 0.0

    def __call__(self, features: Features, num_clusters: int, *, seed: int) -> Tensor:
        began = time.perf_counter()
        assignment = self._cluster(features, num_clusters, seed=seed)
        self.seconds += time.perf_counter() - began
        return assignment


def _optimises(optimizer: Optimizer, module: nn.Module) -> bool:
    """Tell whether an optimiser has parameters of a module."""
    own = {id(parameter) for parameter in module.parameters()}
    return any(id(parameter) in own for group in optimizer.param_groups for parameter in group["params"])


def _anchored(subspaces: LearnedSubspaces) -> Callable[[nn.Module, Any, Tensor], Tensor]:
    return lambda layer, inputs, output: subspaces.anchor(output) if layer.training else output
