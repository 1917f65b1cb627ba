"""What a report is made of, whoever has collected it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from divconq_pl.core.subspaces import Subspaces
from divconq_pl.metrics.retrieval import Answers


@dataclass
class Images:
    """Images and what is known of them.

    Attributes:
        labels: class of each image, int64, shape (N,).
        picture: from index to image, as PIL or as an array (H, W) or (H, W, 3); None if they cannot be looked at. It
            may raise: a report does without what it cannot get.
        classes: name of each class; the label itself where there are none.
        name: from index to what a reader can find the image by.
        groups: what else is known of each image, such as the side of an object that it shows.
        group_names: name of each group.
    """

    labels: NDArray[np.int64]
    picture: Callable[[int], Any] | None = None
    classes: Sequence[str] = ()
    name: Callable[[int], str] = str
    groups: NDArray[np.int64] | None = None
    group_names: Sequence[str] = ()

    def class_of(self, index: int) -> str:
        """Name the class of an image."""
        return self.class_name(int(self.labels[index]))

    def class_name(self, label: int) -> str:
        """Name a class."""
        return str(self.classes[label]) if 0 <= label < len(self.classes) else f"class {label}"

    @classmethod
    def of_dataset(cls, dataset: Any, labels: Any) -> Images:
        """Make the best of a data set: ``image(i)`` and ``name_of(i)`` where it has them, else ``dataset[i]``.

        Args:
            dataset: any map-style data set.
            labels: class of each image.
        """
        groups = getattr(dataset, "groups", None)
        named = getattr(dataset, "name_of", None)
        return cls(
            np.asarray(labels, dtype=np.int64),
            getattr(dataset, "image", None) or (lambda index: as_picture(dataset[index])),
            [str(name) for name in getattr(dataset, "classes", None) or ()],
            named if callable(named) else str,
            None if groups is None else np.asarray(groups),
            list(getattr(dataset, "group_names", ())),
        )


@dataclass
class Material:
    """Everything that a report shows; what is missing is said there.

    Attributes:
        title: what the run is called.
        epochs: notes of each epoch, see :class:`.Journal`.
        divisions: a summary of each division, see :func:`.summarise`.
        train: the training images.
        assignment: cluster of each, shape (N,).
        subspaces: of the learners.
        test: the test images, or the queries.
        gallery: the gallery, where the test has one.
        embeddings: of the test images, shape (Q, d); of the gallery too where there is one.
        centres: the embedding of each cluster's centre, shape (K, d).
        answers: what each query was answered.
        protocol: what the test asks for: ``"open"`` for images of new classes, ``"closed"`` or ``"train_gallery"`` for
            new images of classes that were trained on; empty where that is not known.
        results: metrics of the test as fractions, under names such as ``test/recall_at_1``.
        plain: the results of a run of the plain loss, and its ``epochs``.
        verdict: the sentence that says whether dividing helped.
        settings: settings by name.
        versions: versions of packages by name.
        command: what repeats the run.
        seconds: further seconds by name, such as those of pictures.
        chosen_epoch: the epoch whose weights were tested.
    """

    title: str
    epochs: Sequence[Mapping[str, Any]] = ()
    divisions: Sequence[Mapping[str, Any]] = ()
    train: Images | None = None
    assignment: NDArray[np.int64] | None = None
    subspaces: Subspaces | None = None
    test: Images | None = None
    gallery: Images | None = None
    embeddings: Sequence[Tensor] = ()
    centres: Tensor | None = None
    answers: Answers | None = None
    protocol: str = ""
    results: Mapping[str, Any] = field(default_factory=dict)
    plain: Mapping[str, Any] | None = None
    verdict: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    command: str = ""
    seconds: Mapping[str, float] = field(default_factory=dict)
    chosen_epoch: int | None = None

    @property
    def found(self) -> Images | None:
        """The images among which neighbours are searched."""
        return self.gallery or self.test


class Missing(Exception):
    """What a section needs is not there; the message says what, and it is shown in its place."""


def as_picture(item: Any) -> NDArray[Any]:
    """Make a picture of what a data set gives: its first part, (C, H, W) with C = 1 or 3, stretched to [0, 1].

    Raises:
        Missing: if that is no image.
    """
    parts = list(item.values()) if isinstance(item, Mapping) else item
    first = parts[0] if isinstance(parts, tuple | list) else parts
    pixels = np.asarray(first, dtype=np.float32)
    if pixels.ndim == 3 and pixels.shape[0] in (1, 3):
        pixels = pixels.transpose(1, 2, 0)
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    if pixels.ndim not in (2, 3) or pixels.shape[-1] in (0, 1):
        raise Missing(f"items of shape {pixels.shape} are no images")
    low, high = float(pixels.min()), float(pixels.max())
    stretched: NDArray[Any] = (pixels - low) / max(high - low, 1e-9)
    return stretched


def name_commonest(groups: NDArray[np.int64], names: Sequence[str], *, most: int = 3, clear: float = 1.0) -> str:
    """Name the commonest groups of some images with their shares.

    Args:
        groups: group of each image.
        names: of the groups.
        most: how many to name.
        clear: from which share on the commonest is named alone.

    Example:
        >>> name_commonest(np.array([0, 0, 0, 1]), ["front", "back"], clear=0.7)
        '75 % front'
        >>> name_commonest(np.array([0, 1, 1, 2]), ["front", "back", "top"], most=2)
        '50 % back, 25 % front'
    """
    shares = np.bincount(groups, minlength=len(names)) / max(len(groups), 1)
    order = np.argsort(-shares, kind="stable")
    shown = order[: 1 if shares[order[0]] >= clear else most]
    return ", ".join(f"{100 * shares[g]:.0f} % {names[g]}" for g in shown if shares[g])
