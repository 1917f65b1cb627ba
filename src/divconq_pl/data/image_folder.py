"""Any folder of images, with one sub folder per class."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from functools import partial
from pathlib import Path

from PIL import Image

from divconq_pl.data.dataset import FileDataset, Splits, TestProtocol
from divconq_pl.data.decoding import MAX_MEGAPIXELS, check_limits, image_extensions, printable, read_rgb
from divconq_pl.data.listed_parts import NOT_SPLIT, Splitting, Tested
from divconq_pl.data.parts import LAYOUTS, descend, find_evaluated_parts, find_training_parts, name_part, suggest_other
from divconq_pl.data.samples import (
    OnBadImage,
    check_on_bad_image,
    describe_passed_over,
    find_single,
    find_unreadable,
    join_first,
    list_folders,
    list_images,
)
from divconq_pl.data.splitting import hold_out, split_classes
from divconq_pl.errors import InputError

Sample = tuple[str, str]
"""Class name and path of an image."""

_OTHERWISE = {
    **dict.fromkeys((".csv", ".tsv"), "dataset=csv reads it"),
    ".parquet": "dataset=huggingface reads it",
    **dict.fromkeys((".zip", ".tar", ".gz", ".tgz", ".7z", ".rar"), "unpack it, and give the folder"),
}
"""What to do with a file, by its ending."""

TEST_FRACTION = 0.3
"""The share of the classes that is for the test where nothing says which."""


class ImageFolder:
    """Read a folder of images in one of three layouts, recognised by the names of its sub folders.

    - ``<root>/<class>/<image>``: the classes are split at random, or as listed.
    - ``<root>/train/<class>/<image>`` and ``<root>/test/...``, possibly ``<root>/val/...``.
    - ``<root>/train/...``, ``<root>/query/...`` and ``<root>/gallery/...``, possibly ``<root>/val/...``: each query
      image looks for its class in the gallery.

    Where nothing says which classes are for validation, a share of the training classes is drawn. An evaluation alone
    needs no train folder, and takes all images where there is no part for the test, see :meth:`evaluated`.

    What is no image by its name is passed over, and a warning says how much of what that is. How images are decoded,
    :func:`~divconq_pl.data.decoding.read_rgb` says.

    Args:
        root: the folder, or one that holds nothing else.
        train_classes: names of the training classes, for the first layout; by default those not listed elsewhere.
        val_classes: the same for the validation classes; an empty list for none.
        test_classes: the same for the test classes.
        val_fraction: share of the classes (of the training classes, if the test classes are given) for validation,
            0 for none.
        test_fraction: share of the classes for the test, for the first layout without lists; None is
            :data:`.TEST_FRACTION` in a training and all in an evaluation.
        fold: for cross-validation, in place of ``val_fraction``: which of ``num_folds`` equal shares of the classes
            that are not for the test is for validation.
        num_folds: number of folds.
        protocol: ``"open"`` tests on new classes; ``"closed"`` on new images of the classes that are trained on;
            ``"train_gallery"`` looks for such images among the training images. Images of each class are then held out
            in place of classes, where nothing says which are for the test or validation.
        on_bad_image: ``"stop"`` with the name of the file when it is read, or ``"skip"``: decode every image once
            beforehand and leave out those that cannot be.
        white_level: the value that is white in gray images of more than 8 bits; by default as their format says.
        max_megapixels: the largest image that is read.
        seed: seed of the split.

    Raises:
        InputError: if there is no such folder, or the arguments contradict each other.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        train_classes: Sequence[str] | None = None,
        val_classes: Sequence[str] | None = None,
        test_classes: Sequence[str] | None = None,
        val_fraction: float = 0.2,
        test_fraction: float | None = None,
        fold: int | None = None,
        num_folds: int = 4,
        protocol: TestProtocol = "open",
        on_bad_image: OnBadImage = "stop",
        white_level: float | None = None,
        max_megapixels: float = MAX_MEGAPIXELS,
        seed: int = 0,
    ) -> None:
        self.root = Path(root).expanduser()
        if not self.root.is_dir():
            state = "is a file" if self.root.exists() else "does not exist"
            other = _OTHERWISE.get(self.root.suffix.lower()) or f"give a folder laid out as {LAYOUTS}"
            raise InputError(f"root={str(root)!r} {state}; {other}")
        check_on_bad_image(on_bad_image)
        if val_classes is not None and train_classes is None and test_classes is None:
            raise InputError("val_classes are listed without train_classes or test_classes; list one of these, too")
        if val_classes is not None and fold is not None:
            raise InputError(f"fold={fold} holds classes out for validation, but val_classes lists some; leave one out")
        if protocol != "open" and not (train_classes is test_classes is None):
            raise InputError(f"protocol={protocol} tests on classes that are trained on; list no classes")
        check_limits(white_level, max_megapixels)
        self.train_classes, self.val_classes, self.test_classes = train_classes, val_classes, test_classes
        self.val_fraction = val_fraction
        self.test_fraction = test_fraction
        self.fold = fold
        self.num_folds = num_folds
        self.protocol = protocol
        self.on_bad_image = on_bad_image
        self.white_level = white_level
        self.max_megapixels = max_megapixels
        self.seed = seed

    def splits(self) -> Splits:
        """Return training, validation and test part.

        Raises:
            InputError: if the folder has no such layout, a listed class is missing, a part has fewer than two
                classes, or its classes do not fit the protocol.
        """
        with self._reporting() as passed_over:
            root = descend(self.root)
            names = find_training_parts(root)
            if not names:
                data = self._make_dataset(self._list_samples(root, passed_over))
                if len(data.classes) == 1:
                    raise InputError(
                        f"{str(root)!r} has a single class, {data.classes[0]!r}, and retrieval needs to train and to "
                        f"test on two or more each; {suggest_other(root)}"
                    )
                return self._split_by_class(data)
            if self.train_classes is not None or self.test_classes is not None:
                raise InputError(f"{str(root)!r} has its own train folder; leave out train_classes and test_classes")
            parts = {part: self._list_samples(root / name, passed_over) for part, name in names.items()}
        if self.protocol == "open":
            _warn_of_shared_classes(parts)
        return self._splitting.split({name: self._make_dataset(part) for name, part in parts.items()}, root)

    def evaluated(self) -> Tested:
        """Return the images that an evaluation without a training is about.

        They are those of ``query`` and ``gallery`` or of ``test``, where there are such folders; the listed test
        classes, or the drawn ones, if there is a list or a ``test_fraction``; and all images otherwise. Images without
        folders for their classes are of a single one. Under another protocol than ``"open"`` images are left out whose
        class has no folder in ``train``, where there is one.

        Raises:
            InputError: if there are none, a listed class is missing, no query has its class in the gallery, or the
                parts do not fit the protocol.
        """
        with self._reporting() as passed_over:
            root = descend(self.root)
            if names := find_evaluated_parts(root, trained=self.protocol != "open"):
                listed = {part: self._list_samples(root / name, passed_over) for part, name in names.items()}
                parts = {part: self._make_dataset(samples) for part, samples in listed.items()}
                return self._splitting.choose_tested(parts, root)
            if not list_folders(root) and (files := list_images(root, passed_over)):
                name = printable(root.resolve().name)
                return self._make_dataset([(name, file) for file in self._leave_out_bad(files, root)])
            data = self._make_dataset(self._list_samples(root, passed_over))
        if self.train_classes is not None or self.test_classes is not None:
            return data.with_classes(self._assign_classes(data.classes)[2])
        if self.test_fraction is None or self.test_fraction == 1:
            return self._splitting.choose_tested({NOT_SPLIT: data}, root)
        if self.protocol == "open":
            return data.with_classes(split_classes(data.classes, 0, self.test_fraction, self.seed)[2])
        return self._split_by_class(data).test

    @contextmanager
    def _reporting(self) -> Iterator[Counter[str]]:
        """Count what is passed over, and say it in the end."""
        passed_over: Counter[str] = Counter()
        yield passed_over
        if passed_over:
            warnings.warn(
                f"passed over in {str(self.root)!r}: {describe_passed_over(passed_over)}; images end in "
                f"{' '.join(image_extensions())}",
                stacklevel=4,
            )

    def _make_dataset(self, samples: Sequence[Sample]) -> FileDataset:
        names = sorted({name for name, _ in samples})
        label = {name: i for i, name in enumerate(names)}
        files, labels = [file for _, file in samples], [label[name] for name, _ in samples]
        return FileDataset(files, labels, names, read=self._read)

    @property
    def _read(self) -> Callable[[str], Image.Image]:
        return partial(read_rgb, white_level=self.white_level, max_megapixels=self.max_megapixels)

    @property
    def _splitting(self) -> Splitting:
        share = TEST_FRACTION if self.test_fraction is None else self.test_fraction
        return Splitting(self.val_fraction, share, self.fold, self.num_folds, self.protocol, self.seed)

    def _split_by_class(self, data: FileDataset) -> Splits:
        if self.train_classes is None and self.test_classes is None:
            return self._splitting.split({NOT_SPLIT: data}, self.root)
        train, val, test = map(data.with_classes, self._assign_classes(data.classes))
        if self.val_classes is not None:
            return Splits(train, val if val.classes else None, test)
        held = hold_out(train, self.val_fraction, fold=self.fold, num_folds=self.num_folds, seed=self.seed)
        return Splits(*held, test)

    def _assign_classes(self, classes: Sequence[str]) -> tuple[list[str], list[str], list[str]]:
        """Return the classes of each part; those not listed are for training or test, whichever has no list."""
        given = {"train": self.train_classes, "val": self.val_classes, "test": self.test_classes}
        lists = {part: list(names or ()) for part, names in given.items()}
        listed = [name for names in lists.values() for name in names]
        for name, times in Counter(listed).items():
            if name not in classes:
                near = get_close_matches(str(name), classes, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else f", which has {list(classes[:3])} and so on"
                raise InputError(f"the listed class {name!r} is not in {str(self.root)!r}{hint}")
            if times > 1:
                raise InputError(f"the class {name!r} is listed {times} times; the parts must not share classes")
        rest = [name for name in classes if name not in set(listed)]
        return lists["train"] or rest, lists["val"], lists["test"] or rest

    def _list_samples(self, folder: Path, passed_over: Counter[str]) -> list[Sample]:
        """List the images of a folder of classes, sorted by class and file name."""
        images = {name: list_images(folder / name, passed_over) for name in list_folders(folder)}
        if outside := list_images(folder):
            passed_over["images outside of the classes' folders"] += len(outside)
        empty = [name for name, files in images.items() if not files]
        for name in empty:
            if any(list_images(folder / name / inner) for inner in list_folders(folder / name)):
                raise InputError(
                    f"{str(folder / name)!r} holds folders where images are expected; if these are the classes, give "
                    f"dataset.root={str(folder / name)!r}; otherwise use {LAYOUTS}, or list images and classes in a "
                    "CSV file, dataset=csv"
                )
        samples = [(printable(name), file) for name, files in images.items() for file in files]
        if not samples:
            what = f"{len(images)} folders but no image in them" if images else "no folder per class"
            there = f" ({describe_passed_over(passed_over)})" if passed_over else ""
            kinds = " ".join(image_extensions())
            raise InputError(
                f"{str(folder)!r} has {what}{there}; use {LAYOUTS}, with images that end in {kinds}; "
                f"{suggest_other(folder)}"
            )
        if empty:
            warnings.warn(f"{len(empty)} folders of {str(folder)!r} hold no image: {join_first(empty)}", stacklevel=3)
        good = self._leave_out_bad([file for _, file in samples], folder)
        samples = [(name, file) for name, file in samples if file in good]
        if name_part(folder.name) not in ("query", "gallery") and (lone := find_single(name for name, _ in samples)):
            warnings.warn(
                f"{len(lone)} classes of {str(folder)!r} have a single image, which no other can find: "
                f"{join_first(lone)}",
                stacklevel=3,
            )
        return samples

    def _leave_out_bad(self, files: Sequence[str], folder: Path) -> dict[str, None]:
        """Return the files in their order, where it was asked for without those that cannot be read."""
        bad = find_unreadable(files, folder, self._read) if self.on_bad_image == "skip" else set()
        return dict.fromkeys(file for file in files if file not in bad)


def _warn_of_shared_classes(parts: dict[str, list[Sample]]) -> None:
    classes = {part: {name for name, _ in samples} for part, samples in parts.items()}
    tests = classes.get("test", set()) | classes.get("query", set())
    if shared := sorted(classes.get("val", set()) & tests):
        warnings.warn(
            f"{len(shared)} classes of 'val' are also in the test, so the best epoch is chosen by classes that are "
            f"tested on: {join_first(shared)}",
            stacklevel=3,
        )
