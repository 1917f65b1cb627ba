"""Batches that come from one cluster each, balanced over its classes."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.utils.data import Sampler

from divconq_pl.core.cluster_stream import ClusterStream, Draw, group_images
from divconq_pl.errors import InputError

Allotment = Literal["proportional", "equal"]


class ClusterBatchSampler(Sampler[list[int]]):
    """Draw every batch from a single cluster, as P classes x M images, with the learners interleaved.

    A drop-in ``batch_sampler`` for a :class:`torch.utils.data.DataLoader`. Its batches go on from epoch to epoch, so
    that over the epochs of a division period

    - a class comes at most once in a batch, with ``images_per_class`` images (fewer if it has fewer in the cluster,
      more if the cluster has too few classes to fill the batch otherwise);
    - no image is drawn again before its class in that cluster has been through, and classes are drawn in proportion
      to their size: two passes over a cluster show each of its images, unless a class makes up more than 2/P of it
      (or classes are drawn equally often, with ``draw="classes"``);
    - no image is twice in a batch, unless the cluster has fewer images than the batch.

    An image that is the only one of its class in its cluster cannot form a positive pair and is left out.

    Args:
        assignment: cluster of each image, int64, shape (N,), values 0..K-1. All zeros is plain P x M sampling.
        labels: class of each image, integers, shape (N,).
        batch_size: images per batch (per process).
        images_per_class: M; must divide ``batch_size``.
        length: batches per epoch; by default as many as the usable images fill.
        allotment: batches a cluster gets: ``"proportional"`` to its size (at least one) or ``"equal"`` for all, as in
            the authors' code.
        draw: what comes equally often within a cluster: its ``"images"``, or its ``"classes"`` whatever their sizes, as
            in the authors' code; then the images of large classes come more rarely.
        seed: seed of all random choices.
        first_epoch: epoch in which the batches start, that of the division.
        rank: index of this process.
        world_size: number of processes; all draw the same batches of ``batch_size * world_size`` images, and each
            takes its own part.
        weights: how often each image is to come, above 0, shape (N,); all alike by default. A class comes as often as
            its images in the cluster together, and these equally often; and so do clusters by ``"proportional"``.

    Raises:
        InputError: if ``batch_size`` is no multiple of ``images_per_class``, a cluster lacks two classes with two
            images each, or there are fewer batches than clusters.

    Example:
        >>> labels = torch.arange(6).repeat_interleave(4)
        >>> sampler = ClusterBatchSampler((labels >= 3).long(), labels, batch_size=4, images_per_class=2)
        >>> [sorted({int(labels[i]) // 3 for i in batch}) for batch in sampler] == [[k] for k in sampler.schedule]
        True
    """

    def __init__(
        self,
        assignment: Tensor,
        labels: Tensor,
        *,
        batch_size: int,
        images_per_class: int = 4,
        length: int | None = None,
        allotment: Allotment = "proportional",
        draw: Draw = "images",
        seed: int = 0,
        first_epoch: int = 0,
        rank: int = 0,
        world_size: int = 1,
        weights: Tensor | None = None,
    ) -> None:
        check_batch(batch_size, images_per_class)
        if allotment not in ("proportional", "equal"):
            raise InputError(f"allotment={allotment!r} is unknown; choose 'proportional' or 'equal'")
        if draw not in ("images", "classes"):
            raise InputError(f"draw={draw!r} is unknown; choose 'images' or 'classes'")
        self.batch_size = batch_size
        self.first_epoch = first_epoch
        self._images_per_class = images_per_class
        self._draw: Draw = draw
        self._seed = seed
        self._rank, self._world_size = rank, world_size
        self._clusters = group_images(assignment, labels, weights, torch.Generator().manual_seed(seed))
        usable = sum(len(cluster.images) for cluster in self._clusters)
        self._length = max(len(self._clusters), usable // (batch_size * world_size)) if length is None else length
        self.allotted = allot([sum(cluster.weights) for cluster in self._clusters], self._length, allotment)
        self._streams: dict[int, ClusterStream] = {}  # of the clusters that were asked for
        self._epoch = -1
        self.set_epoch(first_epoch)

    @property
    def sampler(self) -> ClusterBatchSampler:
        """Itself: a Trainer tells the epoch to ``dataloader.batch_sampler.sampler``."""
        return self

    @property
    def schedule(self) -> list[int]:
        """The cluster of each batch of the current epoch."""
        return [cluster for cluster, _ in self._turns]

    def set_epoch(self, epoch: int) -> None:
        """Turn to the batches of ``epoch``, which depend on nothing but the arguments and the epoch.

        They are drawn as they are asked for.

        Args:
            epoch: index of the epoch, ``first_epoch`` or later.
        """
        if epoch < self.first_epoch:
            raise InputError(f"epoch {epoch} lies before first_epoch={self.first_epoch}")
        if epoch == self._epoch:
            return
        self._epoch = epoch
        self._turns = interleave(self.allotted, random.Random(f"{self._seed} schedule {epoch}"))
        self._batches: dict[int, list[int]] = {}  # those that were asked for so far
        self.start = 0

    def __len__(self) -> int:
        """Return the number of batches of an epoch, the same in every epoch."""
        return self._length

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the batches of the current epoch from ``start`` on (0, unless an epoch is entered in its middle)."""
        for batch in range(self.start, self._length):
            yield self.images(batch)

    def images(self, batch: int) -> list[int]:
        """Return the images of a batch (0, 1, ...) of the current epoch, those of this process."""
        first = self._rank * self.batch_size
        return self.images_of_all(batch)[first : first + self.batch_size]

    def images_of_all(self, batch: int) -> list[int]:
        """Return the images of a batch of the current epoch, those of process 0 first, then those of the others."""
        if batch not in self._batches:
            k, turn = self._turns[batch]
            self._batches[batch] = self._stream(k, self.allotted[k] * (self._epoch - self.first_epoch) + turn).draw()
        return self._batches[batch]

    def _stream(self, k: int, passed: int) -> ClusterStream:
        """Return the stream of a cluster as it is after a number of batches."""
        if k not in self._streams or self._streams[k].passed > passed:
            self._streams[k] = ClusterStream(
                self._clusters[k],
                self.batch_size,
                self._images_per_class,
                random.Random(f"{self._seed} cluster {k}"),
                self._world_size,
                self._draw,
            )
        self._streams[k].skip(passed - self._streams[k].passed)
        return self._streams[k]


def check_batch(batch_size: int, images_per_class: int) -> None:
    """Refuse a batch that does not consist of at least two classes with ``images_per_class`` images each.

    Raises:
        InputError: with the nearest values that would work.
    """
    if images_per_class < 2:
        raise InputError(f"images_per_class={images_per_class} forms no positive pair; use 2 or more")
    if batch_size % images_per_class or batch_size < 2 * images_per_class:
        below = max(2, batch_size // images_per_class) * images_per_class
        divisors = [m for m in range(2, batch_size // 2 + 1) if batch_size % m == 0]
        either = f"images_per_class={divisors[0]}, " if divisors else ""
        raise InputError(
            f"batch_size={batch_size} cannot hold two or more classes of images_per_class={images_per_class} images "
            f"evenly; use {either}batch_size={below} or batch_size={below + images_per_class}"
        )


def allot(sizes: Sequence[float], length: int, allotment: Allotment = "proportional") -> list[int]:
    """Share ``length`` batches among clusters by largest remainder, at least one each.

    Args:
        sizes: usable images of each cluster.
        length: batches to share.
        allotment: ``"proportional"`` to the sizes, or ``"equal"``.

    Returns:
        The batches of each cluster; their sum is ``length``.

    Raises:
        InputError: if there are more clusters than batches.

    Example:
        >>> allot([60, 30, 1], 9)
        [5, 3, 1]
    """
    if length < len(sizes):
        raise InputError(
            f"an epoch of {length} batches cannot serve {len(sizes)} learners, each needs a batch; "
            "use a smaller batch_size or a smaller split_depth"
        )
    weights = list(sizes) if allotment == "proportional" else [1] * len(sizes)
    quotas = [length * weight / sum(weights) for weight in weights]
    batches = [max(1, int(quota)) for quota in quotas]
    while sum(batches) < length:
        batches[max(range(len(sizes)), key=lambda k: quotas[k] - batches[k])] += 1
    while sum(batches) > length:
        most = min((k for k in range(len(sizes)) if batches[k] > 1), key=lambda k: quotas[k] - batches[k])
        batches[most] -= 1
    return batches


def interleave(allotted: Sequence[int], rng: random.Random) -> list[tuple[int, int]]:
    """Spread the batches of each cluster evenly over an epoch, in random order within each round.

    Returns:
        For each batch its cluster, and which of the cluster's batches (0, 1, ...) it is.

    Example:
        >>> sorted(interleave([2, 1], random.Random(0)))
        [(0, 0), (0, 1), (1, 0)]
    """
    turns = [((i + rng.random()) / batches, k, i) for k, batches in enumerate(allotted) for i in range(batches)]
    return [(k, i) for _, k, i in sorted(turns)]
