"""Make the tables and the figure of docs/results.md from results.csv.

python benchmarks/study/tables.py            fill in the tables between their markers, and draw the figure
python benchmarks/study/tables.py --check    say whether the page is what the CSV gives

A difference is between runs of the same seed, with its 95 % interval by Student's t.
"""

from __future__ import annotations

import argparse
import csv
import math
import re
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

from rows import PLAIN, Row, all_rows
from scipy import stats

ROOT = Path(__file__).resolve().parents[2]
RESULTS = Path(__file__).with_name("results.csv")
PAGE = ROOT / "docs" / "results.md"
FIGURE = ROOT / "docs" / "images" / "study.png"
HEADINGS = ("R@1", "against", "MAP@R", "against", "last epoch R@1", "against", "pairs kept", "train s", "seeds")

Results = dict[tuple[str, int], dict[str, str]]


def read_results(path: Path = RESULTS) -> Results:
    """Return the lines of the CSV by overrides and seed."""
    with path.open(newline="") as file:
        return {(row["overrides"], int(row["seed"])): row for row in csv.DictReader(file)}


def interval(differences: Sequence[float]) -> tuple[float, float]:
    """Return the mean of paired differences and the half-width of its 95 % interval (infinite for a single one).

    Example:
        >>> mean, half = interval([1.0, 2.0, 3.0])
        >>> mean, round(half, 2)
        (2.0, 2.48)
    """
    count = len(differences)
    if count < 2:
        return differences[0], math.inf
    half = stats.t.ppf(0.975, count - 1) * statistics.stdev(differences) / math.sqrt(count)
    return statistics.fmean(differences), float(half)


def values(results: Results, row: Row, column: str) -> dict[int, float]:
    """Return a column of a row's runs by seed, those that there are."""
    found = {seed: results.get((" ".join(row.overrides), seed)) for seed in range(row.seeds)}
    return {seed: float(line[column]) for seed, line in found.items() if line and line[column]}


def make_table(results: Results, group: str) -> str:
    """Return a group's rows as a table in Markdown; rows without a run are left out."""
    rows = [row for row in all_rows() if row.group == group]
    by_name = {row.name: row for row in rows}
    lines = ["| | " + " | ".join(HEADINGS) + " |", "|---" * (len(HEADINGS) + 1) + "|"]
    for row in rows:
        if not values(results, row, "recall_at_1"):
            continue
        cells = []
        for column in ("recall_at_1", "map_at_r", "last_recall_at_1"):
            own, rival = values(results, row, column), values(results, by_name[row.rival], column)
            paired = [100 * (own[seed] - rival[seed]) for seed in own if seed in rival]
            cells.append(_spread([100 * value for value in own.values()]))
            cells.append("" if row.name == row.rival or row.name == PLAIN or not paired else _difference(paired))
        kept = values(results, row, "pairs_kept").values()
        seconds = values(results, row, "train_seconds").values()
        cells += [f"{100 * statistics.fmean(kept):.0f} %" if kept else "", f"{statistics.fmean(seconds):.0f}"]
        cells.append(str(len(seconds)))
        lines.append(f"| {row.name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _spread(numbers: Sequence[float]) -> str:
    mean = f"{statistics.fmean(numbers):.1f}"
    return mean if len(numbers) < 2 else f"{mean} ± {statistics.stdev(numbers):.1f}"


def _difference(paired: Sequence[float]) -> str:
    mean, half = interval(paired)
    if math.isinf(half):
        return f"{mean:+.1f}"
    text = f"{mean:+.1f} [{mean - half:+.1f}, {mean + half:+.1f}]"
    return f"**{text}**" if abs(mean) > half else text


def fill_in(page: str, results: Results) -> str:
    """Put each group's table between its markers, ``<!-- table: GROUP -->`` and ``<!-- end -->``."""
    return re.sub(
        r"(<!-- table: (.+?) -->\n).*?(<!-- end -->)",
        lambda match: f"{match[1]}{make_table(results, match[2])}\n{match[3]}",
        page,
        flags=re.DOTALL,
    )


def draw(results: Results, path: Path) -> None:
    """Draw what each method gains on each data set, and Recall@1 of the validation classes over the epochs."""
    from matplotlib.figure import Figure

    from divconq_pl.app.plots import save_figure

    figure = Figure(figsize=(10, 3.6), layout="constrained")
    gains, curves = figure.subplots(1, 2)
    for group, marker in (("sides", "o"), ("glyphs", "s")):
        rows = [row for row in all_rows() if row.group == group]
        plain = values(results, rows[0], "recall_at_1")
        for place, row in enumerate(rows[1:]):
            own = values(results, row, "recall_at_1")
            paired = [100 * (own[seed] - plain[seed]) for seed in own if seed in plain]
            if len(paired) > 1:
                mean, half = interval(paired)
                colour = "tab:blue" if group == "sides" else "tab:grey"
                label = group if place == 0 else None
                at = place - (0.1 if group == "sides" else -0.1)
                gains.errorbar(mean, at, xerr=half, fmt=marker, color=colour, capsize=3, label=label)
    names = [row.name for row in all_rows() if row.group == "sides"][1:]
    gains.set_yticks(range(len(names)), names)
    gains.set_ylim(len(names) - 0.5, -0.5)
    gains.axvline(0, color="black", linewidth=0.8)
    gains.set_xlabel("R@1 against the plain loss, points (95 % interval)")
    gains.legend(frameon=False)
    for row in (row for row in all_rows() if row.group == "sides"):
        runs = [results.get((" ".join(row.overrides), seed)) for seed in range(row.seeds)]
        epochs = [[float(v) for v in line["val_recall_at_1"].split()] for line in runs if line]
        if epochs:
            curve = [100 * statistics.fmean(column) for column in zip(*epochs, strict=False)]
            curves.plot(range(1, len(curve) + 1), curve, label=row.name)
    curves.set_xlabel("epoch")
    curves.set_ylabel("R@1 of validation classes, %")
    curves.set_title("sides", fontsize="medium")
    curves.legend(frameon=False, fontsize="small")
    save_figure(figure, path)


def main() -> None:
    """Fill in the page and draw the figure, or compare the page with the CSV."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    results, page = read_results(), PAGE.read_text()
    filled = fill_in(page, results)
    if parser.parse_args().check:
        sys.exit(0 if filled == page else f"{PAGE.name} is not what results.csv gives; run tables.py")
    PAGE.write_text(filled)
    draw(results, FIGURE)


if __name__ == "__main__":
    main()
