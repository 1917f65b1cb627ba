"""The study's runs can be made, and the page says what its CSV says."""

import runpy
import statistics
import sys

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from programs import ROOT

STUDY = ROOT / "benchmarks" / "study"
CONF = str(ROOT / "conf")


@pytest.fixture
def study(monkeypatch):
    """Return what a script of the study defines."""
    monkeypatch.syspath_prepend(str(STUDY))
    yield lambda name: runpy.run_path(str(STUDY / f"{name}.py"))
    sys.modules.pop("rows", None)


def test_every_row_composes_and_its_division_can_be_made(study):
    rows = study("rows")["all_rows"]()
    assert len(rows) > 30
    with initialize_config_dir(CONF, version_base="1.3"):
        for row in rows:
            cfg = compose("train", [*row.overrides, "seed=1"])
            if cfg.divide:
                instantiate(cfg.divide)


def test_every_row_has_its_rival_in_its_table(study):
    rows = study("rows")["all_rows"]()
    assert len({(row.group, row.name) for row in rows}) == len(rows)
    assert all((row.group, row.rival) in {(other.group, other.name) for other in rows} for row in rows)


def test_what_has_its_line_is_not_run_again_and_first_seeds_come_first(study):
    find_jobs, rows = study("run")["find_jobs"], study("rows")["all_rows"]()
    done = [{"overrides": " ".join(rows[0].overrides), "seed": "0"}]
    jobs = find_jobs(done, ["sides"], None, 2)
    asked = [(job.overrides, seed) for job, seed in jobs]
    assert (rows[0].overrides, 0) not in asked
    assert (rows[0].overrides, 1) in asked
    assert len(asked) == len(set(asked))
    assert [seed for _, seed in asked] == sorted(seed for _, seed in asked)


def test_an_interval_is_students(study):
    mean, half = study("tables")["interval"]([1.0, 2.0, 4.0, 5.0])
    assert mean == 3.0
    assert half == pytest.approx(3.182 * statistics.stdev([1, 2, 4, 5]) / 2, rel=1e-3)


def test_the_page_is_what_the_csv_gives(study):
    tables = study("tables")
    page = (ROOT / "docs" / "results.md").read_text()
    assert page.count("<!-- table: ") >= 3
    assert tables["fill_in"](page, tables["read_results"]()) == page, "run benchmarks/study/tables.py"


def test_steps_are_counted_to_the_first_epoch_that_reaches_the_plain_runs_end(study):
    tables, rows = study("tables"), study("rows")["all_rows"]()
    plain, fixed = (row for row in rows if row.group == "sides" and row.name in ("plain", "fixed subspaces"))
    curves = {plain.key: ".1 .4 .3", fixed.key: ".1 .2 .3"}
    measured = ("recall_at_1", "map_at_r", "last_recall_at_1", "last_map_at_r")
    line = {**dict.fromkeys(measured, ".5"), "pairs_kept": "", "train_seconds": "9"}
    results = {(key, 0): {**line, "val_recall_at_1": curve} for key, curve in curves.items()}
    shown = [row.split(" | ") for row in tables["make_table"](results, "sides").splitlines()]
    assert [row[shown[0].index("steps")] for row in shown[2:]] == ["67 %", "100 %"]
    results[fixed.key, 0]["val_recall_at_1"] = ".1 .2 .2"
    assert "| never |" in tables["make_table"](results, "sides").splitlines()[3]


def test_networks_that_are_trained_apart_have_a_line_of_their_own(study):
    rows = study("rows")["all_rows"]()
    (apart,) = (row for row in rows if row.networks > 1)
    assert apart.key == "dataset=sides divide=none module.embedding_dim=32 networks=4"
    assert len({row.key for row in rows if row.group == "sides"}) == len([row for row in rows if row.group == "sides"])
