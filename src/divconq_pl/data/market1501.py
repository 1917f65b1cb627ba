"""Market-1501, and the data sets whose files are named like its own, such as DukeMTMC-reID: persons seen by cameras."""

from __future__ import annotations

import os
import re
from pathlib import Path

from divconq_pl.data.layouts import Labelled, Layout, Parts, Places
from divconq_pl.data.published import Benchmark
from divconq_pl.data.samples import is_visible, join_first
from divconq_pl.errors import InputError

DISTRACTORS, JUNK = 0, -1
"""Identities of the gallery: images of nobody who is looked for; images that count as neither right nor wrong."""

MARKET_FOLDERS = frozenset({"bounding_box_train", "bounding_box_test", "query"})
"""The folders that hold its images."""

_NAME = re.compile(r"(-1|\d+)_c(\d+)\D?.*\.(?:jpg|jpeg|png)", re.IGNORECASE)


class Market1501(Benchmark):
    """Read pictures named ``<identity>_c<camera>...`` in the folders of Market-1501 (Zheng et al., ICCV 2015).

    The test is (query, gallery), and the cameras are the images' groups. In the gallery the identity 0 is that of
    distractors, which are the class ``distractors``; junk, of the identity -1, is left out, as the protocol has it.
    For the arguments see :class:`~divconq_pl.data.published.Benchmark`.

    Example:
        >>> query, gallery = Market1501("data").splits().test  # doctest: +SKIP
    """

    title = "Market-1501"
    home = "Market-1501-v15.09.15"
    source = "get it from its authors (Market-1501-v15.09.15.zip), and unpack it into the root"

    def layouts(self) -> list[Layout]:
        """Return that of the archive, which the data sets named alike have, too."""
        needs = {"train": ("bounding_box_train",), "query": ("query",), "gallery": ("bounding_box_test",)}
        return [Layout("as published", needs, _read)]

    def published_counts(self) -> dict[str, tuple[int, int]]:
        """Return nothing: data sets of several sizes are named alike."""
        return {}


def is_named_by_camera(folder: Path) -> bool:
    """Tell whether a folder holds images that are named as here: ``<identity>_c<camera>...``."""
    return any(_NAME.fullmatch(name) for name in os.listdir(folder))


def _read(places: Places) -> Parts:
    return {part: _list_people(folder) for part, folder in places.items()}


def _list_people(folder: Path) -> list[Labelled]:
    people, odd = [], []
    for name in sorted(filter(is_visible, os.listdir(folder))):
        match = _NAME.fullmatch(name)
        if match is None:
            odd += [] if name == "Thumbs.db" else [name]
            continue
        identity, camera = int(match[1]), int(match[2])
        if identity != JUNK:
            person = "distractors" if identity == DISTRACTORS else f"{identity:04}"
            people.append(Labelled(identity, person, os.path.join(folder, name), f"camera {camera}"))
    if odd:
        raise InputError(
            f"{len(odd)} files of {str(folder)!r} are not named as <identity>_c<camera>...jpg: {join_first(odd)}; "
            "rename them, or take them out"
        )
    if not people:
        raise InputError(f"{str(folder)!r} holds no image named as <identity>_c<camera>...jpg")
    return people
