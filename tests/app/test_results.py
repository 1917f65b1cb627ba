"""Tables, files and log lines as a user reads them."""

from __future__ import annotations

import io
import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from divconq_pl.app.results import (
    average_over_seeds,
    collect_runs,
    how_chosen,
    print_results,
    published,
    selection,
    write_json,
)
from divconq_pl.core.summary import division_line
from divconq_pl.errors import InputError


def run(name: str, *overrides: str, train: float | None = None, **numbers: float) -> dict[str, Any]:
    seconds = {} if train is None else {"train/seconds": train}
    return {"name": name, "overrides": list(overrides), **{f"test/{k}": v for k, v in numbers.items()}, **seconds}


def printed(rows: list[dict[str, Any]], width: int = 80, terminal: bool = False) -> str:
    file = io.StringIO()
    console = Console(file=file, width=width, force_terminal=terminal, color_system=None)
    print_results(rows, console=console)
    return file.getvalue()


def test_json_is_flat_sorted_and_plain(tmp_path: Path):
    path = write_json(
        tmp_path / "deep" / "results.json",
        {
            "test": {"recall_at_1": torch.tensor(0.5), "nmi": math.nan},
            "epochs": np.int64(3),
            "folder": Path("runs"),
            "overrides": ["loss=margin", np.float32(0.25)],
            "best": math.inf,
            "none": None,
        },
    )
    assert list(json.loads(path.read_text()).items()) == [
        ("best", None),
        ("epochs", 3),
        ("folder", "runs"),
        ("none", None),
        ("overrides", ["loss=margin", 0.25]),
        ("test.nmi", None),
        ("test.recall_at_1", 0.5),
    ]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = write_json(tmp_path / "results.json", {"a": 1})

    def full_disk(descriptor: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="no space"):
        write_json(path, {"a": 2})
    assert json.loads(path.read_text()) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_runs_are_collected_in_the_order_of_their_numbers(tmp_path: Path):
    for name in ("10", "2", "0"):
        write_json(tmp_path / name / "results.json", {"recall_at_1": int(name) / 100})
    (tmp_path / "1").mkdir()  # a run that did not finish
    (tmp_path / "multirun.yaml").write_text("")
    assert collect_runs(tmp_path) == [
        {"name": "0", "recall_at_1": 0.0},
        {"name": "2", "recall_at_1": 0.02},
        {"name": "10", "recall_at_1": 0.1},
    ]


def test_broken_results_are_named(tmp_path: Path):
    with pytest.raises(InputError, match="nowhere"):
        collect_runs(tmp_path / "nowhere")
    (tmp_path / "3").mkdir()
    file = tmp_path / "3" / "results.json"
    for text in ('{"recall_at_1": 0.', "[1, 2]"):
        file.write_text(text)
        with pytest.raises(InputError, match=r"3.results\.json"):
            collect_runs(tmp_path)


def test_runs_that_differ_only_in_the_seed_are_averaged():
    rows = [
        run("0", "loss=margin", "seed=0", recall_at_1=0.60, train=10),
        run("1", "loss=triplet", "seed=0", recall_at_1=0.50, train=20),
        run("2", "loss=margin", "seed=1", recall_at_1=0.64, train=14),
        run("3", "seed=2", "loss=margin", recall_at_1=0.62, train=12),
    ]
    margin, triplet = average_over_seeds(rows)
    assert margin["overrides"] == ["loss=margin"]
    assert margin["runs"] == 3
    assert margin["test/recall_at_1"] == pytest.approx(0.62)
    assert margin["test/recall_at_1_std"] == pytest.approx(0.02)
    assert margin["train/seconds_std"] == pytest.approx(2)
    assert triplet == {**rows[1], "runs": 1}


def test_averages_keep_to_the_runs_that_have_a_number():
    rows = [
        {**run("0", "seed=0", nmi=0.5, map_at_r=0.25), "dataset": "glyphs"},
        {**run("1", "seed=1", map_at_r=0.75), "test/nmi": None, "dataset": "glyphs"},
    ]
    (both,) = average_over_seeds(rows)
    assert both["test/nmi"] == 0.5
    assert "test/nmi_std" not in both
    assert both["test/map_at_r"] == 0.5
    assert both["dataset"] == "glyphs"
    assert "name" not in both


def test_runs_without_overrides_stay_apart():
    assert len(average_over_seeds([{"recall_at_1": 0.1}, {"recall_at_1": 0.1}])) == 2


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
    text = printed([{**run("mine", "loss=margin", recall_at_1=0.5, map_at_r=0.25), **published(PAPER)}])
    heading = next(line.split() for line in text.splitlines() if "R@1" in line)
    assert heading == ["run", "R@1", "MAP@R", "R-prec", "mARP"]
    assert row_of(text, "mine") == ["50.00", "25.00", "-", "-"]
    assert row_of(text, "TPAMI 2021, table 3") == ["87.22", "-", "-", "65.54"]
    assert "loss=margin" in text


def test_published_figures_of_several_runs_are_shown_once_and_not_averaged():
    rows = [
        {**run(str(i), f"loss={'ab'[i // 2]}", f"seed={i}", recall_at_1=0.5 + i / 100), **published(PAPER)}
        for i in range(4)
    ]
    text = printed(average_over_seeds(rows))
    assert text.count("TPAMI 2021, table 3") == 1
    assert row_of(text, "TPAMI 2021, table 3")[:2] == ["-", "87.22"]  # a column for the loss
    assert "87.22 ±" not in text
    assert [line.split()[:2] for line in text.splitlines() if "±" in line] == [["run", "a"], ["run", "b"]]


def test_numbers_stay_whole_beside_a_long_source():
    source = "Improving Deep Metric Learning by Divide and Conquer, TPAMI 2021, table 3, learned masks"
    metrics = {f"recall_at_{k}": 0.6123 for k in (1, 2, 4, 8)}
    text = printed([{**run("mine", **metrics), **published({**PAPER, "source": source})}], terminal=True)
    assert text.count("61.23") == 4
    assert "87.22" in text
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize(
    ("figures", "message"),
    [
        ({"recall_at_1": 0.9}, "needs a source and figures"),
        ({"source": "Table 3"}, "needs a source and figures"),
        ({"source": "Table 3", "recall": 0.9}, r"published\.recall is no metric"),
        ({"source": "Table 3", "recall_at_1": 87.22}, r"published\.recall_at_1=87\.22 must be a fraction"),
        ({"source": "Table 3", "nmi": "0.9"}, r"published\.nmi=0\.9 must be a fraction"),
    ],
)
def test_published_figures_that_make_no_sense_are_refused(figures: dict[str, Any], message: str):
    with pytest.raises(InputError, match=message):
        published(figures)


def test_nothing_published_adds_nothing():
    assert published(None) == {}


def test_metrics_of_other_protocols_are_told_apart():
    text = printed([run("vehicles", recall_at_1=0.95, reid_recall_at_1=0.77, reid_recall_at_5=0.9, marp=0.6, nmi=0.5)])
    assert row_of(text, "vehicles") == ["95.00", "-", "-", "60.00", "50.00", "77.00", "90.00"]
    heading = next(line for line in text.splitlines() if "R@1" in line)
    assert " ".join(heading.split()) == "run R@1 MAP@R R-prec mARP NMI re-id R@1 re-id R@5"


def test_a_heading_says_how_epochs_were_chosen():
    assert selection("val", validated=True) == "validation"
    assert selection("test", validated=True) == "best_test_epoch"
    assert selection("test", validated=False) == selection(None, validated=False) == "last_epoch"
    rows = [{"selection": name} for name in ("last_epoch", "validation", "last_epoch")]
    assert how_chosen(rows) == "best epoch by validation; last epoch"
    assert "inflates" in how_chosen([{"selection": "best_test_epoch"}])
    assert how_chosen([{}]) == ""


def test_an_empty_table_is_refused():
    with pytest.raises(InputError, match="no run"):
        print_results([])


def test_a_division_is_one_line():
    summary = {
        "number": 3,
        "epoch": 6,
        "sizes": [212, 198, 187, 151],
        "classes": [64, 60, 58, 49],
        "moved": 31,
        "left_out": 2,
        "nmi": 0.8712,
        "parents": [0, 0, 1, 1],
        "seconds_features": 0.91,
        "seconds_kmeans": 12.3,
        "seconds_rest": 0.021,
    }
    assert division_line(summary) == (
        "division 3 | epoch 6 | 4 clusters: 212 198 187 151 images, 64 60 58 49 classes | "
        "31 images moved, 2 lone images left out, NMI 0.87 | features 0.9 s, k-means 12 s, rest 0.02 s"
    )


def test_a_division_says_only_what_is_known():
    summary = {"epoch": 0, "sizes": [5], "classes": [2], "moved": 1, "left_out": 0, "nmi": None}
    assert division_line(summary) == "division | epoch 0 | 1 cluster: 5 images, 2 classes | 1 image moved"


def test_many_clusters_stay_on_one_readable_line():
    summary = {"epoch": 8, "sizes": list(range(100, 132)), "classes": [7] * 31 + [90], "moved": 0, "nmi": 1.0}
    line = division_line(summary)
    assert "32 clusters: 100 / 116 / 131 images, 7 / 7 / 90 classes (min / median / max)" in line
    assert len(line) < 160
