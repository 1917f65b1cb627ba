"""The batches of a single cluster, one after another without an end."""

from __future__ import annotations

import random
from collections.abc import Sequence
from heapq import heapify, heappop, heappush
from itertools import accumulate
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from divconq_pl.errors import InputError

Draw = Literal["images", "classes"]


class Cluster(NamedTuple):
    """The images of a cluster, class by class, without lone ones.

    Attributes:
        images: those of the first class in random order, then those of the next, shape (N,).
        sizes: how many images each class has, length C.
        weights: how often each class is to come, length C.
    """

    images: NDArray[np.int64]
    sizes: list[int]
    weights: list[float]


def group_images(
    assignment: Tensor, labels: Tensor, weights: Tensor | None, generator: torch.Generator
) -> list[Cluster]:
    """Group images by cluster and class, each class in random order, without lone images.

    Args:
        assignment: cluster of each image, int64, shape (N,), values 0..K-1.
        labels: class of each image, integers, shape (N,).
        weights: how often each image is to come, shape (N,); by default all alike.
        generator: source of random numbers.

    Raises:
        InputError: if a cluster lacks two classes with two images each.
    """
    order = torch.randperm(len(labels), generator=generator)
    classes = torch.unique(labels, return_inverse=True)[1]
    num_classes = int(classes.max()) + 1
    group, by_group = torch.sort((assignment * num_classes + classes)[order], stable=True)
    groups, counts = torch.unique_consecutive(group, return_counts=True)
    usable = counts > 1
    images, sizes = order[by_group][usable.repeat_interleave(counts)], counts[usable]
    classes_of = torch.bincount(groups[usable] // num_classes, minlength=int(assignment.max()) + 1).tolist()
    for k, number in enumerate(classes_of):
        if number < 2:
            raise InputError(
                f"cluster {k} has {number} classes with two or more images; "
                "batches with positives and negatives need two"
            )
    of_image = torch.ones(len(images), dtype=torch.float64) if weights is None else weights[images].double()
    of_class = torch.bincount(torch.arange(len(sizes)).repeat_interleave(sizes), of_image)
    sizes_of = sizes.split(classes_of)
    images_of = images.split([int(sizes.sum()) for sizes in sizes_of])
    return [
        Cluster(images.numpy(), sizes.tolist(), weights.tolist())
        for images, sizes, weights in zip(images_of, sizes_of, of_class.split(classes_of), strict=True)
    ]


class ClusterStream:
    """An endless stream of batches of one cluster; the class whose next images are due first comes first.

    A class of n images is due ``images_per_class`` more of them each ``images_per_class / n`` of a pass over the
    cluster, at a random moment of that stretch, so classes are drawn in proportion to their size and meet other classes
    each time. It comes at most once in a batch, with consecutive images of its own random order, gone through in
    circles; so these are distinct, and none comes again before all others of the class.

    Args:
        cluster: the images; by its weights a class is due more or less often than its number of images says.
        batch_size: images per batch (per process).
        images_per_class: images of a class in a batch.
        rng: source of random numbers.
        world_size: number of processes, for each of which a batch is drawn.
        draw: what comes equally often, see :class:`.ClusterBatchSampler`.

    Attributes:
        passed: how many batches were drawn or skipped so far.
    """

    def __init__(
        self,
        cluster: Cluster,
        batch_size: int,
        images_per_class: int,
        rng: random.Random,
        world_size: int = 1,
        draw: Draw = "images",
    ) -> None:
        self.passed = 0
        self._images, self._sizes, weights = cluster
        self._firsts = [0, *accumulate(self._sizes)]
        self._batch_size = batch_size
        self._world_size = world_size
        self._rng = rng
        self._shares = _shares(self._sizes, batch_size, images_per_class)
        # How many images of a class are due in one unit of time.
        self._rates: Sequence[float] = self._shares if draw == "classes" else weights
        self._drawn = [0] * len(self._sizes)
        self._due = [
            (rng.random() * share / rate, c)
            for c, (share, rate) in enumerate(zip(self._shares, self._rates, strict=True))
        ]
        heapify(self._due)

    def draw(self) -> list[int]:
        """Return the images of the next batch of each process, one after another, those of a class side by side."""
        places: list[int] = []
        for c, start, count in self._pass_batch():
            first, n = self._firsts[c], self._sizes[c]
            places += [first + i % n for i in range(start, start + count)]
        images: list[int] = self._images[places].tolist()
        return images

    def skip(self, batches: int) -> None:
        """Pass over some batches without looking up their images."""
        for _ in range(batches):
            self._pass_batch()

    def _pass_batch(self) -> list[tuple[int, int, int]]:
        """Return the classes of the next batch of each process: which, images drawn of it before, and number now."""
        self.passed += 1
        uniform, due, drawn = self._rng.random, self._due, self._drawn
        given: list[tuple[int, int, int]] = []
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
                count = share = self._shares[c]
                if count >= room - 1:
                    count = min(count, room)
                    if room - count == 1:  # rather than a lone image of the next class
                        count += 1 if count < self._sizes[c] else -1 if count > 2 else 0
                given.append((c, drawn[c], count))
                room -= count
                drawn[c] += count
                turns.append(((drawn[c] + uniform() * share) / self._rates[c], c))
            waiting += turns
        for turn in waiting:
            heappush(due, turn)
        return given


def _shares(sizes: Sequence[int], batch_size: int, images_per_class: int) -> list[int]:
    """Return how many images each class gives; more than ``images_per_class`` only if they do not fill a batch."""
    shares = [min(images_per_class, size) for size in sizes]
    while sum(shares) < batch_size:
        neediest = max(range(len(sizes)), key=lambda c: batch_size * sizes[c] / sum(sizes) - shares[c])
        shares[neediest] += 1
    return shares
