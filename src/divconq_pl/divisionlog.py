"""One readable log line per division."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

_LONGEST_LIST = 8


def division_line(summary: Mapping[str, Any]) -> str:
    """Describe a division in one line.

    Args:
        summary: `epoch`; `sizes` and `classes`, images and classes per cluster; `moved`, images that changed cluster
            since the last division. Said where present (and not None): `number`, which division of the run this is;
            `left_out`, images that are the only one of their class in their cluster; `nmi` with the last division;
            `seconds_features`, `seconds_kmeans`, `seconds_rest`, what it took.

    Returns:
        The line, without a line break. More than 8 clusters are summed up by minimum, median and maximum.

    Example:
        >>> division_line({"number": 3, "epoch": 6, "sizes": [41, 38], "classes": [9, 8], "moved": 5, "nmi": 0.871})
        'division 3 | epoch 6 | 2 clusters: 41 38 images, 9 8 classes | 5 images moved, NMI 0.87'
    """
    sizes, classes = summary["sizes"], summary["classes"]
    number = summary.get("number")
    parts = ["division" if number is None else f"division {number}", f"epoch {summary['epoch']}"]

    clusters = f"{_count(len(sizes), 'cluster')}: {_listed(sizes)} images, {_listed(classes)} classes"
    parts.append(clusters + (" (min / median / max)" if len(sizes) > _LONGEST_LIST else ""))

    changes = [f"{_count(summary['moved'], 'image')} moved"]
    if summary.get("left_out"):
        changes.append(f"{_count(summary['left_out'], 'lone image')} left out")
    if summary.get("nmi") is not None:
        changes.append(f"NMI {summary['nmi']:.2f}")
    parts.append(", ".join(changes))

    names = {"seconds_features": "features", "seconds_kmeans": "k-means", "seconds_rest": "rest"}
    times = [f"{name} {_seconds(summary[key])}" for key, name in names.items() if summary.get(key) is not None]
    if times:
        parts.append(", ".join(times))
    return " | ".join(parts)


def _listed(values: Sequence[int]) -> str:
    if len(values) <= _LONGEST_LIST:
        return " ".join(str(value) for value in values)
    return f"{min(values)} / {median(values):.0f} / {max(values)}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _seconds(value: float) -> str:
    if value < 0.095:
        return f"{value:.2f} s"
    return f"{value:.1f} s" if value < 9.95 else f"{value:.0f} s"
