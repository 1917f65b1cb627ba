"""Batches that come from one cluster each, balanced over its classes."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from heapq import heapify, heappop, heappush
from typing import Literal

import torch
from torch import Tensor
from torch.utils.data import Sampler

from divconq_pl.errors import InputError

Allotment = Literal["proportional", "equal"]

Draw = Literal["images", "classes"]


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
        self._clusters = _images_by_class(assignment, labels, torch.Generator().manual_seed(seed))
        of = None if weights is None else weights.tolist()
        self._weights = [
            [float(len(images)) if of is None else sum(of[i] for i in images) for images in classes]
            for classes in self._clusters
        ]
        usable = sum(len(images) for classes in self._clusters for images in classes)
        self._length = max(len(self._clusters), usable // (batch_size * world_size)) if length is None else length
        self.allotted = allot([sum(classes) for classes in self._weights], self._length, allotment)
        self._streams: list[ClusterStream] = []
        self._epoch = -1
        self.set_epoch(first_epoch)

    @property
    def sampler(self) -> ClusterBatchSampler:
        """Itself: a Trainer tells the epoch to ``dataloader.batch_sampler.sampler``."""
        return self

    @property
    def schedule(self) -> list[int]:
        """The cluster of each batch of the current epoch."""
        return list(self._schedule)

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
        self._schedule = interleave(self.allotted, random.Random(f"{self._seed} schedule {epoch}"))
        self._batches: list[list[int]] = []  # those that were asked for so far
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
        if not self._batches:
            self._catch_up()
        while len(self._batches) <= batch:
            self._batches.append(self._streams[self._schedule[len(self._batches)]].draw())
        return self._batches[batch]

    def _catch_up(self) -> None:
        """Let each stream draw what comes before the current epoch, from the beginning if it has drawn more."""
        before = [batches * (self._epoch - self.first_epoch) for batches in self.allotted]
        if not self._streams or any(s.num_drawn > n for s, n in zip(self._streams, before, strict=True)):
            self._streams = self._new_streams()
        for stream, batches in zip(self._streams, before, strict=True):
            while stream.num_drawn < batches:
                stream.draw()

    def _new_streams(self) -> list[ClusterStream]:
        return [
            ClusterStream(
                classes,
                self.batch_size,
                self._images_per_class,
                random.Random(f"{self._seed} cluster {k}"),
                self._world_size,
                None if self._draw == "classes" else self._weights[k],
            )
            for k, classes in enumerate(self._clusters)
        ]


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


def interleave(allotted: Sequence[int], rng: random.Random) -> list[int]:
    """Spread the batches of each cluster evenly over an epoch, in random order within each round.

    Example:
        >>> sorted(interleave([2, 1], random.Random(0)))
        [0, 0, 1]
    """
    turns = [((i + rng.random()) / batches, k) for k, batches in enumerate(allotted) for i in range(batches)]
    return [k for _, k in sorted(turns)]


class ClusterStream:
    """An endless stream of batches of one cluster; the class whose next images are due first comes first.

    A class of n images is due ``images_per_class`` more of them each ``images_per_class / n`` of a pass over the
    cluster, at a random moment of that stretch, so classes are drawn in proportion to their size and meet other classes
    each time. It comes at most once in a batch, with consecutive images of its own random order, gone through in
    circles; so these are distinct, and none comes again before all others of the class.

    Args:
        classes: the images of each class, two or more each, in random order.
        batch_size: images per batch (per process).
        images_per_class: images of a class in a batch.
        rng: source of random numbers.
        world_size: number of processes, for each of which a batch is drawn.
        weights: how often each class is due, by default all equally often; its number of images is as above.

    Attributes:
        num_drawn: how many batches were drawn so far.
    """

    def __init__(
        self,
        classes: Sequence[Sequence[int]],
        batch_size: int,
        images_per_class: int,
        rng: random.Random,
        world_size: int = 1,
        weights: Sequence[float] | None = None,
    ) -> None:
        self.num_drawn = 0
        self._classes = classes
        self._batch_size = batch_size
        self._world_size = world_size
        self._rng = rng
        self._shares = _shares([len(images) for images in classes], batch_size, images_per_class)
        # How many images of a class are due in one unit of time.
        self._rates: Sequence[float] = self._shares if weights is None else weights
        self._drawn = [0] * len(classes)
        self._due = [
            (rng.random() * share / rate, c)
            for c, (share, rate) in enumerate(zip(self._shares, self._rates, strict=True))
        ]
        heapify(self._due)

    def draw(self) -> list[int]:
        """Return the images of the next batch of each process, one after another, those of a class side by side."""
        self.num_drawn += 1
        uniform, due, drawn = self._rng.random, self._due, self._drawn
        batch: list[int] = []
        waiting: list[tuple[float, int]] = []
        for _ in range(self._world_size):
            turns = []
            room = self._batch_size
            while room:
                if not due:  # too few classes for all processes: some come in several of their batches
                    due += waiting
                    heapify(due)
                    waiting = []
                c = heappop(due)[1]
                images, count = self._classes[c], self._shares[c]
                n = len(images)
                if count >= room - 1:
                    count = min(count, room)
                    if room - count == 1:  # rather than a lone image of the next class
                        count += 1 if count < n else -1 if count > 2 else 0
                start = drawn[c] % n
                stop = start + count
                batch += images[start:stop]
                if stop > n:
                    batch += [images[i % n] for i in range(n, stop)]
                room -= count
                drawn[c] += count
                turns.append(((drawn[c] + uniform() * self._shares[c]) / self._rates[c], c))
            waiting += turns
        for turn in waiting:
            heappush(due, turn)
        return batch


def _shares(sizes: Sequence[int], batch_size: int, images_per_class: int) -> list[int]:
    """Return how many images each class gives; more than ``images_per_class`` only if they do not fill a batch."""
    shares = [min(images_per_class, size) for size in sizes]
    while sum(shares) < batch_size:
        neediest = max(range(len(sizes)), key=lambda c: batch_size * sizes[c] / sum(sizes) - shares[c])
        shares[neediest] += 1
    return shares


def _images_by_class(assignment: Tensor, labels: Tensor, generator: torch.Generator) -> list[list[list[int]]]:
    """Group the images by cluster and class, each class in random order, without lone images."""
    order = torch.randperm(len(labels), generator=generator)
    classes = torch.unique(labels, return_inverse=True)[1]
    num_classes = int(classes.max()) + 1
    group, by_group = torch.sort((assignment * num_classes + classes)[order], stable=True)
    groups, counts = (values.tolist() for values in torch.unique_consecutive(group, return_counts=True))
    images = order[by_group].tolist()
    clusters: list[list[list[int]]] = [[] for _ in range(int(assignment.max()) + 1)]
    start = 0
    for group_index, count in zip(groups, counts, strict=True):
        if count > 1:
            clusters[group_index // num_classes].append(images[start : start + count])
        start += count
    for k, members in enumerate(clusters):
        if len(members) < 2:
            raise InputError(
                f"cluster {k} has {len(members)} classes with two or more images; "
                "batches with positives and negatives need two"
            )
    return clusters
