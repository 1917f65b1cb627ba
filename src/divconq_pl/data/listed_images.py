"""Images of which a table says the label and the part."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from divconq_pl.data.dataset import RetrievalDataset, Splits, TestProtocol
from divconq_pl.data.decoding import MAX_MEGAPIXELS, check_limits
from divconq_pl.data.listed_parts import UNLABELLED, Splitting, Tested
from divconq_pl.data.samples import OnBadImage, check_on_bad_image
from divconq_pl.errors import InputError


class ListedImages(ABC):
    """Read images of which a table says the label and the part.

    Args:
        val_fraction: share of the classes (of the training classes, if there are parts) for validation, 0 for none.
        test_fraction: share of the classes for the test, if there are no parts.
        fold: for cross-validation, in place of ``val_fraction``; see :func:`.hold_out`.
        num_folds: number of folds.
        protocol: ``"open"`` tests on new classes; ``"closed"`` on new images of the classes that are trained on;
            ``"train_gallery"`` looks for such images among the training images. Images of each class are then held out
            in place of classes, where nothing says which are for the test or validation.
        on_bad_image: ``"stop"`` with the name of the image when it is read, or ``"skip"``: decode every image once
            beforehand and leave out those that cannot be.
        white_level: the value that is white in gray images of more than 8 bits; by default as their format says.
        max_megapixels: the largest image that is read.
        seed: seed of the split.

    Raises:
        InputError: if an argument is out of range.
    """

    where: Path
    """Where the images come from, to be named."""
    unlabelled: ClassVar[str]
    """What to say of a table without labels, behind "has"."""
    hint: ClassVar[str] = ""
    """What else works where classes that are trained on are in an open test."""

    def __init__(
        self,
        *,
        val_fraction: float = 0.2,
        test_fraction: float = 0.3,
        fold: int | None = None,
        num_folds: int = 4,
        protocol: TestProtocol = "open",
        on_bad_image: OnBadImage = "stop",
        white_level: float | None = None,
        max_megapixels: float = MAX_MEGAPIXELS,
        seed: int = 0,
    ) -> None:
        check_on_bad_image(on_bad_image)
        check_limits(white_level, max_megapixels)
        self._splitting = Splitting(val_fraction, test_fraction, fold, num_folds, protocol, seed)
        self.on_bad_image = on_bad_image
        self.read_options: dict[str, Any] = {"white_level": white_level, "max_megapixels": max_megapixels}

    @abstractmethod
    def read_parts(self) -> Mapping[str, RetrievalDataset]:
        """Read the images of each part, or under ``NOT_SPLIT`` alone; without labels the class is ``UNLABELLED``.

        Raises:
            InputError: if the table cannot be read, does not parse, or images are missing.
        """

    def splits(self) -> Splits:
        """Return training, validation and test part.

        Raises:
            InputError: as :meth:`read_parts`; if there are no labels, or the parts do not fit.
        """
        parts = self.read_parts()
        if any(UNLABELLED in data.classes for data in parts.values()):
            raise InputError(f"{str(self.where)!r} has {self.unlabelled}")
        return self._splitting.split(parts, self.where, hint=self.hint)

    def evaluated(self) -> Tested:
        """Return what an evaluation without a training is about: query and gallery, or test, or all without parts.

        Raises:
            InputError: as :meth:`read_parts`; if there is none of these.
        """
        return self._splitting.choose_tested(self.read_parts(), self.where)
