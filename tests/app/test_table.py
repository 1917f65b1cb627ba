"""Tables of results as a user reads them."""

from __future__ import annotations

import io
import math
from typing import Any

import pytest
from rich.console import Console

from divconq_pl.app.results import average_over_seeds, check_published
from divconq_pl.app.table import describe_worst, print_results
from divconq_pl.errors import InputError


def run(name: str, *overrides: str, train: float | None = None, **numbers: float) -> dict[str, Any]:
    seconds = {} if train is None else {"train/seconds": train}
    return {"name": name, "overrides": list(overrides), **{f"test/{k}": v for k, v in numbers.items()}, **seconds}


def printed(rows: list[dict[str, Any]], width: int = 80, terminal: bool = False) -> str:
    file = io.StringIO()
    console = Console(file=file, width=width, force_terminal=terminal, color_system=None)
    print_results(rows, console=console)
    return file.getvalue()


def test_a_run_is_shown_in_percent():
    text = printed([run("glyphs", "dataset=glyphs", recall_at_1=0.65904, recall_at_10=1.0, map_at_r=math.nan)])
    heading, values = (line.split() for line in text.splitlines() if "R@1" in line or "65.90" in line)
    assert heading == ["run", "R@1", "R@10", "MAP@R", "R-prec"]
    assert values == ["glyphs", "65.90", "100.00", "-", "-"]
    assert "dataset=glyphs" in text


def test_a_comparison_shows_what_differs_and_says_once_what_does_not():
    rows = [
        run("0", "dataset=glyphs", "loss=margin", "opts=[red]", recall_at_1=0.5, train=61.4),
        run("1", "dataset=glyphs", "loss=triplet", recall_at_1=0.25, train=700.4),
    ]
    lines = printed(rows).splitlines()
    assert next(line for line in lines if "margin" in line).split() == ["margin", "[red]", "50.00", "-", "-", "61.4"]
    assert next(line for line in lines if "triplet" in line).split() == ["triplet", "-", "25.00", "-", "-", "700"]
    assert [line.strip() for line in lines if "glyphs" in line] == ["all with dataset=glyphs"]


def test_deviations_and_the_number_of_runs_are_shown():
    rows = [run(str(s), f"seed={s}", recall_at_1=0.6 + 0.01 * s, nmi=0.8, train=10 + s) for s in range(3)]
    text = printed(average_over_seeds(rows))
    assert "61.00 ±1.00" in text
    assert "80.00 ±0.00" in text
    assert "11.0 ±1.0" in text
    assert text.splitlines()[3].split()[-1] == "3"


def test_same_overrides_are_told_apart_by_name():
    text = printed([run("first", "loss=margin", recall_at_1=0.1), run("second", "loss=margin", recall_at_1=0.2)])
    assert "first" in text
    assert "second" in text


def test_numbers_are_whole_in_a_file_and_in_a_terminal_of_80_columns():
    rows = []
    for place in range(6):
        metrics = {f"recall_at_{k}": 0.6123 + place / 100 for k in (1, 2, 4, 8)} | {"map_at_r": 0.1, "r_precision": 0.2}
        rows.append(
            run(str(place), f"loss=l{place // 3}", f"divide.split_depth={place // 3}", f"seed={place}", **metrics)
        )
    rows = average_over_seeds(rows)
    assert printed(rows, width=40).count("±1.00") == 8  # a file: as wide as it takes
    in_terminal = printed(rows, terminal=True)
    assert in_terminal.count("±1.00") == 8
    assert max(map(len, in_terminal.splitlines())) <= 80


PAPER = {"source": "TPAMI 2021, table 3", "recall_at_1": 0.8722, "marp": 0.6554}


def row_of(text: str, name: str) -> list[str]:
    return next(line for line in map(str.strip, text.splitlines()) if line.startswith(name)).removeprefix(name).split()


def test_published_figures_stand_below_those_measured():
    text = printed([{**run("mine", "loss=margin", recall_at_1=0.5, map_at_r=0.25), **check_published(PAPER)}])
    heading = next(line.split() for line in text.splitlines() if "R@1" in line)
    assert heading == ["run", "R@1", "MAP@R", "R-prec", "mARP"]
    assert row_of(text, "mine") == ["50.00", "25.00", "-", "-"]
    assert row_of(text, "TPAMI 2021, table 3") == ["87.22", "-", "-", "65.54"]
    assert "loss=margin" in text


def test_published_figures_of_several_runs_are_shown_once_and_not_averaged():
    rows = [
        {**run(str(i), f"loss={'ab'[i // 2]}", f"seed={i}", recall_at_1=0.5 + i / 100), **check_published(PAPER)}
        for i in range(4)
    ]
    text = printed(average_over_seeds(rows))
    assert text.count("TPAMI 2021, table 3") == 1
    assert row_of(text, "TPAMI 2021, table 3")[:2] == ["-", "87.22"]  # a column for the loss
    assert "87.22 ±" not in text
    assert [line.split()[:2] for line in text.splitlines() if " ±" in line] == [["run", "a"], ["run", "b"]]
    assert "± is the standard deviation" in text


def test_numbers_stay_whole_beside_a_long_source():
    source = "Improving Deep Metric Learning by Divide and Conquer, TPAMI 2021, table 3, learned masks"
    metrics = {f"recall_at_{k}": 0.6123 for k in (1, 2, 4, 8)}
    text = printed([{**run("mine", **metrics), **check_published({**PAPER, "source": source})}], terminal=True)
    assert text.count("61.23") == 4
    assert "87.22" in text
    assert max(map(len, text.splitlines())) <= 80


def test_metrics_of_other_protocols_are_told_apart():
    text = printed([run("vehicles", recall_at_1=0.95, reid_recall_at_1=0.77, reid_recall_at_5=0.9, marp=0.6, nmi=0.5)])
    assert row_of(text, "vehicles") == ["95.00", "-", "-", "60.00", "50.00", "77.00", "90.00"]
    heading = next(line for line in text.splitlines() if "R@1" in line)
    assert " ".join(heading.split()) == "run R@1 MAP@R R-prec mARP NMI re-id R@1 re-id R@5"


def test_an_empty_table_is_refused():
    with pytest.raises(InputError, match="no run"):
        print_results([])


def test_the_worst_are_named_in_one_line():
    rows = [{"name": name, "images": n, "recall_at_4": r} for name, n, r in (("cat", 3, 0.25), ("dog", 1, 1.0))]
    assert describe_worst(rows) == "Worst classes by R@4: cat 25.0 (3 images)"
    assert describe_worst(rows, most=0) == describe_worst(rows[1:]) == "Every class has R@4 of 100"
