"""From images that are labelled and sorted into named parts to what is trained, validated and tested on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from divconq_pl.data.dataset import RetrievalDataset, Splits
from divconq_pl.data.samples import check_gallery
from divconq_pl.data.splitting import hold_out, split_by_class
from divconq_pl.errors import InputError

Data = TypeVar("Data", bound=RetrievalDataset)
Tested = RetrievalDataset | tuple[RetrievalDataset, RetrievalDataset]

PARTS = ("train", "val", "test", "query", "gallery")
"""The names that a part may have."""
NOT_SPLIT = "all"
"""What the part of images is called that no list has assigned to one."""
UNLABELLED = "unlabelled"
"""The class of images where no label is given."""


def make_splits(
    parts: Mapping[str, RetrievalDataset],
    where: Path,
    *,
    val_fraction: float = 0.2,
    test_fraction: float = 0.3,
    fold: int | None = None,
    num_folds: int = 4,
    seed: int = 0,
) -> Splits:
    """Split images into training, validation and test part, by the parts that they are in or else by classes.

    Args:
        parts: images by the name of their part, one of :data:`PARTS`; or under :data:`NOT_SPLIT` alone.
        where: where they come from, to be named.
        val_fraction: share of the classes for validation, where there is no part for it.
        test_fraction: share of the classes for the test, where images are in no parts.
        fold: in place of ``val_fraction``; see :func:`~divconq_pl.data.hold_out`.
        num_folds: number of folds.
        seed: seed of the draws.

    Raises:
        InputError: if parts are missing, or classes are in more than one.
    """
    parts = {name: keep_present(data) for name, data in parts.items()}
    if NOT_SPLIT in parts:
        whole = parts[NOT_SPLIT]
        return split_by_class(whole, val_fraction, test_fraction, fold=fold, num_folds=num_folds, seed=seed)
    if "train" not in parts or not ("test" in parts or {"query", "gallery"} <= set(parts)):
        raise InputError(
            f"{str(where)!r} has images for {', '.join(parts)} only; a training needs train, and test or both query "
            "and gallery"
        )
    train, val = parts["train"], parts.get("val")
    if val is None:
        train, val = hold_out(train, val_fraction, fold=fold, num_folds=num_folds, seed=seed)
    return Splits(train, val, get_tested(parts, where))


def get_tested(parts: Mapping[str, RetrievalDataset], where: Path) -> Tested:
    """Return what is evaluated: query and gallery, or test, or whatever is in no part.

    Args:
        parts: as for :func:`make_splits`.
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
