"""Where the batches of an epoch come from, and which learner each of them belongs to."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
from torch import Tensor
from torch.utils.data import DataLoader

from divconq_pl.core.division import Division
from divconq_pl.core.sampling import Allotment, ClusterBatchSampler, Draw, allot, check_batch
from divconq_pl.errors import InputError
from divconq_pl.lightning._trainer import loaders, progress
from divconq_pl.lightning.reading import image_name


class BatchRouter:
    """Let a running fit draw single-cluster batches, or the user's own while there is one cluster only.

    The user's loader stays untouched; a copy of it draws other batches.

    Args:
        images_per_class: images of a class in a batch.
        allotment: how batches are shared among clusters.
        draw: what comes equally often within a cluster.
        seed: seed of the batches.
    """

    def __init__(self, images_per_class: int, allotment: Allotment, draw: Draw, seed: int) -> None:
        self._images_per_class = images_per_class
        self._allotment: Allotment = allotment
        self._draw: Draw = draw
        self._seed = seed
        self.reset()

    def reset(self) -> None:
        """Forget the loaders of the last fit."""
        self._users_loader: DataLoader[Any] | None = None
        self._own_loader: DataLoader[Any] | None = None
        self._division: Division | None = None
        self._learners: list[int] = []
        self._consumed = 0

    @property
    def is_in_use(self) -> bool:
        """Whether batches have come from here, and not from the user's loader alone."""
        return self._own_loader is not None

    def users_loader(self, trainer: pl.Trainer) -> DataLoader[Any]:
        """Return the loader that the user gave."""
        loader = loaders.get_train_loader(trainer)
        if loader is not self._own_loader:
            self._users_loader = loader
        assert self._users_loader is not None
        return self._users_loader

    def enter_epoch(
        self,
        trainer: pl.Trainer,
        division: Division | None,
        labels: Tensor | None,
        since: int,
        *,
        renew: bool = False,
        done: int = 0,
    ) -> None:
        """Choose the loader of the current epoch.

        Args:
            trainer: the running fit.
            division: the clusters, or None.
            labels: classes of the training images, where there are clusters.
            since: the epoch since which there are these clusters.
            renew: ask for the epoch's batches anew, even if the loader stays the same.
            done: batches of the epoch that were trained on before a resume, which are passed over.
        """
        self._learners, self._consumed = [], 0
        if division is None or division.depth == 0:
            if self._own_loader is not None:  # or the loader is the user's, whatever it is
                loaders.set_train_loader(trainer, self.users_loader(trainer), renew=renew)
            elif renew:
                loaders.renew_batches(trainer)
            loaders.pass_over(trainer, done)
            return
        users_loader = self.users_loader(trainer)
        if self._own_loader is None or division is not self._division:
            assert labels is not None, "a division comes with its labels"
            sampler = ClusterBatchSampler(
                division.assignment,
                labels,
                batch_size=batch_size(users_loader),
                images_per_class=self._images_per_class,
                length=len(users_loader),
                allotment=self._allotment,
                draw=self._draw,
                seed=self._seed + since,
                first_epoch=since,
                rank=trainer.global_rank,
                world_size=trainer.world_size,
            )
            loader = loaders.with_batches(users_loader, sampler)
        else:
            loader = self._own_loader
            assert isinstance(loader.batch_sampler, ClusterBatchSampler)
            sampler = loader.batch_sampler
        sampler.set_epoch(trainer.current_epoch)
        if callable(set_epoch := getattr(users_loader.dataset, "set_epoch", None)):
            set_epoch(trainer.current_epoch)
        sampler.start = done if loaders.is_only_loader(trainer) else 0
        loaders.set_train_loader(trainer, loader, renew=renew)
        loaders.pass_over(trainer, done - sampler.start)
        self._own_loader, self._division = loader, division
        self._learners = sampler.schedule[done:]

    def next_learner(self) -> int | None:
        """Return the learner that the next batch belongs to, None if it belongs to all."""
        if not self._learners:
            return None
        self._consumed += 1
        return self._learners[self._consumed - 1]

    def images(self, trainer: pl.Trainer) -> list[int] | None:
        """Return the images of the present batch, those of all processes; None if it comes from the user's loader."""
        sampler = loaders.get_train_loader(trainer).batch_sampler
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
        sampler = loaders.get_train_loader(trainer).batch_sampler
        if not isinstance(sampler, ClusterBatchSampler):
            return f"batch {number}"
        whose = f" of learner {self._learners[self._consumed - 1]}" if self._learners else ""
        dataset = self.users_loader(trainer).dataset
        return f"batch {number}{whose} ({', '.join(image_name(dataset, i) or str(i) for i in sampler.images(number))})"


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


def check_loader(loader: DataLoader[Any], images_per_class: int, learners: int) -> None:
    """Refuse a loader whose batches cannot be made from single clusters.

    Raises:
        InputError: if its batch size does not hold classes of ``images_per_class`` images, or an epoch has fewer
            batches than there are learners.
    """
    check_batch(batch_size(loader), images_per_class)
    allot([1] * learners, len(loader))
