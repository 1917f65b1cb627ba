"""Loss of each learner, and what validations measured, over the epochs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from divconq_pl.report.material import Material, Missing
from divconq_pl.report.svg import Band, Line, colour_of, draw_lines
from divconq_pl.report.thumbnails import Thumbnails

_SHOWN = ("recall_at_1", "map_at_r")
_COLOURS = {"recall_at_1": "var(--first)", "map_at_r": "var(--second)"}
_MOST_LEARNERS = 32


def show_curves(material: Material, thumbnails: Thumbnails) -> dict[str, Any]:
    """Return the charts of losses and of validations."""
    epochs = material.epochs
    if not epochs:
        raise Missing("no epoch was finished, or nobody took notes: add ReportCallback() to the Trainer's callbacks")
    bands = find_stages(epochs)
    marks = [float(summary["epoch"]) for summary in material.divisions]
    losses = _list_losses(epochs)
    charts = []
    if losses:
        charts.append(
            ("Training loss", draw_lines(losses, bands, marks, label="loss of each learner"), _legend(losses))
        )
    validated = list_metrics(epochs)
    plain = list_metrics((material.plain or {}).get("epochs", ()), name=" of the plain loss", dashed=True)
    if validated:
        lines = [*validated, *(line for line in plain if any(line.colour == own.colour for own in validated))]
        chart = draw_lines(lines, bands, marks, label="validation metrics", percent=True)
        charts.append(("Validation", chart, _legend(lines)))
    if not charts:
        raise Missing("neither losses nor validation metrics were noted")
    return {"charts": charts, "divided": bool(marks), "chosen": material.chosen_epoch, "protocol": material.protocol}


def find_stages(epochs: Sequence[Mapping[str, Any]]) -> list[Band]:
    """Return a band for each stretch of epochs of the same stage."""
    bands = []
    for (phase, clusters), group in groupby(epochs, lambda noted: (noted.get("phase"), noted.get("clusters", 1))):
        stretch = [noted["epoch"] for noted in group]
        label = str(phase) + (f", {clusters}" if clusters > 1 else "")
        bands.append(Band(stretch[0] - 0.5, stretch[-1] + 0.5, label, str(phase)))
    return bands


def list_metrics(epochs: Sequence[Mapping[str, Any]], name: str = "", *, dashed: bool = False) -> list[Line]:
    """Return a line for R@1 and for MAP@R of the validations; for another fraction where neither was logged."""
    keys = sorted({key for noted in epochs for key in noted["metrics"] if not key.startswith(("train", "epoch"))})
    known = [key for shown in _SHOWN for key in keys if key.endswith(shown)]
    lines: list[Line] = []
    for key in known or [key for key in keys if "loss" not in key][:2]:
        points = [(float(noted["epoch"]), noted["metrics"][key]) for noted in epochs if key in noted["metrics"]]
        if points and all(0 <= value <= 1 for _, value in points):
            colour = _COLOURS.get(key.split("/")[-1], f"var(--{'second' if lines else 'first'})")
            short = {"recall_at_1": "R@1", "map_at_r": "MAP@R"}.get(key.split("/")[-1], key)
            lines.append(Line(short + name, colour, points, dashed))
    return lines


def _list_losses(epochs: Sequence[Mapping[str, Any]]) -> list[Line]:
    """Return a line for each learner; a new one wherever their number or what they train changes."""
    points: dict[tuple[bool, int, int], list[tuple[float, float]]] = {}
    for noted in epochs:
        for learner, loss in noted["losses"].items():
            clusters = int(noted.get("clusters", 1)) if int(learner) >= 0 else 1
            if clusters <= _MOST_LEARNERS:
                key = (noted.get("phase") == "merged", clusters, max(int(learner), 0))
                points.setdefault(key, []).append((float(noted["epoch"]), float(loss)))
    lines = []
    for (merged, clusters, learner), places in points.items():
        name = "all together" if clusters == 1 else f"{'cluster' if merged else 'learner'} {learner} of {clusters}"
        lines.append(Line(name, "var(--ink)" if clusters == 1 else colour_of(learner, clusters), places))
    return lines


def _legend(lines: Sequence[Line]) -> list[tuple[str, str]]:
    """Return name and colour of the lines; of learners only those of the largest number."""
    most = max((int(line.name.split(" of ")[1]) for line in lines if _is_learner(line)), default=0)
    named = [line for line in lines if not _is_learner(line) or line.name.endswith(f" of {most}")]
    return list({line.colour: (line.name, line.colour) for line in reversed(named)}.values())[::-1]


def _is_learner(line: Line) -> bool:
    return line.name.startswith(("learner", "cluster"))
