"""Stanford Online Products: photographs of things for sale."""

from __future__ import annotations

import os

from divconq_pl.data.annotations import Columns, parse_whole_number, read_table
from divconq_pl.data.download import Archive
from divconq_pl.data.layouts import Labelled, Layout, Parts, Places
from divconq_pl.data.published import Benchmark


class StanfordOnlineProducts(Benchmark):
    """Read Stanford Online Products (Song et al., CVPR 2016), a class being one thing for sale.

    For the arguments see :class:`~divconq_pl.data.published.Benchmark`. The archive is fetched from where the authors'
    repository (rksltnl/Deep-Metric-Learning-CVPR16) links to it.

    Example:
        >>> StanfordOnlineProducts("data", download=True).splits().train  # doctest: +SKIP
    """

    title = "Stanford Online Products"
    home = "Stanford_Online_Products"
    source = Archive(
        "https://drive.usercontent.google.com/download?id=1TclrpQOF_ullUP99wk_gjGN8pKvtErG8&export=download&confirm=t",
        "Stanford_Online_Products.zip",
        "7f73d41a2f44250d4779881525aea32e",
        3_083_860_082,
    )

    def layouts(self) -> list[Layout]:
        """Return that of the archive, and one with folders for the images and for the lists."""
        return [
            Layout(
                "as published",
                {"folder": ("*_final",), "train": ("Ebay_train.txt",), "test": ("Ebay_test.txt",)},
                _read,
            ),
            Layout(
                "images apart",
                {
                    "folder": ("images",),
                    "train": ("Info_Files/Ebay_train.txt",),
                    "test": ("Info_Files/Ebay_test.txt",),
                },
                _read,
            ),
        ]

    def published_counts(self) -> dict[str, tuple[int, int]]:
        """Return the numbers of images and classes."""
        return {"train": (59_551, 11_318), "test": (60_502, 11_316)}


def _read(places: Places) -> Parts:
    columns: Columns = {
        "image id": parse_whole_number,
        "class id": parse_whole_number,
        "super class id": parse_whole_number,
        "path": str,
    }
    return {
        part: [
            Labelled(class_id, f"{path.split('/')[0]}/{class_id}", os.path.join(places["folder"], path))
            for _, class_id, _, path in read_table(places[part], columns, header=True)
        ]
        for part in ("train", "test")
    }
