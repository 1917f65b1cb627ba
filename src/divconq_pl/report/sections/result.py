"""The result, beside that of the plain loss where a run of it is known."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from divconq_pl.report.material import Material, Missing
from divconq_pl.report.thumbnails import Thumbnails

_NAMES = {"map_at_r": "MAP@R", "r_precision": "R-precision", "nmi": "NMI", "marp": "mARP"}


def show_result(material: Material, thumbnails: Thumbnails) -> dict[str, Any]:
    """Return the metrics of the test, those of the plain loss, and what was tested."""
    ours = {name: value for name, value in material.results.items() if _is_metric(name, value)}
    if not ours:
        raise Missing("the run was not tested: it was stopped before, or no test images were given")
    theirs = (material.plain or {}).get("results", {})
    rows = []
    for name in sorted(ours, key=_order):
        plain = theirs.get(name)
        gain = None if plain is None else ours[name] - plain
        rows.append({"name": _call(name), "ours": ours[name], "plain": plain, "gain": gain})
    test = material.test
    return {
        "rows": rows,
        "verdict": material.verdict,
        "plain": bool(theirs),
        "plain_name": (material.plain or {}).get("name", ""),
        "divisions": len(material.divisions),
        "learners": max((summary["clusters"] for summary in material.divisions), default=1),
        "images": None if test is None else len(test.labels),
        "classes": None if test is None else len(np.unique(test.labels)),
        "trained": None if material.train is None else len(material.train.labels),
        "trained_classes": None if material.train is None else len(np.unique(material.train.labels)),
        "epoch": material.chosen_epoch,
        "protocol": material.protocol,
    }


def _is_metric(name: str, value: object) -> bool:
    known = re.fullmatch(r"test/((reid_)?recall_at_\d+|map_at_r|r_precision|nmi|marp)", name)
    return known is not None and isinstance(value, int | float)


def _order(name: str) -> tuple[bool, int, str]:
    number = re.search(r"\d+$", name)
    return "recall" not in name, int(number[0]) if number else 0, name


def _call(name: str) -> str:
    name = name.removeprefix("test/")
    recall = re.fullmatch(r"(reid_)?recall_at_(\d+)", name)
    return f"{'re-id ' if recall[1] else ''}Recall@{recall[2]}" if recall else _NAMES.get(name, name)
