"""CUB200-2011: 200 species of birds."""

from __future__ import annotations

import os

from divconq_pl.data.annotations import parse_known, parse_whole_number, read_table
from divconq_pl.data.download import Archive
from divconq_pl.data.layouts import Labelled, Layout, Parts, Places
from divconq_pl.data.published import Benchmark

TRAIN_CLASSES = 100


class CUB200(Benchmark):
    """Read CUB200-2011 (Wah et al., 2011): species 1 to 100 for training, 101 to 200 for the test.

    The data set's own ``train_test_split.txt`` divides the images of each species, and is not used in metric learning.
    For the arguments see :class:`~divconq_pl.data.published.Benchmark`.

    Example:
        >>> CUB200("data", download=True).splits().train  # doctest: +SKIP
    """

    title = "CUB200-2011"
    home = "CUB_200_2011"
    source = Archive(
        "https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz",
        "CUB_200_2011.tgz",
        "97eceeb196236b17998738112f37df78",
        1_150_585_339,
    )

    def layouts(self) -> list[Layout]:
        """Return that of the archive."""
        needs = {
            "folder": ("images",),
            "images": ("images.txt",),
            "labels": ("image_class_labels.txt",),
            "classes": ("classes.txt",),
        }
        return [Layout("as published", needs, _read)]

    def published_counts(self) -> dict[str, tuple[int, int]]:
        """Return the numbers of images and classes."""
        return {"train": (5864, 100), "test": (5924, 100)}


def _read(places: Places) -> Parts:
    # Driven by the lists, since some copies hold more files than these name.
    names = dict(read_table(places["classes"], {"class id": parse_whole_number, "class name": str}))
    labels = dict(
        read_table(places["labels"], {"image id": parse_whole_number, "id of a named class": parse_known(names)})
    )
    parts: Parts = {"train": [], "test": []}
    for image_id, path in read_table(places["images"], {"id of a labelled image": parse_known(labels), "path": str}):
        class_id = labels[image_id]
        part = parts["train" if class_id <= TRAIN_CLASSES else "test"]
        part.append(Labelled(class_id, names[class_id], os.path.join(places["folder"], path)))
    return parts
