"""The page: its sections, rendered into one file."""

from __future__ import annotations

import math
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from divconq_pl.files import write_atomically
from divconq_pl.report.material import Material, Missing
from divconq_pl.report.sections import SECTIONS
from divconq_pl.report.thumbnails import Thumbnails


def write_page(material: Material, path: str | Path) -> Path:
    """Write a report, atomically; it needs no other file and no network.

    Args:
        material: what it shows. Whatever is missing is said in its place.
        path: where the file goes, usually ``report.html``.

    Returns:
        The path.
    """
    text = render(material)
    return write_atomically(path, text)


def render(material: Material) -> str:
    """Return the page as text; all names in it are escaped."""
    thumbnails = Thumbnails()
    sections = []
    for section in SECTIONS:
        content: dict[str, Any] = {}
        missing = ""
        try:
            content = section.show(material, thumbnails)
        except Missing as reason:
            missing = str(reason)
        sections.append({"name": section.name, "title": section.title, "missing": missing, "content": content})
    return (
        make_environment()
        .get_template("page.html")
        .render(
            title=material.title,
            divided=bool(material.divisions),
            written=f"{datetime.now():%Y-%m-%d %H:%M}",
            sections=sections,
            failed=thumbnails.failed,
            skipped=thumbnails.skipped,
        )
    )


def make_environment(*packages: str) -> Environment:
    """Return what templates are rendered with; whatever they are given is escaped.

    Args:
        packages: whose templates come before those of the report.
    """
    environment = Environment(
        loader=ChoiceLoader([*map(PackageLoader, packages), PackageLoader("divconq_pl.report")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"zip": zip, "percent": _percent, "points": _points, "seconds": tell_seconds}
    return environment


def _percent(value: float | None, digits: int = 1) -> str:
    return "-" if value is None or math.isnan(value) else f"{100 * value:.{digits}f} %"


def _points(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{100 * value:+.1f}"


def tell_seconds(seconds: float) -> str:
    """Say a time in the two units that matter.

    Example:
        >>> [tell_seconds(s) for s in (0.31, 12.4, 200, 7260)]
        ['0.3 s', '12 s', '3 min 20 s', '2 h 1 min']
    """
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, left = divmod(minutes, 60)
    return f"{hours} h {left} min" if hours else f"{minutes} min {rest} s"
