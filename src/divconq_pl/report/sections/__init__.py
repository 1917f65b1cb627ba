"""The sections of a report, from top to bottom: each a function of the material, with a template of the same name.

A section that lacks what it needs raises :class:`.Missing`, and the page says so in its place.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from divconq_pl.report.material import Material
from divconq_pl.report.sections.clusters import show_clusters
from divconq_pl.report.sections.cost import show_cost
from divconq_pl.report.sections.curves import show_curves
from divconq_pl.report.sections.errors import show_errors
from divconq_pl.report.sections.learners import show_learners
from divconq_pl.report.sections.map import show_map
from divconq_pl.report.sections.result import show_result
from divconq_pl.report.sections.settings import show_settings
from divconq_pl.report.sections.tree import show_tree
from divconq_pl.report.thumbnails import Thumbnails


class Section(NamedTuple):
    """A part of the page.

    Attributes:
        name: of its template, and its anchor.
        title: its heading.
        show: gives what its template takes.
    """

    name: str
    title: str
    show: Callable[[Material, Thumbnails], dict[str, Any]]


SECTIONS = (
    Section("result", "Did it help?", show_result),
    Section("curves", "How the training went", show_curves),
    Section("tree", "What was divided", show_tree),
    Section("clusters", "What each cluster holds", show_clusters),
    Section("learners", "What each learner does", show_learners),
    Section("errors", "Where it fails", show_errors),
    Section("map", "The test images on a map", show_map),
    Section("cost", "What it cost", show_cost),
    Section("settings", "How to repeat it", show_settings),
)
