"""Charts as inline SVG; their colours come from the page's style, so that they follow light and dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import numpy as np
from markupsafe import Markup, escape
from numpy.typing import NDArray

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 640, 258, 52, 12, 24, 28


class Line(NamedTuple):
    """A line of a chart.

    Attributes:
        name: shown in the legend and on hovering.
        colour: any CSS colour.
        points: (x, y) each.
        dashed: whether it is dashed.
    """

    name: str
    colour: str
    points: Sequence[tuple[float, float]]
    dashed: bool = False


class Band(NamedTuple):
    """A stretch of the x axis: from, to, its label, and its kind, which gives its shade."""

    start: float
    end: float
    label: str
    kind: str


def colour_of(learner: int, learners: int) -> str:
    """Return a learner's colour: the same in all charts, and near that of its siblings.

    Example:
        >>> colour_of(0, 1)
        'hsl(198 65% 57%)'
    """
    hue = (18 + 360 * (learner + 0.5) / max(learners, 1)) % 360
    lightness = 46 + 18 * max(0.0, math.cos(math.radians(hue - 250)))  # blue and violet are dark by themselves
    return f"hsl({hue:.0f} 65% {lightness:.0f}%)"


def draw_lines(
    lines: Sequence[Line], bands: Sequence[Band], marks: Sequence[float], *, label: str, percent: bool = False
) -> Markup:
    """Draw lines over epochs, with stages shaded and divisions marked.

    Args:
        lines: at least one with a point.
        bands: stages.
        marks: where divisions are.
        label: what the chart shows, for those who cannot see it.
        percent: whether the values are fractions to be shown in percent.
    """
    points = [point for line in lines for point in line.points if math.isfinite(point[1])]
    xs = [x for x, _ in points] + [edge for band in bands for edge in band[:2]]
    low_x, high_x = min(xs), max(xs) + (0 if max(xs) > min(xs) else 1)
    low, high = min(y for _, y in points), max(y for _, y in points)
    reach = (high - low) or abs(high) or 1.0
    low, high = max(low - 0.05 * reach, 0 if low >= 0 else -math.inf), high + 0.05 * reach

    def x_of(x: float) -> float:
        return _LEFT + (x - low_x) / (high_x - low_x) * (_WIDTH - _LEFT - _RIGHT)

    def y_of(y: float) -> float:
        return _HEIGHT - _BOTTOM - (y - low) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)

    parts = []
    for band in bands:
        left, right = x_of(band.start), x_of(band.end)
        parts.append(
            f'<rect class="stage {escape(band.kind)}" x="{left:.1f}" y="{_TOP}" width="{right - left:.1f}" '
            f'height="{_HEIGHT - _TOP - _BOTTOM}"><title>{escape(band.label)}</title></rect>'
        )
        if right - left > 5.5 * len(band.label):  # in a frame, since a narrow window has larger letters
            parts.append(
                f'<svg x="{left + 2:.1f}" y="0" width="{right - left - 4:.1f}" height="{_TOP}">'
                f'<text class="small" x="2" y="{_TOP - 6}">{escape(band.label)}</text></svg>'
            )
    for tick in _ticks(low, high):
        y, text = y_of(tick), f"{100 * tick:g} %" if percent else f"{tick:g}"
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="small" x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{text}</text>')
    step = max(1, math.ceil((high_x - low_x) / 12))
    for epoch in range(math.ceil(low_x), math.floor(high_x) + 1, step):
        x = x_of(epoch)
        parts.append(f'<text class="small" x="{x:.1f}" y="{_HEIGHT - 8}" text-anchor="middle">{epoch}</text>')
    for mark in marks:
        x = x_of(mark)
        parts.append(
            f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}">'
            f"<title>a division begins epoch {mark:g}</title></line>"
        )
    for line in lines:
        path = " ".join(f"{x_of(x):.1f},{y_of(y):.1f}" for x, y in line.points if math.isfinite(y))
        dashes = ' stroke-dasharray="6 4"' if line.dashed else ""
        parts.append(f'<polyline class="line" points="{path}" style="stroke:{line.colour}"{dashes}/>')
        for x, y in line.points:
            if math.isfinite(y):
                text = f"{100 * y:.1f} %" if percent else f"{y:.4g}"
                parts.append(
                    f'<circle cx="{x_of(x):.1f}" cy="{y_of(y):.1f}" r="3" style="fill:{line.colour}">'
                    f"<title>{escape(line.name)}, epoch {x:g}: {text}</title></circle>"
                )
    parts.append(f'<text class="small" x="{_LEFT - 6}" y="{_HEIGHT - 8}" text-anchor="end">epoch</text>')
    return _wrap(parts, _WIDTH, _HEIGHT, label)


def draw_heat(values: NDArray[np.float64], names: Sequence[str], *, label: str) -> Markup:
    """Draw a square table of values from 0 to 1 as shades, with the numbers where there is room."""
    count = len(values)
    cell = max(14, min(56, 420 // max(count, 1)))
    size = 40 + cell * count
    parts = []
    for i in range(count):
        middle, name = cell * i + cell / 2, escape(names[i])
        parts.append(f'<text class="small" x="34" y="{middle + 24:.0f}" text-anchor="end">{name}</text>')
        parts.append(f'<text class="small" x="{middle + 40:.0f}" y="14" text-anchor="middle">{name}</text>')
        for j in range(count):
            value = float(values[i, j])
            parts.append(
                f'<rect class="heat" x="{40 + cell * j}" y="{20 + cell * i}" width="{cell - 1}" height="{cell - 1}" '
                f'style="fill-opacity:{min(max(value, 0), 1):.3f}"><title>{escape(names[i])}, {escape(names[j])}: '
                f"{value:.3f}</title></rect>"
            )
            if cell >= 36:
                parts.append(
                    f'<text class="small" x="{40 + cell * j + cell / 2:.0f}" y="{24 + cell * i + cell / 2:.0f}" '
                    f'text-anchor="middle">{value:.2f}</text>'
                )
    return _wrap(parts, size, size - 16, label, natural=True)


def draw_rows(values: NDArray[np.float64], names: Sequence[str], *, label: str) -> Markup:
    """Draw rows of values from 0 to 1 as shades, one strip for each row.

    Args:
        values: shape (rows, columns).
        names: of the rows, to their left.
        label: what the picture shows, for those who cannot see it.
    """
    rows, columns = values.shape
    width, height = 580 / max(columns, 1), 18
    parts = []
    for i in range(rows):
        y = 4 + (height + 3) * i
        parts.append(f'<text class="small" x="44" y="{y + 13}" text-anchor="end">{escape(names[i])}</text>')
        parts.append(f'<rect class="frame" x="50" y="{y}" width="580" height="{height}"/>')
        for j in np.flatnonzero(values[i] > 0.005).tolist():
            shade = f"{min(float(values[i, j]), 1.0):.2f}".lstrip("0")
            parts.append(
                f'<rect class="cell" x="{50 + width * j:.1f}" y="{y}" width="{width + 0.05:.2f}" height="{height}" '
                f'style="fill-opacity:{shade}"/>'
            )
    return _wrap(parts, 640, 8 + (height + 3) * rows, label)


def draw_flow(
    rows: Sequence[Sequence[int]], flows: Sequence[Sequence[Sequence[int]]], names: Sequence[str], notes: Sequence[str]
) -> Markup:
    """Draw how images go from the clusters of each row to those of the next, each band as wide as its images.

    Args:
        rows: images of each cluster, from top to bottom.
        flows: between each two rows, for each cluster above the images that each cluster below has of it.
        names: of the rows, to their left.
        notes: what is said of the rows, to their right.
    """
    left, width, box, step = 76, 560, 26, 78
    total = max(sum(row) for row in rows) or 1
    scale = width / total
    parts = []
    for level, flow in enumerate(flows):
        above, below = list(rows[level]), list(rows[level + 1])
        used_above, used_below = [0.0] * len(above), [0.0] * len(below)
        starts, ends = _starts(above, left, scale), _starts(below, left, scale)
        top, bottom = 20 + level * step + box, 20 + (level + 1) * step
        middle = (top + bottom) / 2
        for i, sizes in enumerate(flow):
            for j, size in enumerate(sizes):
                if size:
                    x0, x1, w = starts[i] + used_above[i], ends[j] + used_below[j], size * scale
                    parts.append(
                        f'<path class="flow" d="M{x0:.1f},{top}C{x0:.1f},{middle} {x1:.1f},{middle} {x1:.1f},{bottom}'
                        f'h{w:.1f}C{x1 + w:.1f},{middle} {x0 + w:.1f},{middle} {x0 + w:.1f},{top}z" '
                        f'style="fill:{colour_of(j, len(below))}"><title>{size:,} images: cluster {i} to cluster {j}'
                        "</title></path>"
                    )
                    used_above[i] += size * scale
                    used_below[j] += size * scale
    for level, row in enumerate(rows):
        y = 20 + level * step
        parts.append(f'<text class="small" x="{left - 8}" y="{y + 17}" text-anchor="end">{escape(names[level])}</text>')
        for part, note in enumerate(notes[level].split("\n")):
            parts.append(f'<text class="small" x="{left + width + 10}" y="{y + 9 + 14 * part}">{escape(note)}</text>')
        for k, (start, size) in enumerate(zip(_starts(row, left, scale), row, strict=True)):
            parts.append(
                f'<rect x="{start + 1:.1f}" y="{y}" width="{max(size * scale - 2, 0.5):.1f}" height="{box}" rx="3" '
                f'style="fill:{colour_of(k, len(row)) if len(row) > 1 else "var(--quiet)"}"><title>cluster {k}: '
                f"{size:,} images</title></rect>"
            )
            if size * scale > 9 * len(f"{size:,}"):
                parts.append(
                    f'<text class="onfill" x="{start + size * scale / 2:.1f}" y="{y + 17}" text-anchor="middle">'
                    f"{size:,}</text>"
                )
    return _wrap(parts, left + width + 190, 20 + (len(rows) - 1) * step + box + 10, "images moving between clusters")


def _starts(sizes: Sequence[int], left: float, scale: float) -> list[float]:
    return list(accumulate((scale * size for size in sizes[:-1]), initial=left))


def _ticks(low: float, high: float) -> list[float]:
    """Choose round numbers between two values, about five."""
    raw = (high - low) / 5
    size = 10 ** math.floor(math.log10(raw))
    step = next(size * factor for factor in (1, 2, 5, 10) if size * factor >= raw)
    return [round(step * k, 10) for k in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _wrap(parts: Sequence[str], width: float, height: float, label: str, *, natural: bool = False) -> Markup:
    style = f' style="max-width:{width:.0f}px"' if natural else ""
    opening = f'<svg viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="{escape(label)}"{style}>'
    return Markup(f"{opening}{''.join(parts)}</svg>")
