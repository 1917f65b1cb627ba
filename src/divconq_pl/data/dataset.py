"""What every data set of this package gives: images, labels from 0, class names; and its splits."""

from __future__ import annotations

import copy
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.v2 import functional as F

from divconq_pl.data.decoding import printable, read_rgb
from divconq_pl.data.draws import random_numbers, uniform_numbers
from divconq_pl.data.generators import find_seeders
from divconq_pl.data.transforms import BatchTransform
from divconq_pl.errors import InputError

if TYPE_CHECKING:
    from typing_extensions import Self

Transform = Callable[[Image.Image], Tensor]
TestProtocol = Literal["open", "closed", "train_gallery"]
"""What a test asks for: images of new classes among each other; new images of classes that were trained on, among each
other; or such images among the training images."""


class RetrievalDataset(Dataset[tuple[Tensor, int]], ABC):
    """Map an index to an image tensor and its label.

    Args:
        targets: label of each image, integers 0..C-1, shape (N,).
        classes: name of each class, length C.
        transform: image to tensor; by default float32 in [0, 1], shape (channels, height, width).
        groups: what is known of each image besides its class, such as the side of an object that it shows: integers
            0..G-1, shape (N,). No training looks at them, pictures do.
        group_names: name of each group, length G.

    Attributes:
        targets: labels, int64, shape (N,).
        classes: the C class names.
        transform: as given.
        groups: groups, int64, shape (N,), or None if there are none.
        group_names: the G group names.

    Raises:
        InputError: if a label has no class name, or the groups do not fit the images and names.
    """

    _seed: int | None = None
    _epoch: Tensor
    _seeders: tuple[int, list[Callable[[int], Any]]] | None = None

    def __init__(
        self,
        targets: Tensor | Sequence[int],
        classes: Sequence[str],
        transform: Transform | None = None,
        *,
        groups: Tensor | Sequence[int] | None = None,
        group_names: Sequence[str] = (),
    ) -> None:
        self.targets = torch.as_tensor(targets, dtype=torch.int64)
        if self.targets.ndim != 1:
            raise InputError(
                f"labels of shape {tuple(self.targets.shape)} give an image several labels, which retrieval of classes "
                "cannot use; give each image one"
            )
        self.classes = list(classes)
        self.transform = transform
        self.groups = None if groups is None else torch.as_tensor(groups, dtype=torch.int64)
        self.group_names = list(group_names)
        self._rows = torch.arange(len(self.targets))
        if len(self.targets) and not 0 <= int(self.targets.min()) <= int(self.targets.max()) < len(self.classes):
            low, high = int(self.targets.min()), int(self.targets.max())
            raise InputError(f"labels run from {low} to {high}, but {len(self.classes)} classes are named")
        if self.groups is not None:
            _check_groups(self.groups, len(self.targets), len(self.group_names))

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Return the transformed image and its label."""
        image = self.image(index)
        if self._seed is None:
            return self._to_tensor(image), int(self.targets[index])
        with random_numbers(f"{self._seed} {int(self._epoch)} {index}") as number:
            for set_random_seed in self._find_seeders():
                set_random_seed(number % 2**32)
            return self._to_tensor(image), int(self.targets[index])

    def _find_seeders(self) -> list[Callable[[int], Any]]:
        """Return what has a generator of its own in the transform, as it is in this process."""
        if self._seeders is None or self._seeders[0] != os.getpid():
            self._seeders = os.getpid(), find_seeders(self.transform)
        return self._seeders[1]

    def _to_tensor(self, image: Image.Image) -> Tensor:
        return self.transform(image) if self.transform else F.to_dtype(F.pil_to_tensor(image), scale=True)

    def image(self, index: int) -> Image.Image:
        """Return the image as it is, for pictures."""
        return self._image(int(self._rows[index]))

    def name_of(self, index: int) -> str:
        """Return a name that a reader can find the image by: its path, or its class and origin."""
        return self._name(int(self._rows[index]))

    def with_transform(self, transform: Transform | None) -> Self:
        """Return the same data set under another transform; the data is shared."""
        other = copy.copy(self)
        other.transform = transform
        other._seeders = None
        return other

    def with_seed(self, seed: int) -> Self:
        """Return the same data set, in which a random transform depends on the seed, the image and the epoch alone.

        So it depends neither on the worker that loads the image nor on where a resumed epoch was entered. The copies of
        a data set in the workers of a loader follow :meth:`set_epoch`. Seeded are ``random``, NumPy, torch, and what
        in the transform has a method ``set_random_seed(seed)``, as an albumentations ``Compose`` has: see
        :func:`~divconq_pl.data.generators.find_seeders`.
        """
        other = copy.copy(self)
        other._seed = seed
        other._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        return other

    def set_epoch(self, epoch: int) -> None:
        """Choose the random numbers of an epoch for the transform of a data set with a seed."""
        if self._seed is not None:
            self._epoch.fill_(epoch)

    def with_classes(self, names: Sequence[str]) -> Self:
        """Return the images of some classes, in their old order, labelled 0.. in the order of ``names``.

        The data is shared.
        """
        position = {name: i for i, name in enumerate(names)}
        new_label = torch.tensor([position.get(name, -1) for name in self.classes])
        other = self.with_images((new_label[self.targets] >= 0).nonzero().squeeze(1))
        other.targets = new_label[other.targets]
        other.classes = list(names)
        return other

    def with_images(self, indices: Tensor) -> Self:
        """Return some of the images, int64 (M,), under the same class names; the data is shared."""
        other = copy.copy(self)
        other._rows = self._rows[indices]
        other.targets = self.targets[indices]
        other.groups = None if self.groups is None else self.groups[indices]
        return other

    @abstractmethod
    def _image(self, row: int) -> Image.Image:
        """Return the image stored at ``row``."""

    @abstractmethod
    def _name(self, row: int) -> str:
        """Return the name of the image stored at ``row``."""


class ArrayDataset(RetrievalDataset):
    """Hold images in memory.

    A :class:`.BatchTransform` is given the images of a batch together, any other each by itself.

    Args:
        images: uint8, shape (N, height, width) or (N, height, width, 3).
        targets: label of each image, shape (N,).
        classes: name of each class.
        origins: where each image comes from, length N; part of its name.
        transform: image to tensor.
        groups: what else is known of each image, shape (N,); see :class:`RetrievalDataset`.
        group_names: name of each group.
    """

    def __init__(
        self,
        images: NDArray[np.uint8],
        targets: Tensor | Sequence[int],
        classes: Sequence[str],
        origins: Sequence[str],
        transform: Transform | None = None,
        *,
        groups: Tensor | Sequence[int] | None = None,
        group_names: Sequence[str] = (),
    ) -> None:
        super().__init__(targets, classes, transform, groups=groups, group_names=group_names)
        self._images = images
        self._names = [f"{self.classes[c]}, {origin}" for c, origin in zip(self.targets.tolist(), origins, strict=True)]

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Return the transformed image and its label."""
        return (
            self.__getitems__([index])[0] if isinstance(self.transform, BatchTransform) else super().__getitem__(index)
        )

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Tensor, int]]:
        """Return several transformed images and their labels; a DataLoader asks for a batch this way."""
        if not isinstance(self.transform, BatchTransform):
            return [self[index] for index in indices]
        which, count = np.asarray(indices, dtype=np.int64), self.transform.draws
        pixels = torch.from_numpy(self._images[self._rows[which].numpy()])
        if self._seed is None:
            uniform = torch.rand(len(which), count, dtype=torch.float64)
        else:
            uniform = uniform_numbers(f"{self._seed} {int(self._epoch)}", which, count)
        images = self.transform.batch(pixels[:, None] if pixels.ndim == 3 else pixels.permute(0, 3, 1, 2), uniform)
        return list(zip(images.unbind(), self.targets[which].tolist(), strict=True))

    def _image(self, row: int) -> Image.Image:
        return Image.fromarray(self._images[row])

    def _name(self, row: int) -> str:
        return self._names[row]


class FileDataset(RetrievalDataset):
    """Read images from files, as RGB.

    Args:
        files: path of each image, length N.
        targets: label of each image, shape (N,).
        classes: name of each class.
        transform: image to tensor.
        groups: what else is known of each image, shape (N,); see :class:`RetrievalDataset`.
        group_names: name of each group.
        read: turns an entry of ``files`` into an RGB image; a function of a module, or a ``partial`` of one, so that it
            can be sent to workers. By default :func:`~divconq_pl.data.decoding.read_rgb`.
    """

    def __init__(
        self,
        files: Sequence[str | Path],
        targets: Tensor | Sequence[int],
        classes: Sequence[str],
        transform: Transform | None = None,
        read: Callable[[str], Image.Image] | None = None,
        *,
        groups: Tensor | Sequence[int] | None = None,
        group_names: Sequence[str] = (),
    ) -> None:
        super().__init__(targets, classes, transform, groups=groups, group_names=group_names)
        if len(files) != len(self.targets):
            raise InputError(f"{len(files)} files, but {len(self.targets)} labels")
        self._files = [str(file) for file in files]
        self._read = read or read_rgb

    @property
    def files(self) -> list[str]:
        """The path of each image, as the system takes it; the entries of ``files`` where they are something else."""
        return [self._files[row] for row in self._rows.tolist()]

    @property
    def read(self) -> Callable[[str], Image.Image]:
        """What turns an entry of ``files`` into an RGB image."""
        return self._read

    def _image(self, row: int) -> Image.Image:
        return self._read(self._files[row])

    def _name(self, row: int) -> str:
        return printable(self._files[row])


def _check_groups(groups: Tensor, num_images: int, num_names: int) -> None:
    if groups.shape != (num_images,):
        raise InputError(f"groups of shape {tuple(groups.shape)} for {num_images} images; give one number to each")
    if num_images and not 0 <= int(groups.min()) <= int(groups.max()) < num_names:
        raise InputError(
            f"groups run from {int(groups.min())} to {int(groups.max())}, but {num_names} groups are named"
        )


@dataclass(frozen=True)
class Splits:
    """The parts of a data set, each labelled from 0 by itself.

    Classes are compared by name: none that is trained on is evaluated on, unless the protocol is about these.

    Args:
        train: training images.
        val: validation images, by which the best epoch is chosen; None if there are none.
        test: test images; or (query, gallery), which share their class names.
        protocol: ``"open"``, or one that tests on classes that are trained on.

    Raises:
        InputError: if a part has fewer than two classes, query and gallery differ in their class names, or training
            classes are in another part of an open test.
    """

    train: RetrievalDataset
    val: RetrievalDataset | None
    test: RetrievalDataset | tuple[RetrievalDataset, RetrievalDataset]
    protocol: TestProtocol = "open"

    def __post_init__(self) -> None:
        """Refuse parts with a single class, and an evaluation on classes that are trained on."""
        query, gallery = self.test if isinstance(self.test, tuple) else (self.test, self.test)
        if query.classes != gallery.classes:
            raise InputError("query and gallery must have the same list of class names")
        trained = set(_classes_with_images(self.train))
        for part, data in {"training": self.train, "validation": self.val, "test": query, "gallery": gallery}.items():
            if data is None:
                continue
            present = _classes_with_images(data)
            if len(present) < 2:
                raise InputError(f"the {part} part has {len(present)} class(es) with images; retrieval needs 2 or more")
            shared = [name for name in present if name in trained]
            if shared and data is not self.train and self.protocol == "open":
                raise InputError(
                    f"{len(shared)} classes of the training part are also in the {part} part, which is for new "
                    f"classes: {', '.join(shared[:3])}{', ...' if len(shared) > 3 else ''}; leave each in one of them"
                )


def _classes_with_images(data: RetrievalDataset) -> list[str]:
    return [data.classes[label] for label in data.targets.unique().tolist()]


class SplitSource(Protocol):
    """Anything that gives the parts of a data set."""

    def splits(self) -> Splits:
        """Return training, validation and test part."""
        ...
