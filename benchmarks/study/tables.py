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
from typing import Any

from rows import METHODS, PLAIN, Row, all_rows

from divconq_pl.app.differences import pair_over_seeds

ROOT = Path(__file__).resolve().parents[2]
RESULTS = Path(__file__).with_name("results.csv")
PAGE = ROOT / "docs" / "results.md"
FIGURE = ROOT / "docs" / "images" / "study.png"
MEASURED = ("R@1", "against", "MAP@R", "against", "last epoch R@1", "against")
HEADINGS = (*MEASURED, "steps", "pairs kept", "train s", "seeds")
DATA_SETS = {
    "sides": "4 sides",
    "1 sides": "1 side",
    "2 sides": "2 sides",
    "8 sides": "8 sides",
    "glyphs": "glyphs",
    "icons": "icons",
    "objects, own colours": "objects, own colours",
    "objects, random colours": "objects, random colours",
}
"""The groups that differ in their data, and what the table of gains calls them."""

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
    found = pair_over_seeds(differences, [0.0] * len(differences))
    return found.mean, math.inf if math.isnan(found.low) else found.high - found.mean


def values(results: Results, row: Row, column: str) -> dict[int, float]:
    """Return a column of a row's runs by seed, those that there are."""
    return {seed: float(line[column]) for seed, line in lines(results, row).items() if line[column]}


def gains(results: Results, row: Row, rival: Row, column: str) -> list[float]:
    """Return by how many points a row's runs exceed those of another with the same seed."""
    own, others = values(results, row, column), values(results, rival, column)
    return [100 * (own[seed] - others[seed]) for seed in own if seed in others]


def lines(results: Results, row: Row) -> dict[int, dict[str, str]]:
    """Return the lines of a row's runs by seed, those that there are."""
    found = {seed: results.get((row.key, seed)) for seed in range(row.seeds)}
    return {seed: line for seed, line in found.items() if line}


def curves(results: Results, row: Row) -> dict[int, list[float]]:
    """Return Recall@1 of the validation classes after each epoch, of a row's runs by seed."""
    found = {seed: line["val_recall_at_1"].split() for seed, line in lines(results, row).items()}
    return {seed: [float(value) for value in curve] for seed, curve in found.items() if curve}


def steps_to_reach(curve: Sequence[float], goal: float) -> float:
    """Return after what share of the steps a curve, one value an epoch, first reaches a value; infinity if never.

    Example:
        >>> steps_to_reach([0.1, 0.5, 0.4, 0.6], 0.45)
        0.5
    """
    return next(((epoch + 1) / len(curve) for epoch, value in enumerate(curve) if value >= goal), math.inf)


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
            paired = gains(results, row, by_name[row.rival], column)
            cells.append(_spread([100 * value for value in values(results, row, column).values()]))
            cells.append("" if row.name == row.rival or row.name == PLAIN or not paired else _difference(paired))
        own, rival = curves(results, row), curves(results, by_name[PLAIN])
        cells.append(_share([steps_to_reach(own[seed], rival[seed][-1]) for seed in own if seed in rival]))
        kept = values(results, row, "pairs_kept").values()
        seconds = values(results, row, "train_seconds").values()
        cells += [f"{100 * statistics.fmean(kept):.0f} %" if kept else "", f"{statistics.fmean(seconds):.0f}"]
        cells.append(str(len(seconds)))
        lines.append(f"| {row.name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def make_gains(results: Results) -> str:
    """Return what fixed subspaces gain on each data set, and what predicts it, as a table in Markdown."""
    found = []
    for group, plain, row in _data_sets():
        kept, nmi = (values(results, row, column).values() for column in ("pairs_kept", "nmi_classes"))
        paired, precise = (gains(results, row, plain, column) for column in ("recall_at_1", "map_at_r"))
        if paired:
            cells = [group, f"{100 * statistics.fmean(kept):.0f} %", f"{statistics.fmean(nmi):.2f}"]
            cells += [_difference(paired), _difference(precise), str(len(paired))]
            found.append((statistics.fmean(kept), f"| {' | '.join(cells)} |"))
    head = ["| | pairs kept | NMI of clusters with classes | R@1 gained | MAP@R gained | seeds |", "|---" * 6 + "|"]
    return "\n".join([*head, *(line for _, line in sorted(found))])


def _data_sets() -> list[tuple[str, Row, Row]]:
    """Return the groups that differ in their data, with their plain row and that of fixed subspaces."""
    groups: dict[str, dict[str, Row]] = {}
    for row in all_rows():
        if row.group in DATA_SETS:
            groups.setdefault(row.group, {})[row.name] = row
    return [(DATA_SETS[group], rows[PLAIN], rows["fixed subspaces"]) for group, rows in groups.items()]


def _share(shares: Sequence[float]) -> str:
    reached = [100 * share for share in shares if share < math.inf]
    if not reached:
        return "never" if shares else ""
    mean = f"{statistics.fmean(reached):.0f} %"
    return mean if len(reached) == len(shares) else f"{mean} ({len(reached)} of {len(shares)})"


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
    """Put the tables of groups, and that of gains, between ``<!-- table: NAME -->`` and ``<!-- end -->``."""

    def make(name: str) -> str:
        return make_gains(results) if name == "gains" else make_table(results, name)

    return re.sub(
        r"(<!-- table: (.+?) -->\n).*?(<!-- end -->)",
        lambda match: f"{match[1]}{make(match[2])}\n{match[3]}",
        page,
        flags=re.DOTALL,
    )


def draw(results: Results, path: Path) -> None:
    """Draw what each method gains, what predicts it, and Recall@1 of the validation classes over the epochs."""
    from matplotlib.figure import Figure

    from divconq_pl.app.plots import save_figure

    figure = Figure(figsize=(13, 3.6), layout="constrained")
    by_method, by_data, over_epochs = figure.subplots(1, 3)
    for group, colour in (("sides", "tab:blue"), ("glyphs", "tab:grey")):
        plain, *rows = (row for row in all_rows() if row.group == group and row.name in METHODS)
        for place, row in enumerate(rows):
            at = place - (0.1 if group == "sides" else -0.1)
            paired = gains(results, row, plain, "recall_at_1")
            _draw_gain(by_method, paired, at, color=colour, label=group if place == 0 else None)
    names = list(METHODS)[1:]
    by_method.set_yticks(range(len(names)), names)
    by_method.set_ylim(len(names) - 0.5, -0.5)
    by_method.axvline(0, color="black", linewidth=0.8)
    by_method.set_xlabel("R@1 against the plain loss, points (95 % interval)")
    by_method.legend(frameon=False)
    for name, plain, row in _data_sets():
        if paired := gains(results, row, plain, "recall_at_1"):
            at = 100 * statistics.fmean(values(results, row, "pairs_kept").values())
            _draw_gain(by_data, paired, at, upright=True, label=f"{name} ({len(paired)})")
    by_data.set_ylim(-8, 17)
    by_data.legend(frameon=False, fontsize="small", title="data (seeds)", title_fontsize="small")
    by_data.axhline(0, color="black", linewidth=0.8)
    by_data.set_xlabel("positive pairs kept, %")
    by_data.set_ylabel("R@1 gained by fixed subspaces, points")
    for row in (row for row in all_rows() if row.group == "sides"):
        epochs = curves(results, row).values()
        if epochs:
            curve = [100 * statistics.fmean(column) for column in zip(*epochs, strict=False)]
            over_epochs.plot(range(1, len(curve) + 1), curve, label=row.name)
    over_epochs.set_xlabel("epoch")
    over_epochs.set_ylabel("R@1 of validation classes, %")
    over_epochs.set_title("sides", fontsize="medium")
    over_epochs.legend(frameon=False, fontsize="small")
    save_figure(figure, path)


def _draw_gain(axes: Any, paired: Sequence[float], at: float, *, upright: bool = False, **options: Any) -> None:
    """Draw the mean of a gain with its interval; a single seed has none, and is hollow."""
    mean, half = interval(paired)
    bar = None if math.isinf(half) else half
    place = {"x": at, "y": mean, "yerr": bar} if upright else {"x": mean, "y": at, "xerr": bar}
    axes.errorbar(**place, fmt="o", capsize=3, markerfacecolor="white" if bar is None else None, **options)


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
