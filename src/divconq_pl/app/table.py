"""Tables of results, in percent."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from divconq_pl.app.results import METRICS, PUBLISHED, Row, split_metric
from divconq_pl.errors import InputError

SPREAD = "± is the standard deviation over the runs, which differ in their seeds or folds"

_WIDEST = 1000  # columns of a table in a file
_EPOCHS, _SECONDS = ("epoch", "last/epoch"), ("train/seconds", "division/seconds")


def print_results(rows: Sequence[Row], *, title: str | None = None, console: Console | None = None) -> str:
    """Print the results of one or several runs as a table, metrics in percent.

    A column shows each override in which the runs differ; what all were given stands below the table. Published figures
    follow in rows of their own, named by their source.

    Args:
        rows: results of runs; ``<key>_std`` and ``runs``, as ``average_over_seeds`` adds them, are shown too.
        title: heading of the table.
        console: where to; by default the standard output.

    Returns:
        What was printed, without colours.

    Raises:
        InputError: if there is no run.
    """
    if not rows:
        raise InputError("no run has results to show: give at least one")
    keys, labels, common = split_settings(rows)
    notes = [f"all with {' '.join(common)}" if len(rows) > 1 else " ".join(common)] if common else []
    notes += [SPREAD] if any(row.get("runs", 1) > 1 for row in rows) else []
    published = list_published(rows)
    if len({tuple(label) for label in labels}) < len(rows) or not keys or published:
        keys = ["run", *keys]
        labels = [[str(row.get("name", "run")), *label] for row, label in zip(rows, labels, strict=True)]
    labels += [[row["name"], *("-" for _ in keys[1:])] for row in published]
    shown = [*rows, *published]
    columns = _list_columns(shown)
    cells = [[*label, *(format_cell(row, key) for key in columns)] for row, label in zip(shown, labels, strict=True)]
    headings = [*keys, *columns.values()]
    return print_table(headings, cells, settings=len(keys), title=title, notes=notes, console=console)


def print_table(
    headings: Sequence[str],
    cells: Sequence[Sequence[str]],
    *,
    settings: int,
    title: str | None,
    notes: Sequence[str],
    console: Console | None = None,
) -> str:
    """Print a table of texts: as wide as it takes in a file, as wide as the terminal in one.

    Args:
        headings: of the columns; settings come first.
        cells: the rows; what is bold as in Markdown is so here.
        settings: how many columns of settings there are; they are broken only where a text has blanks.
        title: heading of the table.
        notes: what stands below.
        console: where to; by default the standard output.

    Returns:
        What was printed, without colours.
    """
    table = Table(title=title, box=box.SIMPLE_HEAVY, collapse_padding=True, pad_edge=False)
    table.title_justify = table.caption_justify = "left"
    table.caption = Text("\n".join(notes)) if notes else None
    for place, heading in enumerate(headings):
        if place < settings:
            is_whole = not any(" " in row[place] for row in cells)
            table.add_column(Text(heading.replace(".", ".\n")), no_wrap=is_whole)
        else:
            table.add_column(Text(heading), justify="right")
    for row in cells:
        table.add_row(*(Text(cell[2:-2], style="bold") if cell.startswith("**") else Text(cell) for cell in row))
    console = console or Console()
    if not console.is_terminal:
        # A file has no width of its own: rich would squeeze the table into 80 columns.
        table.width = console.measure(table, options=console.options.update(max_width=_WIDEST)).maximum
    console.print(table, crop=False)
    with console.capture() as captured:
        console.print(table, crop=False, style=None)
    return Text.from_ansi(captured.get()).plain


def describe_worst(rows: Sequence[Mapping[str, Any]], most: int = 5) -> str:
    """Name the worst classes in one line.

    Args:
        rows: as :func:`~divconq_pl.metrics.per_class.list_classes` returns them.
        most: how many to name.

    Example:
        >>> describe_worst([{"name": "dog", "images": 1, "recall_at_1": 0.0}])
        'Worst classes by R@1: dog 0.0 (1 image)'
    """
    recall = next(key for key in rows[0] if key.startswith("recall_at_"))
    heading = recall.replace("recall_at_", "R@")
    known = [row for row in rows if row[recall] is not None]
    named = [
        f"{row['name']} {100 * row[recall]:.1f} ({row['images']} image{'s' if row['images'] > 1 else ''})"
        for row in known[:most]
        if row[recall] < 1
    ]
    if not named:
        return f"Every class has {heading} of 100"
    return f"Worst classes by {heading}: {', '.join(named)}"


def split_settings(rows: Sequence[Row]) -> tuple[list[str], list[list[str]], list[str]]:
    """Tell what differs in the overrides of some runs from what all were given.

    Returns:
        The keys that differ; their values, a list for each run, "-" where it has none; the common overrides.
    """
    given = [dict(override.partition("=")[::2] for override in row.get("overrides") or []) for row in rows]
    keys = dict.fromkeys(key for overrides in given for key in overrides)
    differing = [key for key in keys if len({overrides.get(key) for overrides in given}) > 1]
    common = [f"{key}={given[0][key]}" for key in keys if key not in differing]
    return differing, [[overrides.get(key, "-") for key in differing] for overrides in given], common


def list_published(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return published figures as rows like those of runs, each once."""
    found: list[dict[str, Any]] = []
    for row in rows:
        figures = {key.removeprefix(PUBLISHED): value for key, value in row.items() if key.startswith(PUBLISHED)}
        if figures:
            shown = {"name": figures.pop("source"), **{f"test/{key}": value for key, value in figures.items()}}
            found += [shown] if shown not in found else []
    return found


def _list_columns(rows: Sequence[Row]) -> dict[str, str]:
    keys = {key.removeprefix("test/") for row in rows for key in row if key.startswith("test/")}
    known = {split for key in (*keys, "map_at_r", "r_precision") if (split := split_metric(key))}
    columns: dict[str, str] = {}
    for name, heading in METRICS.items():
        ks = sorted((k for metric, k in known if metric == name), key=lambda k: int(k or 0))
        columns |= {f"test/{name}{k}": f"{heading}{k}" for k in ks}
    if any(isinstance(row.get("epoch"), int | float) for row in rows):
        columns["epoch"] = "epoch"
    if any("train/seconds" in row for row in rows):
        columns["train/seconds"] = "train s"
    if any(row.get("runs", 1) > 1 for row in rows):
        columns["runs"] = "runs"
    return columns


def format_cell(row: Row, key: str) -> str:
    """Write a number of a run, or its mean and standard deviation over several: metrics in percent."""
    value, deviation = row.get(key), row.get(f"{key}_std")
    if value is None or math.isnan(value):
        return "-"
    if key == "runs" or (key in _EPOCHS and deviation is None):
        return str(value)
    scale, digits = (1, 0 if value >= 100 else 1) if key in (*_EPOCHS, *_SECONDS) else (100, 2)
    text = f"{value * scale:.{digits}f}"
    return text if deviation is None else f"{text} ±{deviation * scale:.{digits}f}"
