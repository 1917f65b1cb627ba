"""Where the seconds went."""

from __future__ import annotations

from typing import Any

from divconq_pl.report.material import Material, Missing
from divconq_pl.report.thumbnails import Thumbnails

LIVE = "pictures of divisions, for the loggers"
"""Seconds that are those of an epoch, too."""


def show_cost(material: Material, thumbnails: Thumbnails) -> dict[str, Any]:
    """Return seconds by what they were spent on."""
    if not material.epochs:
        raise Missing("no epoch was finished, or nobody took notes")
    whole = sum(noted["seconds"] for noted in material.epochs)
    validation = sum(noted["seconds_validation"] for noted in material.epochs)
    live = material.seconds.get(LIVE, 0.0)
    parts = ("features", "kmeans", "rest")
    features, kmeans, rest = (sum(d.get(f"seconds_{part}", 0.0) for d in material.divisions) for part in parts)
    rows = [
        ("steps, with loading the images", max(whole - validation - features - kmeans - rest - live, 0.0)),
        ("validation", validation),
        ("divisions: features of all training images", features),
        ("divisions: k-means", kmeans),
        ("divisions: the rest", rest),
        *material.seconds.items(),
    ]
    total = sum(seconds for _, seconds in rows) or 1.0
    return {"rows": [(name, seconds, seconds / total) for name, seconds in rows], "total": total}
