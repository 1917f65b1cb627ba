"""The table of a sweep: its settings, each with mean and deviation over its runs, and what dividing changed."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from divconq_pl.app.differences import compare_sweep, pair_with_plain
from divconq_pl.app.going_on import list_unfinished
from divconq_pl.app.results import (
    RESULTS_FILE,
    Row,
    average_over_seeds,
    collect_runs,
    describe_images,
    describe_protocol,
    describe_selection,
    name_setting,
    without_repetition,
)
from divconq_pl.app.runs import Run
from divconq_pl.app.table import SPREAD, format_cell, list_published, print_table, split_settings
from divconq_pl.errors import InputError
from divconq_pl.files import write_atomically

_COLUMNS = {
    "R@1": "test/recall_at_1",
    "R@1 against plain": "gain/recall_at_1",
    "MAP@R": "test/map_at_r",
    "MAP@R against plain": "gain/map_at_r",
    "best epoch": "epoch",
    "val R@1": "val/recall_at_1",
    "last epoch": "last/epoch",
    "its val R@1": "last/val/recall_at_1",
    "train s": "train/seconds",
    "divide s": "division/seconds",
    "runs": "runs",
}
_PAIRED = "against plain: mean difference to the plain loss with the same seeds, in points [95 % interval, Student's t]"
_LATEX = {**{c: rf"\{c}" for c in "&%$#_{}"}, "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
_LATEX |= {"\\": r"\textbackslash{}", "±": r"$\pm$"}


class SweepTable(NamedTuple):
    """A table as text; bold cells as in Markdown.

    Attributes:
        title: its heading.
        headings: of the columns; settings come first.
        settings: how many columns of settings there are.
        cells: the rows.
        notes: what stands below.
    """

    title: str
    headings: list[str]
    settings: int
    cells: list[list[str]]
    notes: list[str]


def report_sweep(folders: Sequence[Path], to: Path) -> None:
    """Print the table of one sweep or several, and write it as Markdown, LaTeX, CSV and a figure.

    Args:
        folders: of sweeps, or of single runs.
        to: the folder in which ``sweep.md``, ``sweep.tex``, ``sweep.csv`` and ``sweep.png`` are written.

    Raises:
        InputError: if there is no finished run.
    """
    from divconq_pl.app.plots import gains, save_figure  # matplotlib takes its time

    runs = [run for f in folders for run in (collect_runs(f) if is_sweep(f) else [Run.read(f).results])]
    if not runs:
        raise InputError(f"no run of {' '.join(map(str, folders))} has finished yet, so there is nothing to compare")
    rows = summarise(runs)
    said = (describe_protocol(runs), describe_selection(runs), describe_images(runs))
    title = ", ".join(filter(None, (f"Results of {' '.join(map(str, folders))}", *said)))
    table = lay_out(rows, title)
    headings = [*table.headings[: table.settings], *(h.replace(" ", "\n", 1) for h in table.headings[table.settings :])]
    print_table(headings, table.cells, settings=table.settings, title=title, notes=table.notes)
    common = set.intersection(*(set(row.get("overrides") or []) for row in rows))
    for folder in folders:
        for name, overrides, why in list_unfinished(folder):
            own = " ".join(text for text in overrides if text not in common)
            print(f"not in the table: {folder / name} ({own}): {why['message'] if why else 'stopped'}")
    for sentence in compare_sweep(runs):
        print(sentence)
    write_atomically(to / "sweep.md", write_markdown(table))
    write_atomically(to / "sweep.tex", write_latex(table))
    write_atomically(to / "sweep.csv", write_csv(rows))
    names = [" ".join(cells[: table.settings]) for cells in table.cells]
    save_figure(gains(names[: len(rows)], rows, runs), to / "sweep.png")
    print(f"the table is in {to}, too: sweep.md, sweep.tex, sweep.csv and, as a figure, sweep.png")


def is_sweep(folder: Path) -> bool:
    """Tell whether a folder is that of a sweep, in which at least one run was begun."""
    return not (folder / RESULTS_FILE).is_file() and any(folder.glob("*/.hydra"))


def summarise(runs: Sequence[Row]) -> list[dict[str, Any]]:
    """Average the runs of a sweep over seeds and folds, and compare each setting with the plain loss.

    Returns:
        What :func:`average_over_seeds` does, with a :class:`.Difference` under ``gain/recall_at_1`` and
        ``gain/map_at_r`` where the sweep has plain runs that differ in nothing else.
    """
    rows = average_over_seeds(runs)
    if any(row["runs"] > 1 for row in rows):  # a single run keeps its seed, which is no setting among repetitions
        rows = [{**row, "overrides": without_repetition(row.get("overrides") or [])} for row in rows]
    for metric in ("recall_at_1", "map_at_r"):
        found = pair_with_plain(runs, f"test/{metric}")
        for row in rows:
            if (paired := found.get(name_setting(row.get("overrides") or []))) is not None:
                row[f"gain/{metric}"] = paired[0]
    return rows


def lay_out(rows: Sequence[Row], title: str) -> SweepTable:
    """Write the rows of a sweep as a table; columns that say nothing are left out."""
    keys, labels, common = split_settings(rows)
    if not keys:
        keys, labels = ["run"], [[str(row.get("name", "all"))] for row in rows]
    published = list_published(rows)
    labels += [[row["name"], *("-" for _ in keys[1:])] for row in published]
    columns = {heading: [_write_cell(row, key) for row in (*rows, *published)] for heading, key in _COLUMNS.items()}
    columns = {heading: column for heading, column in columns.items() if any(column)}
    notes = [f"all with {' '.join(common)}"] if common else []
    notes += [SPREAD] if any(row["runs"] > 1 for row in rows) else []
    notes += [_PAIRED] if any("gain/recall_at_1" in row for row in rows) else []
    body = zip(labels, zip(*columns.values(), strict=True), strict=True)
    cells = [[*label, *(cell or "-" for cell in row)] for label, row in body]
    return SweepTable(title, [*keys, *columns], len(keys), cells, notes)


def _write_cell(row: Row, key: str) -> str:
    if not key.startswith("gain/"):
        text = format_cell(row, key)
        return "" if text == "-" else text
    gain = row.get(key)
    if gain is None:
        return ""
    return gain.abbreviate() if gain.over.split()[0] == str(row["runs"]) else f"{gain.abbreviate()}, {gain.over}"


def write_markdown(table: SweepTable) -> str:
    """Write a table as Markdown."""
    lines = [table.headings, ["---"] * table.settings + ["---:"] * (len(table.headings) - table.settings), *table.cells]
    rows = [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines]
    return "\n".join([table.title, "", *rows, *(line for note in table.notes for line in ("", note)), ""])


def write_latex(table: SweepTable) -> str:
    """Write a table as a LaTeX tabular with the rules of booktabs."""

    def escape(cell: str) -> str:
        text = re.sub(r"(?<!\w)-(?=\d)", "$-$", "".join(_LATEX.get(c, c) for c in cell.strip("*")))
        return rf"\textbf{{{text}}}" if cell.startswith("**") else text

    kinds = "l" * table.settings + "r" * (len(table.headings) - table.settings)
    head, *body = (f"{' & '.join(map(escape, line))} \\\\" for line in (table.headings, *table.cells))
    said = [f"% {line}" for line in (table.title, *table.notes, r"\usepackage{booktabs}")]
    rules = [rf"\begin{{tabular}}{{{kinds}}}", r"\toprule", head, r"\midrule", *body, r"\bottomrule", r"\end{tabular}"]
    return "\n".join([*said, *rules, ""])


def write_csv(rows: Sequence[Row]) -> str:
    """Write every number of every setting as CSV: fractions and seconds, unrounded."""
    keys, labels, _ = split_settings(rows)
    lines = []
    for row, label in zip(rows, labels, strict=True):
        line = dict(zip(keys, label, strict=True))
        for key, value in row.items():
            if key.startswith("gain/"):
                line |= {key: value.mean, f"{key}_low": value.low, f"{key}_high": value.high, f"{key}_over": value.over}
            elif key not in ("seed", "seed_std") and not isinstance(value, list):
                line[key] = value
        lines.append(line)
    file = io.StringIO()
    writer = csv.DictWriter(file, list(dict.fromkeys(key for line in lines for key in line)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return file.getvalue()
