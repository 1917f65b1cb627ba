"""PKU VehicleID: vehicles in the pictures of surveillance cameras."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal, get_args

from divconq_pl.data.annotations import Columns, parse_whole_number, read_table
from divconq_pl.data.layouts import Labelled, Layout, Parts, Places
from divconq_pl.data.published import Benchmark
from divconq_pl.errors import InputError

TestList = Literal["small", "medium", "large"]
VEHICLES = {"small": 800, "medium": 1600, "large": 2400}
IMAGES = {"small": 6493, "medium": 13_377, "large": 19_777}


class VehicleID(Benchmark):
    """Read PKU VehicleID (Liu et al., CVPR 2016), a class being one vehicle.

    Args:
        root: the folder that holds the copy.
        test_list: which of the three published lists is the test: 800, 1600 or 2400 vehicles. All of its images are in
            one set, to be evaluated by leaving one out, as in Divide and Conquer.
        arguments: those of :class:`~divconq_pl.data.published.Benchmark`.

    Raises:
        InputError: if there is no such folder, or an argument is out of range.

    Example:
        >>> VehicleID("data", test_list="small").splits().test  # doctest: +SKIP
    """

    title = "PKU VehicleID"
    home = "VehicleID_V1.0"
    source = "request it at https://www.pkuml.org/resources/pku-vehicleid.html, and unpack it into the root"

    def __init__(self, root: str | Path, *, test_list: TestList = "large", **arguments: Any) -> None:
        super().__init__(root, **arguments)
        if test_list not in get_args(TestList):
            raise InputError(f"test_list={test_list!r} is unknown; choose 'small', 'medium' or 'large'")
        self.test_list = test_list

    def layouts(self) -> list[Layout]:
        """Return that of the archive."""
        needs = {
            "folder": ("image",),
            "train": ("train_test_split/train_list.txt",),
            "test": (f"train_test_split/test_list_{VEHICLES[self.test_list]}.txt",),
        }
        return [Layout("as published", needs, _read)]

    def published_counts(self) -> dict[str, tuple[int, int]]:
        """Return the numbers of images and vehicles."""
        return {"train": (113_346, 13_164), "test": (IMAGES[self.test_list], VEHICLES[self.test_list])}


def _read(places: Places) -> Parts:
    columns: Columns = {"image id": str, "vehicle id": parse_whole_number}  # image ids have leading zeros
    return {
        part: [
            Labelled(vehicle, f"vehicle {vehicle}", os.path.join(places["folder"], f"{image}.jpg"))
            for image, vehicle in read_table(places[part], columns)
        ]
        for part in ("train", "test")
    }
