"""Files of results as a user reads them, collected and averaged."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from divconq_pl.app.results import (
    average_over_seeds,
    check_published,
    collect_runs,
    describe_selection,
    name_selection,
    write_json,
)
from divconq_pl.errors import InputError


def run(name: str, *overrides: str, train: float | None = None, **numbers: float) -> dict[str, Any]:
    seconds = {} if train is None else {"train/seconds": train}
    return {"name": name, "overrides": list(overrides), **{f"test/{k}": v for k, v in numbers.items()}, **seconds}


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
    for text, why in (('{"recall_at_1": 0.', "Expecting"), ("[1, 2]", "it holds a JSON list")):
        (tmp_path / "3" / "results.json").write_text(text)
        with pytest.raises(InputError, match=rf"3' is no folder of a finished run: its results\.json .* \({why}"):
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


@pytest.mark.parametrize(
    ("figures", "message"),
    [
        ({"recall_at_1": 0.9}, "needs a source and figures"),
        ({"source": "Table 3"}, "needs a source and figures"),
        ({"source": "Table 3", "recall": 0.9}, r"published\.recall is not a metric"),
        ({"source": "Table 3", "recall_at_1": 87.22}, r"published\.recall_at_1=87\.22 must be a fraction"),
        ({"source": "Table 3", "nmi": "0.9"}, r"published\.nmi=0\.9 must be a fraction"),
    ],
)
def test_published_figures_that_make_no_sense_are_refused(figures: dict[str, Any], message: str):
    with pytest.raises(InputError, match=message):
        check_published(figures)


def test_nothing_published_adds_nothing():
    assert check_published(None) == {}


def test_a_heading_says_how_epochs_were_chosen():
    assert name_selection("val", validated=True) == "validation"
    assert name_selection("test", validated=True) == "best_test_epoch"
    assert name_selection("test", validated=False) == name_selection(None, validated=False) == "last_epoch"
    rows = [{"selection": name} for name in ("last_epoch", "validation", "last_epoch")]
    assert describe_selection(rows) == "best epoch by validation; last epoch"
    assert "inflates" in describe_selection([{"selection": "best_test_epoch"}])
    assert describe_selection([{}]) == ""
