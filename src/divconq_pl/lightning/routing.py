"""Where the batches of an epoch come from, and which learner each of them belongs to."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from divconq_pl.core.cluster_stream import Draw
from divconq_pl.core.division import Division
from divconq_pl.core.sampling import Allotment, ClusterBatchSampler, allot, check_batch
from divconq_pl.errors import InputError
from divconq_pl.lightning._trainer import loaders, progress, randomness
from divconq_pl.lightning.continuity import check_images, fingerprint
from divconq_pl.lightning.drawable import Drawable, find_drawable, read_labels
from divconq_pl.lightning.reading import UsualReader, identify, image_name


class BatchRouter:
    """Let a running fit draw single-cluster batches, or the user's own while there is one cluster only.

    The user's loader stays untouched, and where the user looks for it; a copy of it draws other batches, of the images
    that the user's own sampler can draw, each class as often as that draws it.

    Args:
        images_per_class: images of a class in a batch.
        allotment: how batches are shared among clusters.
        draw: what comes equally often within a cluster.
        seed: seed of the batches.
        reader: how data sets give labels.
    """

    def __init__(self, images_per_class: int, allotment: Allotment, draw: Draw, seed: int, reader: UsualReader) -> None:
        self.images_per_class = images_per_class
        self._allotment: Allotment = allotment
        self._draw: Draw = draw
        self._seed = seed
        self.reader = reader
        self.reset()

    def reset(self) -> None:
        """Forget the loaders of the last fit."""
        self._users_loader: DataLoader[Any] | None = None
        self._drawable: Drawable | None = None
        self._own_loader: DataLoader[Any] | None = None
        self._copied: DataLoader[Any] | None = None  # what that is a copy of
        self._division: Division | None = None
        self._learners: list[int] = []
        self._consumed = 0

    def drawable(self, trainer: pl.Trainer) -> Drawable:
        """Return the loader that the user gave, with what it can draw.

        Raises:
            InputError: if there are clusters, and it was made anew with other images than those in them.
        """
        loader = loaders.get_train_loader(trainer)
        if self._drawable is None or loader is not self._users_loader:
            before = self._drawable
            images = loaders.count_batches(trainer) * batch_size(loader) * trainer.world_size
            limited = not trainer.fast_dev_run  # type: ignore[attr-defined]
            found = find_drawable(loader, images if limited else len(loader.dataset))  # type: ignore[arg-type]
            if before is not None and self._division is not None:
                self._check_same_images(before.loader.dataset, found.loader.dataset, trainer.current_epoch)
            self._users_loader, self._drawable = loader, found
        return self._drawable

    def dataset(self, trainer: pl.Trainer) -> Dataset[Any]:
        """Return the images that can be drawn."""
        return self.drawable(trainer).loader.dataset

    def labels(self, trainer: pl.Trainer) -> Tensor | None:
        """Return their classes, shape (N,); None if only batches tell."""
        return read_labels(self.reader, self.dataset(trainer))

    def check_loader(self, trainer: pl.Trainer, learners: int) -> None:
        """Refuse a loader whose batches cannot be made from single clusters, and say what of it is not kept.

        Raises:
            InputError: if its batch size does not hold classes of ``images_per_class`` images, an epoch has no end or
                fewer batches than there are learners.
        """
        drawable, batches = self.drawable(trainer), loaders.count_batches(trainer)
        check_batch(batch_size(drawable.loader), self.images_per_class)
        if batches < learners and loaders.is_limited(trainer):
            rank_zero_warn(
                f"the Trainer limits an epoch to {batches} batches, fewer than the {learners} learners that there will "
                "be, so an epoch trains only some of them"
            )
        else:
            allot([1] * learners, batches)
        whole = len(drawable.loader.dataset)  # type: ignore[arg-type]
        if drawable.unknown:
            rank_zero_warn(
                f"what {drawable.unknown} draws is kept while there is one cluster; batches from single clusters are "
                f"drawn from all {whole} images, {self.images_per_class} of a class. If it is to leave images out, "
                "give the loader a torch.utils.data.Subset, or a SubsetRandomSampler"
            )
        labels = self.labels(trainer)
        if drawable.weights is not None and self._draw == "classes":
            rank_zero_warn("the sampler's weights are not kept in batches from single clusters, by draw='classes'")
        elif drawable.weights is not None and (labels is None or _differ_within(labels, drawable.weights)):
            rank_zero_warn(
                "batches from single clusters keep the sampler's weights by class: each class comes as often as its "
                "images together, and these equally often"
            )

    def draw_from_user(self, trainer: pl.Trainer) -> None:
        """Let the epoch's batches be those of the user's own loader."""
        self._learners, self._consumed = [], 0
        loaders.set_train_loader(trainer, loaders.users_loaders(trainer)[0])

    def draw_from_clusters(
        self, trainer: pl.Trainer, division: Division, labels: Tensor, since: int, *, renew: bool, done: int
    ) -> None:
        """Let each of the epoch's batches come from a single cluster.

        Args:
            trainer: the running fit.
            division: the clusters.
            labels: classes of the training images.
            since: the epoch since which there are these clusters.
            renew: ask for the epoch's batches anew, even if the loader stays the same.
            done: batches of the epoch that were trained on before a resume, which are passed over.
        """
        drawable = self.drawable(trainer)
        if self._own_loader is None or division is not self._division or drawable.loader is not self._copied:
            sampler = ClusterBatchSampler(
                division.assignment,
                labels,
                batch_size=batch_size(drawable.loader),
                images_per_class=self.images_per_class,
                length=max(loaders.count_batches(trainer), division.num_clusters),
                allotment=self._allotment,
                draw=self._draw,
                seed=self._seed + since,
                first_epoch=since,
                rank=trainer.global_rank,
                world_size=trainer.world_size,
                weights=drawable.weights,
            )
            loader = loaders.with_batches(drawable.loader, sampler, generator=torch.Generator())
        else:
            loader = self._own_loader
            assert isinstance(loader.batch_sampler, ClusterBatchSampler)
            sampler = loader.batch_sampler
        # Workers get their seeds from here, so that starting them draws none of the training's random numbers.
        loader.generator.manual_seed(randomness.peek() + trainer.global_rank)
        sampler.set_epoch(trainer.current_epoch)
        loaders.tell_epoch(trainer)
        if callable(set_epoch := getattr(loaders.get_train_loader(trainer).dataset, "set_epoch", None)):
            set_epoch(trainer.current_epoch)
        sampler.start = done if loaders.is_only_loader(trainer) else 0
        loaders.set_train_loader(trainer, loader, renew=renew)
        loaders.pass_over(trainer, done - sampler.start)
        self._own_loader, self._copied, self._division = loader, drawable.loader, division
        self._learners, self._consumed = sampler.schedule[done:], 0

    def next_learner(self) -> int | None:
        """Return the learner that the next batch belongs to, None if it belongs to all."""
        if not self._learners:
            return None
        self._consumed += 1
        return self._learners[self._consumed - 1]

    def images(self, trainer: pl.Trainer) -> list[int] | None:
        """Return the images of the present batch, those of all processes; None if it comes from the user's loader."""
        sampler = self._present_loader(trainer).batch_sampler
        if not isinstance(sampler, ClusterBatchSampler):
            return None
        return sampler.images_of_all(progress.batch_index(trainer))

    def check_loss(self, trainer: pl.Trainer, loss: Tensor) -> None:
        """Refuse a loss that is NaN or infinite, before it gets into the weights.

        Raises:
            InputError: it names the batch and its images.
        """
        if progress.has_diverged(trainer, loss):
            raise InputError(
                f"the loss is {float(loss.detach())} in epoch {trainer.current_epoch} for "
                f"{self.describe_batch(trainer)}; the weights are still those before it. Try a smaller learning rate "
                "or full precision, look at these images, and resume from an earlier checkpoint"
            )

    def describe_batch(self, trainer: pl.Trainer) -> str:
        """Say which learner the present batch belongs to and which images it holds, as far as that is known."""
        number = progress.batch_index(trainer)
        loader = self._present_loader(trainer)
        if not isinstance(sampler := loader.batch_sampler, ClusterBatchSampler):
            return f"batch {number}"
        whose = f" of learner {self._learners[self._consumed - 1]}" if self._learners else ""
        names = (image_name(loader.dataset, i) or str(i) for i in sampler.images(number))
        return f"batch {number}{whose} ({', '.join(names)})"

    def _present_loader(self, trainer: pl.Trainer) -> DataLoader[Any]:
        """Return the loader that the epoch draws from."""
        own = self._own_loader if self._learners else None
        return loaders.get_train_loader(trainer) if own is None else own

    def _check_same_images(self, before: Dataset[Any], now: Dataset[Any], epoch: int) -> None:
        if before is now:
            return
        prints = [
            fingerprint(read_labels(self.reader, data), partial(identify, data), len(data))  # type: ignore[arg-type]
            for data in (before, now)
        ]
        since = f"the images were clustered (the Trainer has asked for its loader anew before epoch {epoch})"
        check_images(prints[0], prints[1], partial(identify, now), since)


def batch_size(loader: DataLoader[Any]) -> int:
    """Return the number of images in a batch of a loader.

    Raises:
        InputError: if its batch sampler does not tell.
    """
    size = getattr(loader.batch_sampler, "batch_size", None)
    if not isinstance(size, int):
        raise InputError(
            f"the batch sampler {type(loader.batch_sampler).__name__} has no batch_size; give it one, the number of "
            "images in a batch"
        )
    return size


def _differ_within(labels: Tensor, weights: Tensor) -> bool:
    """Tell whether images of the same class have different weights."""
    pairs = torch.stack([labels.double(), weights], dim=1)
    return len(torch.unique(pairs, dim=0)) > len(torch.unique(labels))
