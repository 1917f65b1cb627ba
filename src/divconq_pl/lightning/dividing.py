"""A division in a running fit: look at the training images, cluster them, say what came of it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
from pytorch_lightning.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import Dataset

from divconq_pl.core.clustering import Cluster, Start
from divconq_pl.core.division import Division, divide
from divconq_pl.core.features import Features
from divconq_pl.core.schedule import ConquerScheduler, Stage
from divconq_pl.core.summary import division_line, find_central, summarise
from divconq_pl.errors import InputError
from divconq_pl.lightning._trainer import loaders, progress
from divconq_pl.lightning.drawable import Part
from divconq_pl.lightning.embedding import Way
from divconq_pl.lightning.embedding_layer import Side
from divconq_pl.lightning.feature_pass import extract_training_features
from divconq_pl.lightning.last_features import LastFeatures
from divconq_pl.lightning.learners import Learners
from divconq_pl.lightning.reading import find_cluster_dataset
from divconq_pl.lightning.routing import BatchRouter


@dataclass
class Divider:
    """How the training images are divided.

    Attributes:
        router: knows the user's training loader, and how data give labels.
        learners: know the embedding layer.
        cluster: makes clusters of features.
        cluster_on: what is clustered, the ``"penultimate"`` features or the ``"embedding"``.
        cluster_dataset: the images to look at; see :func:`.find_cluster_dataset` for what is taken by default.
        features: ``"exact"``, which a pass over all images makes, or the last ones that ``"training"`` has made.
        feature_store: folder for a memory-mapped file of the features, None to keep them in memory.
        start: where the clustering starts, see :func:`.core.division.divide`.
        whole_classes: whether classes are clustered instead of images.
        seed: seed of all clusterings.
        last: those of training.
        way: how a batch becomes features.

    Raises:
        InputError: if ``cluster_on`` or ``features`` is none of these.
    """

    router: BatchRouter
    learners: Learners
    cluster: Cluster
    cluster_on: Literal["penultimate", "embedding"] = "penultimate"
    cluster_dataset: Dataset[Any] | None = None
    features: Literal["exact", "training"] = "exact"
    feature_store: str | Path | None = None
    start: Start = "anew"
    whole_classes: bool = False
    seed: int = 0
    last: LastFeatures = field(init=False)
    way: Way = field(init=False)

    def __post_init__(self) -> None:
        if self.cluster_on not in ("penultimate", "embedding"):
            raise InputError(f"cluster_on={self.cluster_on!r} is unknown; choose 'penultimate' or 'embedding'")
        if self.features not in ("exact", "training"):
            raise InputError(f"features={self.features!r} is unknown; choose 'exact' or 'training'")
        self.last = LastFeatures(self.feature_store)

    @property
    def side(self) -> Side:
        """The side of the embedding layer that is clustered."""
        return "output" if self.cluster_on == "embedding" or self.learners.is_whole_network else "input"

    def begin(self, trainer: pl.Trainer, way: Way) -> None:
        """Make ready for the training images, and look at the features that training makes if it is those.

        Raises:
            InputError: if it is the features of training that are divided, and it is not known whose these are.
        """
        self.way = way
        if self.features == "exact":
            self.last.reset()
            return
        if way.side == "returned":
            raise InputError(
                "features='training' takes what goes into the embedding layer in a training step, or comes out of it, "
                "and not what embed returns; use features='exact'"
            )
        if not loaders.is_only_loader(trainer):
            raise InputError(
                "features='training' needs a single training loader, or it is not known which images a step is about; "
                "use features='exact'"
            )
        dataset = self.router.dataset(trainer)
        if self.router.labels(trainer) is None:
            raise InputError(
                f"features='training' does not look at all images, and {type(dataset).__name__} does not tell "
                "their classes; give it an attribute targets, override DivideConquerCallback.dataset_labels, or use "
                "features='exact'"
            )
        if any(isinstance(part, _BatchNorm) and part.training for part in trainer.lightning_module.modules()):
            rank_zero_warn(
                "features='training' with BatchNorm layers in training mode: each batch comes from one cluster and is "
                "normalised by itself, which takes away what tells the clusters apart, so the next division cannot "
                "find them again; freeze these layers, or use features='exact'"
            )
        self.last.begin(trainer, len(dataset))  # type: ignore[arg-type]
        self.learners.look_at_layer(lambda inputs, output: self.last.look(way.side, inputs, output))

    def plan(self, schedule: ConquerScheduler, trainer: pl.Trainer) -> None:
        """Look at what the epoch's batches show if a later division asks for it."""
        self.last.wanted = self.features == "training" and schedule.divides_after(
            trainer.current_epoch, progress.planned_epochs(trainer)
        )

    def images(self, trainer: pl.Trainer) -> Dataset[Any] | None:
        """Return the images to look at, None for the training data set."""
        images, dataset = self.cluster_dataset or find_cluster_dataset(trainer), self.router.dataset(trainer)
        return dataset.of(images) if isinstance(dataset, Part) else images

    def divide(
        self, trainer: pl.Trainer, previous: Division | None, stage: Stage, *, flat: bool, number: int
    ) -> tuple[Division, Tensor, dict[str, Any]]:
        """Divide the training images anew, log it, and say it in one line.

        Args:
            trainer: the running fit.
            previous: the clusters so far, None if there are none.
            stage: what the epoch is.
            flat: whether all clusters are made at once.
            number: which division of the run this is, from 1.

        Returns:
            The division, the classes of the images, shape (N,), and its summary (see :func:`.summarise`) with the
            seconds it took.

        Raises:
            InputError: if the training data set is another one than at the last division, or the stage is deeper than
                the schedule's ``split_depth``.
        """
        subspaces = self.learners.subspaces
        if subspaces is not None and stage.depth > subspaces.split_depth:
            raise InputError(
                f"the schedule asks for depth {stage.depth} in epoch {trainer.current_epoch}, but its split_depth is "
                f"{subspaces.split_depth}; give it a split_depth of {stage.depth} or more"
            )
        began = time.perf_counter()
        features, labels = extract_training_features(
            trainer,
            self.learners.layer,
            self.router.drawable(trainer).loader,
            self.router.reader,
            self.way,
            cluster_dataset=self.images(trainer),
            feature_store=self.feature_store,
            last=self.last if self.features == "training" else None,
        )
        looked = time.perf_counter()
        previous = Division.undivided(len(features)) if previous is None else previous
        if len(previous.assignment) != len(features):
            raise InputError(
                f"the training data set has {len(features)} images now and had {len(previous.assignment)} at the last "
                "division; resume with the data set that the training began with"
            )
        timed = _Timed(self.cluster)
        division = divide(
            features,
            labels,
            previous,
            stage.depth,
            cluster=timed,
            flat=flat,
            start=self.start,
            whole_classes=self.whole_classes,
            seed=self.seed,
            epoch=trainer.current_epoch,
        )
        self.last.forget()
        _warn_if_short(division, previous, stage.depth)
        summary = summarise(division, previous, labels, epoch=trainer.current_epoch) | {
            "central": find_central(features, division.assignment, division.num_clusters),
            "seconds_features": looked - began,
            "seconds_kmeans": timed.seconds,
        }
        summary["seconds_rest"] = time.perf_counter() - looked - timed.seconds
        rank_zero_info(division_line({"number": number, **summary}))
        for logger in trainer.loggers:
            logger.log_metrics(
                {f"division/{name}": value for name, value in summary.items() if isinstance(value, (int, float))},
                step=trainer.global_step,
            )
        return division, labels, summary


def _warn_if_short(division: Division, previous: Division, depth: int) -> None:
    """Say so where the images could not be divided as far as planned, or not anew."""
    if division.depth < depth:
        rank_zero_warn(
            f"the images could not be divided into {2**depth} clusters of at least two classes with two images each; "
            f"{division.num_clusters} clusters are used until the next division"
        )
    elif division is previous:
        rank_zero_warn(
            f"the images could not be clustered anew into {division.num_clusters} clusters of at least two classes "
            "with two images each; the clusters stay as they were until the next division"
        )


class _Timed:
    """A clustering that adds up the seconds it takes."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.seconds = 0.0

    def __call__(self, features: Features, num_clusters: int, **options: Any) -> Tensor:
        began = time.perf_counter()
        assignment = self._cluster(features, num_clusters, **options)
        self.seconds += time.perf_counter() - began
        return assignment
