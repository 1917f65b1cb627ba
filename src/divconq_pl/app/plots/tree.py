"""How the divisions of a run grew out of one another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate, groupby, pairwise
from typing import Any, NamedTuple

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch, Rectangle
from matplotlib.path import Path

from divconq_pl.errors import InputError

_WIDTH, _LEFT, _RIGHT, _TOP, _BOTTOM = 11.0, 1.05, 1.75, 0.75, 0.5  # inches
_BOX, _STEP = 0.36, 0.74  # inches
_BETWEEN = 0.04  # inches between two boxes
_LONGEST_STRETCH = 6
_INK, _QUIET = "#22303f", "#66727f"
_WHOLE = "#d9dee5"
_TERMS = (
    "moved: images neither in the cluster they were in nor in one of its children.  "
    "NMI with the division before: 1 is the same one, 0 an unrelated one."
)


class _Row(NamedTuple):
    name: str
    sizes: Sequence[int]
    parents: Sequence[int]
    note: str
    learners: bool
    hidden: int = 0  # divisions before this one that are not shown


def tree(history: Sequence[Mapping[str, Any]], *, conquered_at: int | None = None) -> Figure:
    """Show the divisions of a run from top to bottom: one box per cluster, as wide as the cluster is large.

    A band leads from each cluster to those that descend from it. Of a long stretch of divisions into the same number of
    clusters only the first two and the last are shown.

    Args:
        history: one mapping per division, in order: ``epoch``; ``sizes``, images per cluster; ``classes``, classes per
            cluster; ``moved``, images that changed cluster; ``nmi`` with the last division, or None; ``parents``, for
            each cluster the cluster of the division before that it descends from. A division into fewer clusters than
            the one before is drawn as a merge of neighbours.
        conquered_at: epoch from which the full embedding is trained on all the data, if the run came to it.

    Returns:
        The figure.

    Raises:
        InputError: if there is no division.
    """
    if not history:
        raise InputError("a run without a division has no tree: give at least one entry of its history")
    rows = _rows(history, conquered_at)
    height = _TOP + (len(rows) - 1) * _STEP + _BOX + _BOTTOM
    figure = Figure(figsize=(_WIDTH, height))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, _WIDTH), ylim=(height, 0))  # inches from the top left corner
    axes.set_axis_off()
    axes.text(_LEFT, 0.33, "Divide and conquer", fontsize=13, weight="bold", color=_INK, va="center")
    axes.text(_WIDTH - _RIGHT, 0.33, "width of a box: its images", fontsize=8.5, color=_QUIET, va="center", ha="right")

    scale = (_WIDTH - _LEFT - _RIGHT) / max(sum(row.sizes) for row in rows)
    tops = [_TOP + place * _STEP for place in range(len(rows))]
    for (above, row), top in zip(pairwise(rows), tops[1:], strict=False):
        _draw_bands(axes, above, row, top, scale)
    for row, top in zip(rows, tops, strict=True):
        _draw_row(axes, row, top, scale)
    if len(history) > 1:
        axes.text(_LEFT, height - 0.2, _TERMS, fontsize=8, color=_QUIET, va="center")
    return figure


def _rows(history: Sequence[Mapping[str, Any]], conquered_at: int | None) -> list[_Row]:
    images = sum(history[0]["sizes"])
    rows = [_Row("start", [images], [0], "one learner", False)] if not any(history[0]["parents"]) else []
    shown = _shown([len(division["sizes"]) for division in history])
    for before, place in pairwise([-1, *shown]):
        division = history[place]
        count = len(division["sizes"])
        note = f"{count} cluster{'s' if count > 1 else ''}"
        if place:
            note += f"\n{100 * division['moved'] / max(1, sum(division['sizes'])):.0f} % moved"
        if division.get("nmi") is not None:
            note += f", NMI {division['nmi']:.2f}"
        hidden = place - before - 1
        rows.append(_Row(f"epoch {division['epoch']}", division["sizes"], division["parents"], note, True, hidden))
    if conquered_at is not None:
        rows.append(_Row(f"epoch {conquered_at}", [images], [0], "conquered:\nfull embedding", False))
    return rows


def _shown(counts: Sequence[int]) -> list[int]:
    """Choose divisions by their numbers of clusters: of a long stretch of equal ones, the first two and the last."""
    shown = []
    for _, group in groupby(range(len(counts)), key=counts.__getitem__):
        stretch = list(group)
        shown += stretch if len(stretch) <= _LONGEST_STRETCH else [*stretch[:2], stretch[-1]]
    return shown


def _spans(row: _Row, scale: float) -> list[tuple[float, float]]:
    """Return where each box begins and ends, in inches."""
    edges = list(accumulate((size * scale for size in row.sizes), initial=_LEFT))
    return list(pairwise(edges))


def _draw_bands(axes: Axes, above: _Row, row: _Row, top: float, scale: float) -> None:
    starts, ends = _spans(above, scale), _spans(row, scale)
    merges = len(row.sizes) < len(above.sizes)
    if merges:
        links = [(p, p * len(row.sizes) // len(above.sizes)) for p in range(len(above.sizes))]
    else:
        links = [(p, k) for k, p in enumerate(row.parents)]
    # Every band leaves its parent's lower edge beside its siblings', each as wide as its share of their images.
    for parent, child in links:
        brood = [c for p, c in links if p == parent]
        within = [p for p, c in links if c == child]
        left, right = _share(starts[parent], [row.sizes[c] for c in brood], brood.index(child))
        low_left, low_right = _share(ends[child], [above.sizes[p] for p in within], within.index(parent))
        y, bottom = top - _STEP + _BOX, top
        middle = (y + bottom) / 2
        outline = [(left, y), (left, middle), (low_left, middle), (low_left, bottom), (low_right, bottom)]
        outline += [(low_right, middle), (right, middle), (right, y), (left, y)]
        curve, line = [Path.CURVE4] * 3, Path.LINETO
        path = Path(outline, [Path.MOVETO, *curve, line, *curve, line])
        colour = _colour(above, parent) if merges else _colour(row, child)
        axes.add_patch(PathPatch(path, facecolor=colour, edgecolor="none", alpha=0.4))


def _share(span: tuple[float, float], sizes: Sequence[int], place: int) -> tuple[float, float]:
    left, right = span
    unit = (right - left) / max(1, sum(sizes))
    start = left + unit * sum(sizes[:place])
    return start, start + unit * sizes[place]


def _draw_row(axes: Axes, row: _Row, top: float, scale: float) -> None:
    middle = top + _BOX / 2
    axes.text(_LEFT - 0.15, middle, row.name, fontsize=9, color=_INK, ha="right", va="center")
    axes.text(_WIDTH - _RIGHT + 0.15, middle, row.note, fontsize=8, color=_QUIET, va="center")
    if row.hidden:
        between = top - (_STEP - _BOX) / 2
        axes.text(_LEFT - 0.15, between, f"⋮ {row.hidden} more", fontsize=8, color=_QUIET, ha="right", va="center")
    for k, (left, right) in enumerate(_spans(row, scale)):
        gap = min(_BETWEEN, (right - left) / 4) if len(row.sizes) > 1 else 0
        width = right - left - gap
        axes.add_patch(Rectangle((left + gap / 2, top), width, _BOX, facecolor=_colour(row, k), edgecolor="none"))
        text = f"{row.sizes[k]:,}"
        _draw_number(axes, text if row.learners else f"{text} images", left + gap / 2 + width / 2, middle, width)


def _draw_number(axes: Axes, text: str, x: float, y: float, width: float) -> None:
    """Write a number into a box so many inches wide: as large as fits, on end in a narrow box, not in a sliver."""
    letter = 0.65 / 72  # inches a letter is wide at 1 point, at most
    size, rotation = min(9.0, (width - 0.04) / (letter * len(text))), 0
    if size < 5.5:
        size, rotation = min(7.0, (_BOX - 0.06) / (letter * len(text)), width * 72), 90
    if size >= 4:
        alignment = "center" if rotation else "center_baseline"
        axes.text(x, y, text, fontsize=size, rotation=rotation, color=_INK, ha="center", va=alignment)


def _colour(row: _Row, learner: int) -> str | tuple[float, float, float]:
    return colour_of(learner, len(row.sizes)) if row.learners else _WHOLE


def colour_of(cluster: int, clusters: int) -> tuple[float, float, float]:
    """Give clusters that descend from one another neighbouring colours, light enough for dark text."""
    red, green, blue, _ = colormaps["turbo"](0.08 + 0.84 * (cluster + 0.5) / clusters)
    return 0.45 + 0.55 * red, 0.45 + 0.55 * green, 0.45 + 0.55 * blue
