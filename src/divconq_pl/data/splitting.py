"""Split one data set by class into training, validation and test part."""

from __future__ import annotations

from divconq_pl.data.dataset import RetrievalDataset, Splits, hold_out, split_classes


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
        InputError: if there are too few classes, the fractions are no shares of a whole, or there is no such fold.
    """
    if fold is None:
        train, val, test = map(data.with_classes, split_classes(data.classes, val_fraction, test_fraction, seed))
        return Splits(train, val if val.classes else None, test)
    rest, _, drawn = split_classes(data.classes, 0, test_fraction, seed)
    train, held = hold_out(data.with_classes(rest), fold=fold, num_folds=num_folds)
    return Splits(train, held, data.with_classes(drawn))
