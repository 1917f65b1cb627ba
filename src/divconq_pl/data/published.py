"""What the readers of published data sets have in common."""

from __future__ import annotations

import os
import warnings
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from divconq_pl.data.dataset import FileDataset, Splits
from divconq_pl.data.decoding import read_rgb
from divconq_pl.data.download import Archive, fetch
from divconq_pl.data.layouts import Found, Labelled, Layout, Parts, explain_missing, find_layout
from divconq_pl.data.samples import (
    OnBadImage,
    check_gallery,
    check_on_bad_image,
    find_missing,
    find_single,
    find_unreadable,
    join_first,
)
from divconq_pl.data.splitting import hold_out
from divconq_pl.errors import InputError


class Benchmark(ABC):
    """Read a published data set from a copy on disk, with its published training and test classes.

    The copy may lie in any of the layouts that users have it in, and the root may be up to two levels too high or too
    deep. A warning says what differs from the published numbers.

    Args:
        root: the folder that holds the copy.
        download: fetch the data set into ``root`` if it is not there.
        val_fraction: share of the training classes that is held out for validation, 0 for none; see
            :func:`.hold_out`.
        fold: for cross-validation, which of ``num_folds`` runs of consecutive training classes is for validation.
        num_folds: number of folds.
        seed: seed of the draw of validation classes.
        on_bad_image: ``"stop"`` where an image is missing or broken, with the name of its file; or ``"skip"``: decode
            every image once beforehand and leave out those that cannot be read.

    Raises:
        InputError: if there is no such folder, or an argument is out of range.
    """

    title: ClassVar[str]
    """Name of the data set."""
    home: ClassVar[str | None] = None
    """Folder that the published archive unpacks to."""
    source: ClassVar[Archive | str]
    """The published archive; or a sentence that says how to get it."""

    def __init__(
        self,
        root: str | Path,
        *,
        download: bool = False,
        val_fraction: float = 0.2,
        fold: int | None = None,
        num_folds: int = 4,
        seed: int = 0,
        on_bad_image: OnBadImage = "stop",
    ) -> None:
        self.root = Path(root).expanduser()
        if not download and not self.root.exists():
            fetch_it = ", or fetch it with download=true" if isinstance(self.source, Archive) else ""
            raise InputError(f"root={str(root)!r} does not exist; give the folder that holds {self.title}{fetch_it}")
        if self.root.exists() and not (self.root.is_dir() and os.access(self.root, os.R_OK | os.X_OK)):
            raise InputError(f"root={str(root)!r} is not a readable folder; give one that holds {self.title}")
        check_on_bad_image(on_bad_image)
        self.download = download
        self.val_fraction = val_fraction
        self.fold = fold
        self.num_folds = num_folds
        self.seed = seed
        self.on_bad_image = on_bad_image

    @abstractmethod
    def layouts(self) -> Sequence[Layout]:
        """Return the ways in which copies of the data set lie on disk."""

    @abstractmethod
    def published_counts(self) -> dict[str, tuple[int, int]]:
        """Return how many images and classes each part has, as published."""

    def splits(self) -> Splits:
        """Return training, validation and test part.

        Raises:
            InputError: if there is no copy, or more than one; an annotation does not parse; images are missing; or the
                classes cannot be split as asked for.
        """
        found = self._find()
        parts = self._check_images(found.parts(), found)
        self._compare_with_published(parts, found.folder)
        data = {part: _make_dataset(rows, found.layout) for part, rows in parts.items() if part in ("train", "test")}
        train, val = hold_out(
            data["train"], self.val_fraction, fold=self.fold, num_folds=self.num_folds, seed=self.seed
        )
        if "test" in data:
            return Splits(train, val, data["test"])
        query, gallery = parts["query"], parts["gallery"]
        check_gallery([row.class_name for row in query], [row.class_name for row in gallery], found.folder)
        both = query + gallery
        return Splits(
            train, val, (_make_dataset(query, found.layout, both), _make_dataset(gallery, found.layout, both))
        )

    def _find(self) -> Found:
        layouts = self.layouts()
        found = find_layout(self.root, layouts, self.home)
        if found is None and self.download and isinstance(self.source, Archive):
            fetch(self.source, self.root)
            found = find_layout(self.root, layouts, self.home)
        if found is None:
            can_fetch = isinstance(self.source, Archive)
            how = "download=true fetches it" if can_fetch else f"it cannot be downloaded from here: {self.source}"
            raise InputError(f"{self.title}: {explain_missing(self.root, layouts, self.home)}; {how}")
        return found

    def _check_images(self, parts: Parts, found: Found) -> Parts:
        """Leave out repeated and unreadable images, and warn of classes with a single image."""
        parts = _drop_repeated(parts)
        images = [row.image for rows in parts.values() for row in rows]
        bad: set[str] = set()
        if self.on_bad_image == "skip":
            bad = find_unreadable(images, found.folder, found.layout.read_image or read_rgb)
        elif found.layout.read_image is None and (gone := find_missing(images)):
            raise InputError(
                f"{len(gone)} of {len(images)} images that {self.title} names are missing in {str(found.folder)!r}, "
                f"the first is {gone[0]!r}; complete the copy, or leave them out with on_bad_image=skip"
            )
        parts = {part: [row for row in rows if row.image not in bad] for part, rows in parts.items()}
        for part, consequence in (("train", "cannot form a pair"), ("test", "no other can find")):
            if lone := find_single(row.class_name for row in parts.get(part, ())):
                warnings.warn(
                    f"{len(lone)} classes of the {part} part of {self.title} have a single image, which {consequence}: "
                    f"{join_first(lone)}",
                    stacklevel=3,
                )
        return parts

    def _compare_with_published(self, parts: Parts, folder: Path) -> None:
        differing = []
        for part, (images, classes) in self.published_counts().items():
            found = (len(parts[part]), len({row.class_id for row in parts[part]}))
            if found != (images, classes):
                differing.append(f"{part} {found[0]} images of {found[1]} classes in place of {images} of {classes}")
        if differing:
            warnings.warn(f"{self.title} in {str(folder)!r} is not as published: {', '.join(differing)}", stacklevel=3)


def _drop_repeated(parts: Parts) -> Parts:
    """Keep the first of equal lines, and leave out what macOS puts beside images."""
    seen: dict[str, tuple[str, str]] = {}
    kept: Parts = {part: [] for part in parts}
    repeated = []
    for part, rows in parts.items():
        for row in rows:
            place = (part, row.class_name)
            if (before := seen.setdefault(row.image, place)) != place:
                raise InputError(
                    f"{row.image!r} is listed as {before[1]!r} in {before[0]} and as {place[1]!r} in {place[0]}; an "
                    "image has one class and part"
                )
            if os.path.basename(row.image).startswith("._"):
                continue
            if before is place:
                kept[part].append(row)
            else:
                repeated.append(row.image)
    if repeated:
        warnings.warn(f"{len(repeated)} lines repeat an image and are ignored: {join_first(repeated)}", stacklevel=4)
    return kept


def _make_dataset(rows: Sequence[Labelled], layout: Layout, among: Sequence[Labelled] | None = None) -> FileDataset:
    """Label images by the rank of their class number among those of ``among``, by default among their own."""
    names = {row.class_id: row.class_name for row in sorted(among or rows, key=lambda row: row[:3])}
    if again := [name for name, count in Counter(names.values()).items() if count > 1]:
        raise InputError(
            f"{len(again)} names belong to more than one class: {join_first(again)}; name each class apart"
        )
    label = {class_id: i for i, class_id in enumerate(names)}
    files, labels = [row.image for row in rows], [label[row.class_id] for row in rows]
    groups = sorted({row.group for row in among or rows if row.group is not None})
    numbers = [groups.index(row.group) for row in rows if row.group is not None]
    return FileDataset(
        files, labels, list(names.values()), read=layout.read_image, groups=numbers or None, group_names=groups
    )
