"""Which classes are for training, validation and test."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import torch

from divconq_pl.data.dataset import RetrievalDataset, Splits
from divconq_pl.errors import InputError

Data = TypeVar("Data", bound=RetrievalDataset)


def split_by_class(
    data: RetrievalDataset,
    val_fraction: float,
    test_fraction: float,
    *,
    fold: int | None = None,
    num_folds: int = 4,
    seed: int = 0,
) -> Splits:
    """Draw the test classes, then hold classes out for validation.

    Args:
        data: all images.
        val_fraction: share of all classes that is drawn for validation, 0 for none.
        test_fraction: share of all classes for the test; the same classes in every fold and for every ``val_fraction``.
        fold: in place of ``val_fraction``, which of ``num_folds`` runs of the classes left is for validation; see
            :func:`hold_out`.
        num_folds: number of folds.
        seed: seed of the draws.

    Raises:
        InputError: if there are too few classes, a fraction is out of range, or there is no such fold.
    """
    if fold is None:
        train, val, test = map(data.with_classes, split_classes(data.classes, val_fraction, test_fraction, seed))
        return Splits(train, val if val.classes else None, test)
    rest, _, drawn = split_classes(data.classes, 0, test_fraction, seed)
    train, held = hold_out(data.with_classes(rest), fold=fold, num_folds=num_folds)
    return Splits(train, held, data.with_classes(drawn))


def split_classes(
    classes: Sequence[str], val_fraction: float, test_fraction: float, seed: int
) -> tuple[list[str], list[str], list[str]]:
    """Draw which classes are for training, validation and test.

    Args:
        classes: all class names.
        val_fraction: share of the classes for validation, 0 for none; otherwise two classes at least.
        test_fraction: the same for the test.
        seed: seed of the draw.

    Returns:
        Names of the training, validation and test classes, disjoint, each in the order of ``classes``. The test classes
        do not depend on ``val_fraction``.

    Raises:
        InputError: if a fraction is out of range, or there are too few classes.

    Example:
        >>> [len(part) for part in split_classes("abcdefghij", 0.2, 0.3, seed=0)]
        [5, 2, 3]
    """
    if not (0 <= val_fraction < 1 and 0 <= test_fraction < 1 and val_fraction + test_fraction < 1):
        raise InputError(
            f"val_fraction={val_fraction} and test_fraction={test_fraction} must be 0 or more, and below 1 together"
        )
    n = len(classes)
    sizes = [max(2, round(fraction * n)) if fraction else 0 for fraction in (val_fraction, test_fraction)]
    if n - sum(sizes) < 2:
        raise InputError(
            f"{n} classes cannot be split with val_fraction={val_fraction} and test_fraction={test_fraction}: each "
            "part needs 2 classes; bring more classes, or leave a part out with a fraction of 0"
        )
    part = np.zeros(n, dtype=int)
    drawn = np.random.default_rng(seed).permutation(n)
    part[drawn[: sizes[0]]] = 1
    part[drawn[n - sizes[1] :]] = 2  # the same classes however many are for validation
    train, val, test = ([name for name, p in zip(classes, part, strict=True) if p == which] for which in range(3))
    return train, val, test


def hold_out(
    data: Data, val_fraction: float = 0.2, *, fold: int | None = None, num_folds: int = 4, seed: int = 0
) -> tuple[Data, Data | None]:
    """Hold out classes of the training data, by which the best epoch is chosen.

    Choosing it by the test classes inflates the results ("A Metric Learning Reality Check", Musgrave et al., 2020).

    Args:
        data: the training images.
        val_fraction: share of the classes that is drawn for validation, 0 for none.
        fold: for cross-validation over classes: which of ``num_folds`` equal runs of consecutive classes is for
            validation, in place of a drawn share.
        num_folds: number of folds (that paper: 4).
        seed: seed of the draw.

    Returns:
        Training and validation images, with disjoint classes; None for validation if there is none.

    Raises:
        InputError: if there is no such fold, or a part has fewer than two classes.

    Example:
        >>> from divconq_pl.data import ArrayDataset
        >>> images = np.zeros((8, 1, 1), np.uint8)
        >>> data = ArrayDataset(images, range(8), "abcdefgh", "12345678")
        >>> train, val = hold_out(data, fold=1, num_folds=4)
        >>> train.classes, val.classes
        (['a', 'b', 'e', 'f', 'g', 'h'], ['c', 'd'])
    """
    if fold is None:
        kept, held, _ = split_classes(data.classes, val_fraction, 0, seed)
    else:
        n = len(data.classes)
        if not 2 <= num_folds <= n // 2:
            raise InputError(f"num_folds={num_folds} must lie between 2 and {n // 2}; each needs 2 of the {n} classes")
        if not 0 <= fold < num_folds:
            raise InputError(f"fold={fold} is not one of the {num_folds} folds; use 0 to {num_folds - 1}")
        held = data.classes[fold * n // num_folds : (fold + 1) * n // num_folds]
        kept = [name for name in data.classes if name not in set(held)]
    return data.with_classes(kept), data.with_classes(held) if held else None


def hold_out_images(data: Data, fraction: float, seed: int) -> tuple[Data, Data | None]:
    """Hold out a share of the images of each class, two at least, where two are left: no class is new.

    Args:
        data: images.
        fraction: share of the images of each class, 0 for none.
        seed: seed of the draw.

    Returns:
        The images left and those held out; the latter are without the classes that have fewer than four images, and
        None if there is none.

    Raises:
        InputError: if the fraction is out of range, or no class has enough images.

    Example:
        >>> from divconq_pl.data import ArrayDataset
        >>> data = ArrayDataset(np.zeros((9, 1, 1), np.uint8), [0] * 6 + [1] * 3, "ab", "123456123")
        >>> [part.targets.tolist() for part in hold_out_images(data, 0.3, seed=0)]
        [[0, 0, 0, 0, 1, 1, 1], [0, 0]]
    """
    if not 0 <= fraction < 1:
        raise InputError(f"a share of {fraction} of the images cannot be held out; use 0 or more, and below 1")
    if not fraction:
        return data, None
    counts = np.bincount(data.targets.numpy(), minlength=len(data.classes))
    number = np.maximum(2, np.rint(fraction * counts)).astype(int)
    number[counts - number < 2] = 0
    if not number.any():
        raise InputError(
            f"none of {len(data.classes)} classes has four images, two to train on and two to hold out; bring more, or "
            "hold none out with a fraction of 0"
        )
    drawn = np.random.default_rng(seed).permutation(len(data))
    drawn = drawn[np.argsort(data.targets.numpy()[drawn], kind="stable")]
    place = np.arange(len(data)) - np.repeat(counts.cumsum() - counts, counts)
    is_held = np.zeros(len(data), dtype=bool)
    is_held[drawn[place < np.repeat(number, counts)]] = True
    kept, held = (data.with_images(torch.from_numpy(rows.nonzero()[0])) for rows in (~is_held, is_held))
    return kept, held.with_classes([name for name, n in zip(data.classes, number, strict=True) if n])
