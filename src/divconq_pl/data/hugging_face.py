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

from divconq_pl.data.dataset import RetrievalDataset
from divconq_pl.data.decoding import read_rgb
from divconq_pl.data.hugging_face_tables import (
    find_image_column,
    find_label_column,
    import_datasets,
    load_tables,
    read_labels,
)
from divconq_pl.data.listed_images import ListedImages
from divconq_pl.data.listed_parts import NOT_SPLIT, PARTS
from divconq_pl.data.samples import find_unreadable, join_first
from divconq_pl.errors import InputError

_PART_OF = {**{name: name for name in PARTS}, "validation": "val", "valid": "val"}
"""What the splits of these data sets are called, and which parts they are."""


class HuggingFace(ListedImages):
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
        arguments: those of :class:`~divconq_pl.data.listed_images.ListedImages`.

    Raises:
        InputError: if there is no such folder, or not one of ``root`` and ``name``.
    """

    unlabelled = "no column of labels that is known; name it, dataset.label=COLUMN"
    hint = ", or dataset.split=train+test to read both as one and split the classes"

    def __init__(
        self,
        root: str | Path | None = None,
        *,
        name: str | None = None,
        subset: str | None = None,
        split: str | None = None,
        image: str | None = None,
        label: str | None = None,
        **arguments: Any,
    ) -> None:
        if (root is None) == (name is None):
            raise InputError(
                f"root={root!r} and name={name!r}: give one of them, dataset.root=PATH for a data set on this machine "
                "or dataset.name=OWNER/NAME for one of the Hugging Face Hub"
            )
        if root is not None and not Path(root).expanduser().exists():
            raise InputError(f"root={str(root)!r} does not exist; dataset.name={root} would look for it on the Hub")
        super().__init__(**arguments)
        self.root = None if root is None else Path(root).expanduser()
        self.name = name
        self.where = Path(str(name)) if self.root is None else self.root
        self.subset, self.split, self.image, self.label = subset, split, image, label
        self._read = partial(read_rgb, **self.read_options)

    def read_parts(self) -> dict[str, RetrievalDataset]:
        """Read the images of each part.

        Raises:
            InputError: if the data set cannot be loaded, or columns or splits are missing.
        """
        library = import_datasets()
        loaded = load_tables(library, self.root, self.name, self.subset)
        splits = dict(loaded) if isinstance(loaded, library.DatasetDict) else {NOT_SPLIT: loaded}
        if self.split is not None:
            wanted = [name.strip() for name in self.split.split("+")]
            if unknown := [name for name in wanted if name not in splits]:
                raise InputError(
                    f"split={self.split!r}: {str(self.where)!r} has no {unknown[0]!r}, only {', '.join(splits)}; join "
                    "names by +"
                )
            return {NOT_SPLIT: self._make_part(library, [splits[name] for name in wanted], self.split)}
        if len(splits) == 1:
            return {NOT_SPLIT: self._make_part(library, list(splits.values()), next(iter(splits)))}
        if unused := [name for name in splits if name not in _PART_OF]:
            warnings.warn(f"the splits {join_first(unused)} of {str(self.where)!r} are ignored", stacklevel=3)
        return {
            _PART_OF[name]: self._make_part(library, [data], name) for name, data in splits.items() if name in _PART_OF
        }

    def _make_part(self, library: ModuleType, tables: Sequence[Any], split: str) -> RetrievalDataset:
        table = library.concatenate_datasets(list(tables))
        image, label = find_image_column(library, table, self.image), find_label_column(library, table, self.label)
        labels, classes = read_labels(library, table, label, f"{str(self.where)!r}, split {split}")
        images = table.select_columns([image]).with_format(None).cast_column(image, library.Image(decode=False))
        names = [f"{self.where} {split}[{row}]" for row in range(len(images))]
        rows = list(range(len(images)))
        if self.on_bad_image == "skip":
            number = dict(zip(names, rows, strict=True))
            whole = _TableOfImages(images, names, rows, labels, classes, self._read)
            bad = find_unreadable(names, self.where, lambda name: whole.image(number[name]))
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
