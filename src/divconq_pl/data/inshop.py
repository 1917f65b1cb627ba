"""In-shop Clothes Retrieval: photographs of clothes, a set of queries and a gallery to search."""

from __future__ import annotations

import os

from divconq_pl.data.annotations import Columns, parse_known, parse_whole_number, read_table
from divconq_pl.data.layouts import Labelled, Layout, Parts, Places
from divconq_pl.data.published import Benchmark

LIST = "list_eval_partition.txt"


class InShop(Benchmark):
    """Read In-shop Clothes Retrieval of DeepFashion (Liu et al., CVPR 2016), a class being one item.

    The test is (query, gallery). For the arguments see :class:`~divconq_pl.data.published.Benchmark`.

    Example:
        >>> query, gallery = InShop("data").splits().test  # doctest: +SKIP
    """

    title = "In-shop Clothes Retrieval"
    source = (
        "see https://mmlab.ie.cuhk.edu.hk/projects/DeepFashion/InShopRetrieval.html (for research that is not "
        f"commercial), and put Img/img, unpacked, and Eval/{LIST} into the root"
    )

    def layouts(self) -> list[Layout]:
        """Return that of the authors; the list and the images may lie elsewhere, and these may be the large ones."""
        needs = {
            "list": (f"Eval/{LIST}", LIST, f"Anno/{LIST}"),
            "folder": ("Img/img", "img", "Img/img_highres", "img_highres"),
        }
        return [Layout("as published", needs, _read)]

    def published_counts(self) -> dict[str, tuple[int, int]]:
        """Return the numbers of images and items."""
        return {"train": (25_882, 3997), "query": (14_218, 3985), "gallery": (12_612, 3985)}


def _read(places: Places) -> Parts:
    parts: Parts = {"train": [], "query": [], "gallery": []}
    columns: Columns = {"image": str, "item": _parse_item, "train|query|gallery": parse_known(parts, str)}
    for image, item, part in read_table(places["list"], columns, header=True, counted=True):
        path = os.path.join(places["folder"], image.removeprefix("img/"))
        parts[part].append(Labelled(item, f"id_{item:08}", path))
    return parts


def _parse_item(text: str) -> int:
    return parse_whole_number(text.removeprefix("id_"))
