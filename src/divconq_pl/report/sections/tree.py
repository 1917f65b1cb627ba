"""How the clusters grew out of one another, and which images went where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from divconq_pl.report.material import Material, Missing
from divconq_pl.report.svg import draw_flow
from divconq_pl.report.thumbnails import Thumbnails

_MOST_ROWS = 10


def show_tree(material: Material, thumbnails: Thumbnails) -> dict[str, Any]:
    """Return the picture of all divisions, and a row of numbers for each."""
    divisions = list(material.divisions)
    if not divisions:
        raise Missing("nothing was divided: it was the plain loss, or the run was stopped before the first division")
    shown, hidden = divisions[:_MOST_ROWS], len(divisions) - _MOST_ROWS
    images = sum(shown[0]["sizes"])
    rows, flows = [[images]], []
    names, notes = ["start"], [f"{images:,} images\none learner"]
    for before, summary in zip([None, *shown], shown, strict=False):
        flows.append(_find_flow(before, summary))
        rows.append(summary["sizes"])
        names.append(f"epoch {summary['epoch']}")
        notes.append(_note(summary, images))
    return {"picture": draw_flow(rows, flows, names, notes), "hidden": max(hidden, 0), "divisions": divisions}


def _find_flow(before: Mapping[str, Any] | None, summary: Mapping[str, Any]) -> list[list[int]]:
    if before is None:
        return [list(summary["sizes"])]
    if (flow := summary.get("flow")) is not None and len(flow) == len(before["sizes"]):
        return [list(row) for row in flow]
    return _follow_parents(summary["parents"], summary["sizes"], len(before["sizes"]))


def _follow_parents(parents: Sequence[int], sizes: Sequence[int], above: int) -> list[list[int]]:
    """Take all images of a cluster for those of its parent, where it was not noted what went where."""
    return [[size if parent == i else 0 for parent, size in zip(parents, sizes, strict=True)] for i in range(above)]


def _note(summary: Mapping[str, Any], images: int) -> str:
    parts = [f"{summary['clusters']} clusters"]
    if summary["moved"]:
        parts[0] += f", {100 * summary['moved'] / images:.0f} % moved"
    if summary.get("pairs_kept") is not None:
        parts.append(f"{100 * summary['pairs_kept']:.0f} % of pairs kept")
    return "\n".join(parts)
