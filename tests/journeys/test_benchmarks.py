"""The benchmarks run, and their page says what their CSV says."""

import math
from importlib import import_module

import pytest
from programs import ROOT


@pytest.fixture
def benchmark(monkeypatch):
    """Return a function that imports a script of the benchmarks."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return import_module


def test_every_part_runs_and_gives_figures(benchmark):
    everything = benchmark("all")
    for part, rows in zip(everything.PARTS, everything.measure(everything.PARTS, "cpu", True), strict=True):
        assert rows, part
        assert {row.part for row in rows} == {part}
        assert all(math.isfinite(row.value) for row in rows)
        named = {(row.work, row.contestant) for row in rows}
        assert len(named) == len(rows), "no two lines are of the same"
        assert all((row.work, row.against) in named for row in rows if row.against)


def test_the_page_is_what_the_csv_gives(benchmark):
    table, parts = benchmark("table"), benchmark("all").PARTS
    page = table.PAGE.read_text()
    assert table.fill_in(page, table.read()) == page, "run benchmarks/all.py --page"
    assert all(f"<!-- table: {part} -->" in page for part in parts), "every part has its place"


def test_a_goal_that_is_missed_says_by_how_much_and_why(benchmark):
    measuring, table = benchmark("measuring"), benchmark("table")
    goal = measuring.Goal(2.0, why="it is slow")
    rows = measuring.compare("part", "work", {"a": [1.0, 1.0, 4.0], "b": [2.0, 3.0, 4.0]}, goals={"b": goal})
    assert [row.ratio for row in rows] == [1.0, 2.0]
    lines = [table.to_line(row, "a processor", 0.0) for row in rows]
    assert [line["reached"] for line in lines] == ["", "yes"]
    slow = measuring.compare("part", "work", {"a": [1.0], "b": [3.0]}, goals={"b": goal})[1]
    found = table.make_goals([table.to_line(slow, "a processor", 0.0)])
    assert found.splitlines()[-1] == "| part | work | b | 3 of a | <= 2 | missed by 50 %: it is slow |"


def test_new_figures_take_the_place_of_the_same_parts_on_the_same_device(benchmark):
    table = benchmark("table")
    old = [{"device": d, "part": p, "value": "1"} for d in ("card", "cpu") for p in ("one", "two")]
    merged = table.merge(old, [{"device": "cpu", "part": "one", "value": "2"}])
    assert [(line["device"], line["part"], line["value"]) for line in merged] == [
        ("card", "one", "1"),
        ("card", "two", "1"),
        ("cpu", "one", "2"),
        ("cpu", "two", "1"),
    ]
