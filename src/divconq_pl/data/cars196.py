"""CARS196: 196 models of cars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from divconq_pl.data.annotations import Columns, parse_known, parse_whole_number, read_csv, read_mat, read_mat_rows
from divconq_pl.data.layouts import Labelled, Layout, Parts, Places
from divconq_pl.data.parquet import name_parquet_image, read_parquet_labels, read_parquet_rgb
from divconq_pl.data.published import Benchmark

TRAIN_CLASSES = 98


class Cars196(Benchmark):
    """Read CARS196 (Krause et al., 2013): models 1 to 98 for training, 99 to 196 for the test.

    The images that the data set itself calls train and test are put together first. Copies differ in how they number
    the images; each is read by its own annotations. For the arguments see
    :class:`~divconq_pl.data.published.Benchmark`.

    Example:
        >>> Cars196("data").splits().train  # doctest: +SKIP
    """

    title = "CARS196"
    home = "CARS196"
    source = (
        "the authors' page (https://ai.stanford.edu/~jkrause/cars/car_dataset.html) is gone; bring a copy in one of "
        "these layouts"
    )

    def layouts(self) -> list[Layout]:
        """Return those of the two archives of the authors, of the copy with folders of classes, and of parquet."""
        return [
            Layout("all in one", {"folder": ("car_ims",), "annotations": ("cars_annos.mat",)}, _read_all_in_one),
            Layout(
                "train and test",
                {
                    "train": ("cars_train",),
                    "test": ("cars_test",),
                    "train annotations": _in_devkit("cars_train_annos.mat"),
                    "test annotations": _in_devkit("cars_test_annos_withlabels.mat"),
                },
                _read_train_and_test,
                note="cars_test_annos.mat has no classes, and cars_annos.mat names other files",
            ),
            Layout(
                "folders of classes",
                {
                    "folder": ("car_data",),
                    "names": ("names.csv",),
                    "train": ("anno_train.csv",),
                    "test": ("anno_test.csv",),
                },
                _read_folders_of_classes,
            ),
            Layout(
                "parquet",
                {"train": ("data/train-*.parquet",), "test": ("data/test-*.parquet",)},
                _read_parquet,
                read_image=read_parquet_rgb,
            ),
        ]

    def published_counts(self) -> dict[str, tuple[int, int]]:
        """Return the numbers of images and classes."""
        return {"train": (8054, 98), "test": (8131, 98)}


def _in_devkit(name: str) -> tuple[str, ...]:
    return (f"devkit/{name}", name, f"car_devkit/devkit/{name}")


def _read_all_in_one(places: Places) -> Parts:
    file, folder = places["annotations"], places["folder"]
    rows = read_mat_rows(file, "annotations", {"relative_im_path": str, "class": parse_whole_number})
    return _split([(class_id, str(folder / Path(path).name)) for path, class_id in rows], _class_names(file))


def _read_train_and_test(places: Places) -> Parts:
    images = [
        (class_id, str(places[part] / name))
        for part in ("train", "test")
        for name, class_id in read_mat_rows(
            places[f"{part} annotations"], "annotations", {"fname": str, "class": parse_whole_number}
        )
    ]
    meta = places["train annotations"].with_name("cars_meta.mat")
    return _split(images, _class_names(meta) if meta.exists() else {})


def _read_folders_of_classes(places: Places) -> Parts:
    names = {class_id: name for class_id, (name,) in enumerate(read_csv(places["names"], {"class name": str}), 1)}
    columns: Columns = {
        "file": str,
        **dict.fromkeys(("x1", "y1", "x2", "y2"), parse_whole_number),
        "named class": parse_known(names),
    }
    images = [
        (class_id, str(places["folder"] / part / names[class_id].replace("/", "-") / file))
        for part in ("train", "test")
        for file, *_, class_id in read_csv(places[part], columns)
    ]
    return _split(images, names)


def _read_parquet(places: Places) -> Parts:
    files = [file for part in ("train", "test") for file in sorted(places[part].glob(f"{part}-*.parquet"))]
    return _split(
        [
            (label + 1, name_parquet_image(file, row))
            for file in files
            for row, label in enumerate(read_parquet_labels(file))
        ],
        {},
    )


def _class_names(file: Path) -> dict[int, str]:
    names = np.atleast_1d(read_mat(file).get("class_names", []))
    return {class_id: str(name) for class_id, name in enumerate(names, 1)}


def _split(images: Sequence[tuple[int, str]], names: Mapping[int, str]) -> Parts:
    parts: Parts = {"train": [], "test": []}
    for class_id, image in images:
        part = parts["train" if class_id <= TRAIN_CLASSES else "test"]
        part.append(Labelled(class_id, names.get(class_id, f"model {class_id}"), image))
    return parts
