"""Data sets that the ``datasets`` library of Hugging Face reads; ``pip install "divconq-pl[huggingface]"``."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from PIL import Image

from divconq_pl.data.dataset import RetrievalDataset, Splits, TestProtocol
from divconq_pl.data.decoding import MAX_MEGAPIXELS, check_limits, read_rgb
from divconq_pl.data.hugging_face_tables import (
    find_image_column,
    find_label_column,
    import_datasets,
    load_tables,
    read_labels,
)
from divconq_pl.data.listed_parts import NOT_SPLIT, PARTS, UNLABELLED, Splitting, Tested
from divconq_pl.data.samples import OnBadImage, check_on_bad_image, find_unreadable, join_first
from divconq_pl.errors import InputError

_PART_OF = {**{name: name for name in PARTS}, "validation": "val", "valid": "val"}
"""What the splits of these data sets are called, and which parts they are."""


class HuggingFace:
    """Read a data set by the ``datasets`` library: a local one, or one of the Hub, which is downloaded once.

    Splits called ``train``, ``validation`` (``val``, ``valid``), ``test``, ``query`` and ``gallery`` are the parts of
    that name; the classes of a single split are split at random. Images are decoded by
    :func:`~divconq_pl.data.decoding.read_rgb`.

    Args:
        root: a folder that ``save_to_disk`` wrote, any other that ``load_dataset`` reads, such as one of images or
            parquet files, or a parquet file. Nothing is downloaded.
        name: in place of ``root``, the name of a data set of the Hub, such as ``owner/birds``.
        subset: which of its configurations, if it has several.
        split: the names of splits to read as one, such as ``train+test``, and to split by classes at random.
        image: the column of images; by default the only one of that type, or ``image`` or ``img``.
        label: the column of labels, names or numbers; by default ``label``, or the only one of classes. Without any
            such column images can be embedded, not trained on.
        val_fraction: share of the classes (of the training classes, if there are several splits) for validation.
        test_fraction: share of the classes for the test, if there is one split.
        fold: for cross-validation, in place of ``val_fraction``; see :func:`.hold_out`.
        num_folds: number of folds.
        protocol: ``"open"`` tests on new classes; ``"closed"`` on new images of the classes that are trained on;
            ``"train_gallery"`` looks for such images among the training images. Images of each class are then held out
            in place of classes, where nothing says which are for the test or validation.
        on_bad_image: ``"stop"`` when it is read, or ``"skip"``: decode every image once beforehand and leave out those
            that cannot be.
        white_level: the value that is white in gray images of more than 8 bits; by default as their format says.
        max_megapixels: the largest image that is read.
        seed: seed of the split.

    Raises:
        InputError: if there is no such folder, or not one of ``root`` and ``name``.
    """

    def __init__(
        self,
        root: str | Path | None = None,
        *,
        name: str | None = None,
        subset: str | None = None,
        split: str | None = None,
        image: str | None = None,
        label: str | None = None,
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
        if (root is None) == (name is None):
            raise InputError(
                f"root={root!r} and name={name!r}: give one of them, dataset.root=PATH for a data set on this machine "
                "or dataset.name=OWNER/NAME for one of the Hugging Face Hub"
            )
        if root is not None and not Path(root).expanduser().exists():
            raise InputError(f"root={str(root)!r} does not exist; dataset.name={root} would look for it on the Hub")
        check_on_bad_image(on_bad_image)
        check_limits(white_level, max_megapixels)
        self.root = None if root is None else Path(root).expanduser()
        self.name = name
        self.subset, self.split, self.image, self.label = subset, split, image, label
        self._splitting = Splitting(val_fraction, test_fraction, fold, num_folds, protocol, seed)
        self.on_bad_image = on_bad_image
        self._read = partial(read_rgb, white_level=white_level, max_megapixels=max_megapixels)

    def splits(self) -> Splits:
        """Return training, validation and test part.

        Raises:
            InputError: if the data set cannot be loaded, columns or splits are missing, or do not fit.
        """
        parts = self._read_parts()
        if any(UNLABELLED in data.classes for data in parts.values()):
            raise InputError(
                f"{str(self._where)!r} has no column of labels that is known; name it, dataset.label=COLUMN"
            )
        hint = ", or dataset.split=train+test to read both as one and split the classes"
        return self._splitting.split(parts, self._where, hint=hint)

    def evaluated(self) -> Tested:
        """Return what an evaluation without a training is about: query and gallery, or test, or the only split.

        Raises:
            InputError: as :meth:`splits`.
        """
        return self._splitting.choose_tested(self._read_parts(), self._where)

    @property
    def _where(self) -> Path:
        return self.root if self.root is not None else Path(str(self.name))

    def _read_parts(self) -> dict[str, RetrievalDataset]:
        library = import_datasets()
        loaded = load_tables(library, self.root, self.name, self.subset)
        splits = dict(loaded) if isinstance(loaded, library.DatasetDict) else {NOT_SPLIT: loaded}
        if self.split is not None:
            wanted = [name.strip() for name in self.split.split("+")]
            if unknown := [name for name in wanted if name not in splits]:
                raise InputError(
                    f"split={self.split!r}: {str(self._where)!r} has no {unknown[0]!r}, only {', '.join(splits)}; join "
                    "names by +"
                )
            return {NOT_SPLIT: self._make_part(library, [splits[name] for name in wanted], self.split)}
        if len(splits) == 1:
            return {NOT_SPLIT: self._make_part(library, list(splits.values()), next(iter(splits)))}
        if unused := [name for name in splits if name not in _PART_OF]:
            warnings.warn(f"the splits {join_first(unused)} of {str(self._where)!r} are ignored", stacklevel=3)
        return {
            _PART_OF[name]: self._make_part(library, [data], name) for name, data in splits.items() if name in _PART_OF
        }

    def _make_part(self, library: ModuleType, tables: Sequence[Any], split: str) -> RetrievalDataset:
        table = library.concatenate_datasets(list(tables))
        image, label = find_image_column(library, table, self.image), find_label_column(library, table, self.label)
        labels, classes = read_labels(library, table, label, f"{str(self._where)!r}, split {split}")
        images = table.select_columns([image]).with_format(None).cast_column(image, library.Image(decode=False))
        names = [f"{self._where} {split}[{row}]" for row in range(len(images))]
        rows = list(range(len(images)))
        if self.on_bad_image == "skip":
            number = dict(zip(names, rows, strict=True))
            whole = _TableOfImages(images, names, rows, labels, classes, self._read)
            bad = find_unreadable(names, self._where, lambda name: whole.image(number[name]))
            rows = [row for row in rows if names[row] not in bad]
        return _TableOfImages(images, names, rows, [labels[row] for row in rows], classes, self._read)


class _TableOfImages(RetrievalDataset):
    """Read images of some rows of a table with one column, of paths and bytes."""

    def __init__(
        self,
        table: Any,
        names: Sequence[str],
        rows: Sequence[int],
        labels: Sequence[int],
        classes: Sequence[str],
        read: Callable[..., Image.Image],
    ) -> None:
        super().__init__(labels, classes)
        self._table = table
        self._names = names
        self._table_rows = rows
        self._read = read

    def _image(self, row: int) -> Image.Image:
        at = self._table_rows[row]
        (value,) = self._table[at].values()
        if value is None or not (value["bytes"] or value["path"]):
            raise InputError(f"cannot read the image {self._names[at]!r}: the row has none")
        return self._read(io.BytesIO(value["bytes"]) if value["bytes"] else value["path"], self._names[at])

    def _name(self, row: int) -> str:
        return self._names[self._table_rows[row]]
