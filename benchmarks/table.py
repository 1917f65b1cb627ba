"""results.csv and the tables that docs/benchmarks.md has of it."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from measuring import Row

RESULTS = Path(__file__).with_name("results.csv")
PAGE = Path(__file__).resolve().parents[1] / "docs" / "benchmarks.md"
MEASURED = ("device", "part", "work", "contestant", "value", "unit", "against", "ratio")
COLUMNS = (*MEASURED, "goal", "goal_of", "reached", "why", "load")

Line = Mapping[str, str]


def to_line(row: Row, device: str, load: float) -> dict[str, str]:
    """Return a row as a line of the CSV; a goal is said to be reached or not, and why not."""
    line = dict.fromkeys(COLUMNS, "")
    line |= {"device": device, "part": row.part, "work": row.work, "contestant": row.contestant, "unit": row.unit}
    line |= {"value": f"{row.value:.4g}", "against": row.against, "load": f"{load:.1f}"}
    if not math.isnan(row.ratio):
        line["ratio"] = f"{row.ratio:.3g}"
    if row.goal is not None:
        figure = row.ratio if row.goal.of == "ratio" else row.value
        reached = figure >= row.goal.limit if row.goal.at_least else figure <= row.goal.limit
        line |= {"goal": f"{'>=' if row.goal.at_least else '<='} {row.goal.limit:g}", "goal_of": row.goal.of}
        line |= {"reached": "yes" if reached else f"missed by {_percent(abs(figure / row.goal.limit - 1))}"}
        line["why"] = "" if reached else row.goal.why
    return line


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.01 else f"{100 * share:.1f} %"


def read(path: Path = RESULTS) -> list[dict[str, str]]:
    """Return the lines of the CSV; none if there is no file."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def write(lines: Iterable[Line], path: Path = RESULTS) -> None:
    """Write the CSV."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)


def merge(old: list[dict[str, str]], new: list[dict[str, str]]) -> list[dict[str, str]]:
    """Put new lines in the place of those of the same parts on the same device."""
    measured = {(line["device"], line["part"]) for line in new}
    kept = [line for line in old if (line["device"], line["part"]) not in measured]
    return sorted([*kept, *new], key=lambda line: (line["device"], line["part"]))


def fill_in(page: str, lines: list[dict[str, str]]) -> str:
    """Put the table of a part, or of all goals, between ``<!-- table: PART -->`` and ``<!-- end -->``."""

    def make(part: str) -> str:
        return make_goals(lines) if part == "goals" else make_table([line for line in lines if line["part"] == part])

    return re.sub(
        r"(<!-- table: (.+?) -->\n).*?(<!-- end -->)",
        lambda match: f"{match[1]}{make(match[2])}\n{match[3]}",
        page,
        flags=re.DOTALL,
    )


def make_goals(lines: list[dict[str, str]]) -> str:
    """Return the figures that have a goal as a table in Markdown."""
    head = ["| part | work | | measured | goal | reached |", "|---|---|---|---|---|---|"]
    return "\n".join([*head, *(_goal(line) for line in lines if line["goal"])])


def _goal(line: Line) -> str:
    if line["goal_of"] == "ratio":
        measured, goal = f"{line['ratio']} of {line['against']}", line["goal"]
    else:
        measured, goal = f"{line['value']} {line['unit']}", f"{line['goal']} {line['unit']}"
    reached = f"{line['reached']}: {line['why']}" if line["why"] else line["reached"]
    return f"| {line['part']} | {line['work']} | {line['contestant']} | {measured} | {goal} | {reached} |"


def make_table(lines: list[dict[str, str]]) -> str:
    """Return all figures of a part as tables in Markdown, one for each device."""
    tables = []
    for device in dict.fromkeys(line["device"] for line in lines):
        own = [line for line in lines if line["device"] == device]
        load = max(float(line["load"]) for line in own)
        tables.append(f"{device}, load {load:.1f}:\n")
        tables += ["| | | measured | ratio |", "|---|---|---|---|"]
        previous = ""
        for line in own:
            work = "" if line["work"] == previous else line["work"]
            previous = line["work"]
            ratio = f"{line['ratio']}{' (to which the ratios are)' if line['contestant'] == line['against'] else ''}"
            tables.append(f"| {work} | {line['contestant']} | {line['value']} {line['unit']} | {ratio} |")
        tables.append("")
    return "\n".join(tables).strip() or "Not measured yet."
