"""From images that are labelled and sorted into named parts to what is trained, validated and tested on."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, get_args

from divconq_pl.data.dataset import RetrievalDataset, Splits, TestProtocol
from divconq_pl.data.samples import check_gallery, join_first
from divconq_pl.data.splitting import hold_out, hold_out_images, split_by_class
from divconq_pl.errors import InputError

Data = TypeVar("Data", bound=RetrievalDataset)
Tested = RetrievalDataset | tuple[RetrievalDataset, RetrievalDataset]

PARTS = ("train", "val", "test", "query", "gallery")
"""The names that a part may have."""
NOT_SPLIT = "all"
"""What the part of images is called that no list has assigned to one."""
UNLABELLED = "unlabelled"
"""The class of images where no label is given."""


@dataclass(frozen=True)
class Splitting:
    """Split images into training, validation and test part, by the parts that they are in or else at random.

    Parts are given by name, one of :data:`PARTS`, or under :data:`NOT_SPLIT` alone. Under the protocol ``"open"``
    classes are held out, under the others images of each class.

    Args:
        val_fraction: share of the classes, or of each class's images, for validation, where there is no part for it.
        test_fraction: the same for the test, where images are in no parts.
        fold: in place of ``val_fraction``; see :func:`.hold_out`.
        num_folds: number of folds.
        protocol: what the test asks for, see :data:`~divconq_pl.data.dataset.TestProtocol`.
        seed: seed of the draws.

    Raises:
        InputError: if the protocol is unknown, or there are folds of classes for one that holds out images.
    """

    val_fraction: float = 0.2
    test_fraction: float = 0.3
    fold: int | None = None
    num_folds: int = 4
    protocol: TestProtocol = "open"
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot work with any images."""
        if self.protocol not in get_args(TestProtocol):
            raise InputError(f"protocol={self.protocol!r} is unknown; choose {', '.join(get_args(TestProtocol))}")
        if self.protocol != "open" and self.fold is not None:
            raise InputError(
                f"fold={self.fold} holds classes out, but protocol={self.protocol} tests on classes that are trained "
                "on; use val_fraction"
            )

    def split(self, parts: Mapping[str, RetrievalDataset], where: Path, *, hint: str = "") -> Splits:
        """Return what is trained, validated and tested on.

        Args:
            parts: images by the name of their part.
            where: where they come from, to be named.
            hint: what else works where classes that are trained on are in an open test.

        Raises:
            InputError: if parts are missing, or their classes do not fit the protocol.
        """
        parts = {name: keep_present(data) for name, data in parts.items()}
        if NOT_SPLIT in parts and self.protocol == "open":
            return split_by_class(
                parts[NOT_SPLIT],
                self.val_fraction,
                self.test_fraction,
                fold=self.fold,
                num_folds=self.num_folds,
                seed=self.seed,
            )
        if NOT_SPLIT in parts:
            train, test = hold_out_images(parts[NOT_SPLIT], self.test_fraction, self.seed)
            if test is None:
                raise InputError(f"test_fraction={self.test_fraction} leaves no image to test on; use more than 0")
            parts = {"train": train, "test": test}
        if "train" not in parts or not ("test" in parts or {"query", "gallery"} <= set(parts)):
            raise InputError(
                f"{str(where)!r} has images for {', '.join(parts)} only; a training needs train, and test or both "
                "query and gallery"
            )
        if self.fold is not None and "val" in parts:
            raise InputError(f"{str(where)!r} has its own images for validation; leave out fold")
        if self.protocol == "open":
            _refuse_shared(parts, where, hint)
        train, val = parts["train"], parts.get("val")
        if val is None:
            train, val = self._hold_out(train)
        return Splits(train, val, self.choose_tested({**parts, "train": train}, where), self.protocol)

    def choose_tested(self, parts: Mapping[str, RetrievalDataset], where: Path) -> Tested:
        """Return what is evaluated: query and gallery, or test, or whatever is in no part; or test and train.

        Where the protocol is about classes that are trained on, images of others are left out, if it is known which.

        Args:
            parts: as for :meth:`split`.
            where: likewise.

        Raises:
            InputError: if there is none of these, no query has its class in the gallery, or no class is trained on.
        """
        tested = get_tested(parts, where)
        if self.protocol == "train_gallery" and not {"train", "test"} <= set(parts):
            raise InputError(
                f"protocol=train_gallery looks for test images among training images, but {str(where)!r} has images "
                f"for {'no part' if NOT_SPLIT in parts else ', '.join(parts)} only; give train and test"
            )
        if self.protocol == "open" or "train" not in parts:
            return tested
        trained = keep_present(parts["train"])
        names = trained.classes
        if isinstance(tested, tuple):
            query, gallery = (_keep_trained(part, set(names), where) for part in tested)
            names = [name for name in query.classes if name in set(gallery.classes)]
            return query.with_classes(names), gallery.with_classes(names)
        known = _keep_trained(tested, set(names), where)
        return known if self.protocol == "closed" else (known.with_classes(names), trained)

    def _hold_out(self, train: Data) -> tuple[Data, Data | None]:
        if self.protocol != "open":
            return hold_out_images(train, self.val_fraction, self.seed)
        return hold_out(train, self.val_fraction, fold=self.fold, num_folds=self.num_folds, seed=self.seed)


def get_tested(parts: Mapping[str, RetrievalDataset], where: Path) -> Tested:
    """Return what is evaluated: query and gallery, or test, or whatever is in no part.

    Args:
        parts: as for :meth:`Splitting.split`.
        where: likewise.

    Raises:
        InputError: if there is none of these, or no query has its class in the gallery.
    """
    if {"query", "gallery"} <= set(parts):
        query, gallery = parts["query"], parts["gallery"]
        shown = [[data.classes[label] for label in data.targets.tolist()] for data in (query, gallery)]
        check_gallery(shown[0], shown[1], where)
        classes = sorted({name for names in shown for name in names})
        return query.with_classes(classes), gallery.with_classes(classes)
    for name in ("test", NOT_SPLIT):
        if name in parts:
            return keep_present(parts[name])
    raise InputError(
        f"{str(where)!r} has images for {', '.join(parts)} only; an evaluation needs test, or both query and gallery, "
        "or images of which no part is said"
    )


def keep_present(data: Data) -> Data:
    """Leave out the names of classes without images."""
    return data.with_classes([data.classes[label] for label in data.targets.unique().tolist()])


def _refuse_shared(parts: Mapping[str, RetrievalDataset], where: Path, hint: str) -> None:
    trained = set(parts["train"].classes)
    for part in ("test", "query", "gallery"):
        if shared := [name for name in (parts[part].classes if part in parts else ()) if name in trained]:
            raise InputError(
                f"{len(shared)} classes of {str(where)!r} are both in train and in {part}, which is for new classes: "
                f"{join_first(shared)}; use protocol=closed to test on new images of these classes{hint}"
            )


def _keep_trained(data: Data, trained: set[str], where: Path) -> Data:
    known = keep_present(data.with_classes([name for name in data.classes if name in trained]))
    if not len(known):
        raise InputError(
            f"no class of the test images of {str(where)!r} is trained on; protocol=open is for new classes"
        )
    if lost := len(data) - len(known):
        warnings.warn(
            f"{lost} of {len(data)} test images of {str(where)!r} are left out, since their classes are not trained on",
            stacklevel=3,
        )
    return known
