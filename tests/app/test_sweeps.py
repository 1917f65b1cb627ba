"""The table of a sweep: settings, repetitions, differences, and its files."""

import csv
import io
import json
import re

import pytest
from scipy import stats

from divconq_pl.app.plots import gains
from divconq_pl.app.sweeps import is_sweep, lay_out, report_sweep, summarise, write_csv, write_latex, write_markdown
from divconq_pl.errors import InputError

PLAIN, FLAT = [0.50, 0.52, 0.54], [0.60, 0.63, 0.68]


def run(recall, *overrides, **numbers):
    results = {"test/recall_at_1": recall, "test/map_at_r": recall / 2, "overrides": list(overrides), "name": "0"}
    return {**results, "epoch": 3, "last/epoch": 5, "train/seconds": 250.0, **numbers}


@pytest.fixture
def runs():
    """Two losses, plain and divided, three seeds each; and a divided setting with no plain run beside it."""
    found = [
        run(value + shift, f"loss={loss}", f"divide={divide}", f"seed={seed}")
        for loss, shift in (("a_b", 0.0), ("b", 0.1))
        for divide, values in (("none", PLAIN), ("flat", FLAT))
        for seed, value in enumerate(values)
    ]
    return [*found, run(0.9, "loss=c", "divide=flat", "seed=0")]


def body(rows):
    return {tuple(cells[:2]): cells for cells in lay_out(rows, "title").cells}


def test_each_setting_has_mean_deviation_and_its_paired_difference(runs):
    rows = summarise(runs)
    interval = stats.ttest_rel(FLAT, PLAIN).confidence_interval(0.95)
    low, high = 100 * interval.low, 100 * interval.high
    cells = body(rows)
    assert list(cells) == [("a_b", "none"), ("a_b", "flat"), ("b", "none"), ("b", "flat"), ("c", "flat")]
    assert cells["a_b", "flat"][2] == "63.67 ±4.04"
    assert cells["a_b", "flat"][3] == f"**+11.7 [{low:+.1f}, {high:+.1f}]**"
    assert cells["a_b", "none"][3] == cells["c", "flat"][3] == "-"
    assert cells["b", "flat"][-1] == "3"


def test_a_difference_over_fewer_pairs_than_runs_says_so(runs):
    rows = summarise([r for r in runs if r["overrides"] != ["loss=b", "divide=none", "seed=2"]])
    assert body(rows)["b", "flat"][3].endswith(", 2 seeds")


def test_repetitions_are_seeds_and_folds_in_whatever_order_they_were_given():
    rows = summarise([run(0.5, "dataset.fold=0", "divide=none"), run(0.7, "divide=none", "dataset.fold=1")])
    assert [row["runs"] for row in rows] == [2]
    assert rows[0]["test/recall_at_1"] == pytest.approx(0.6)


def test_columns_that_say_nothing_are_left_out():
    table = lay_out(summarise([{"test/recall_at_1": 0.5, "overrides": ["loss=a"], "name": "0"}]), "title")
    assert table.headings == ["run", "R@1", "runs"]
    assert table.notes == ["all with loss=a"]


def test_markdown_and_latex_hold_the_same_cells(runs):
    table = lay_out(summarise(runs), "100 % of it")
    markdown, latex = write_markdown(table), write_latex(table)
    lines = [line.strip("|").split("|") for line in markdown.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + 5
    assert {len(line) for line in lines} == {len(table.headings)}
    tabular = latex[latex.index(r"\begin") :]
    assert tabular.count(r"\\") == 1 + 5
    assert {line.count(" & ") for line in tabular.splitlines() if line.endswith(r"\\")} == {len(table.headings) - 1}
    assert r"a\_b & flat & 63.67 $\pm$4.04 & \textbf{+11.7 [" in tabular
    assert re.findall(r"\\\w+rule", tabular) == [r"\toprule", r"\midrule", r"\bottomrule"]
    assert all(line.startswith("%") for line in latex[: latex.index(r"\begin")].splitlines())


def test_csv_holds_the_unrounded_numbers(runs):
    rows = list(csv.DictReader(io.StringIO(write_csv(summarise(runs)))))
    assert [row["loss"] for row in rows] == ["a_b", "a_b", "b", "b", "c"]
    interval = stats.ttest_rel(FLAT, PLAIN).confidence_interval(0.95)
    assert float(rows[1]["gain/recall_at_1_low"]) == pytest.approx(interval.low)
    assert float(rows[1]["gain/recall_at_1_high"]) == pytest.approx(interval.high)
    assert float(rows[1]["test/recall_at_1"]) == pytest.approx(sum(FLAT) / 3)
    assert rows[0]["gain/recall_at_1"] == ""


def test_the_figure_shows_each_run_its_mean_and_the_interval(runs):
    rows = summarise(runs)
    left, right = gains([" ".join(row["overrides"]) for row in rows], rows, runs).axes
    points = [line for line in left.lines if line.get_marker() == "o"]
    assert [sorted(line.get_xdata()) for line in points][1] == pytest.approx([100 * value for value in FLAT])
    ((x0, _), (x1, _)) = right.collections[0].get_segments()[0]
    interval = stats.ttest_rel(FLAT, PLAIN).confidence_interval(0.95)
    assert (x0, x1) == pytest.approx((100 * interval.low, 100 * interval.high))
    assert len(gains(["c"], rows[-1:], runs[-1:]).axes) == 1


def test_runs_without_results_are_named_with_why(tmp_path, capsys):
    for name, overrides in enumerate((["seed=0", "loss=a"], ["seed=1", "loss=a"], ["seed=2", "loss=a"])):
        (tmp_path / str(name) / ".hydra").mkdir(parents=True)
        (tmp_path / str(name) / ".hydra" / "overrides.yaml").write_text("".join(f"- {text}\n" for text in overrides))
    with pytest.raises(InputError, match=r"no run of .* has finished yet"):
        report_sweep([tmp_path], tmp_path)
    (tmp_path / "0" / "results.json").write_text(json.dumps(run(0.5, "seed=0", "loss=a")))
    (tmp_path / "2" / "failure.json").write_text(json.dumps({"message": "it fell over", "code": 2}))
    assert is_sweep(tmp_path)
    assert not is_sweep(tmp_path / "0")
    report_sweep([tmp_path], tmp_path / "elsewhere")
    out = capsys.readouterr().out
    assert f"not in the table: {tmp_path / '1'} (seed=1): stopped" in out
    assert f"not in the table: {tmp_path / '2'} (seed=2): it fell over" in out
    assert {path.name for path in (tmp_path / "elsewhere").iterdir()} == {
        f"sweep.{s}" for s in ("md", "tex", "csv", "png")
    }
