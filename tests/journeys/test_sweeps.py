"""Sweeps as a user runs them: with runs that fail, stopped and gone on with, by other launchers, and searches."""

import csv
import json
import os
import re
import shlex
from pathlib import Path

import pytest
from programs import ROOT, contents, refusal

from divconq_pl.app.comparing import main

LIGHT = str(ROOT / "tests" / "helpers" / "light_program.py")
GRID = ["-m", "divide=none,flat", "seed=0,1", "hydra.sweep.dir=sweep"]
PAGE = (ROOT / "docs" / "sweeps.md").read_text()
COMMANDS = [line for block in re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]
TINY = ["dataset=glyphs", "dataset.num_classes=24", "dataset.size=16", "dataset.images_per_class=8"]
TINY += ["data.batch_size=16", "trainer.enable_progress_bar=false", "trainer.accelerator=cpu", "logger=csv"]
QUICK = [*TINY, "trainer.max_epochs=2", "divide.split_depth=1", "divide.every_n_epochs=1"]


@pytest.fixture
def broken(tmp_path):
    """While this file is there, runs fail and stop as they are told."""
    path = tmp_path / "broken"
    path.touch()
    return path


def calls(folder):
    file = folder / "calls.txt"
    found = file.read_text().split("\n")[:-1] if file.exists() else []
    file.unlink(missing_ok=True)
    return sorted(found)


def typed(text):
    """Return the arguments of a command that a program told its user to type."""
    return shlex.split(re.search(rf"python {re.escape(LIGHT)} (.*)", text)[1])


def test_a_failing_run_leaves_the_others_alone_and_is_run_again_by_the_command_that_is_told(call, tmp_path, broken):
    code, out, err = call(LIGHT, *GRID, "failing=flat0")
    assert code == 2
    assert calls(tmp_path) == ["flat0 None", "flat1 None", "none0 None", "none1 None"]
    assert "not in the table: sweep/2 (divide=flat seed=0): flat0 cannot work" in out
    assert err.splitlines()[-1].startswith("error: 1 run of the sweep did not finish; to try again: ")
    assert "Traceback" not in out + err

    broken.unlink()
    code, out, err = call(LIGHT, *typed(err))
    assert code == 0, err
    assert calls(tmp_path) == ["flat0 None"]
    assert "going on with the sweep in sweep: 3 finished, 1 failed, 0 stopped" in out
    assert re.search(r"^ flat +60\.50 ±0\.71 +\+10\.5 \[\+4\.1, \+16\.9\]", out, re.MULTILINE), out
    assert {path.suffix for path in (tmp_path / "sweep").glob("sweep.*")} == {".md", ".tex", ".csv", ".png"}


@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_so_it_is_with_other_launchers(call, tmp_path, broken, launcher):
    pytest.importorskip(f"hydra_plugins.hydra_{launcher.partition('_')[0]}_launcher")
    options = {"joblib": "hydra.launcher.n_jobs=2", "submitit_local": "hydra.launcher.timeout_min=2"}
    sweep = ["-m", "divide=none,flat", "failing=flat0", GRID[-1], f"hydra/launcher={launcher}", options[launcher]]
    code, out, err = call(LIGHT, *sweep)
    assert code == 2
    assert calls(tmp_path) == ["flat0 None", "none0 None"]
    assert "not in the table: sweep/1 (divide=flat): flat0 cannot work" in out
    broken.unlink()
    code, out, err = call(LIGHT, *typed(err))
    assert code == 0, err
    assert calls(tmp_path) == ["flat0 None"]
    assert re.search(r"^ flat +60\.00 +\+10\.0 ", out, re.MULTILINE), out


def test_a_stopped_sweep_goes_on_where_it_was(call, tmp_path, broken):
    code, out, _ = call(LIGHT, *GRID, "stopping=none1")
    assert code == 130
    assert calls(tmp_path) == ["none0 None", "none1 None"]
    broken.unlink()
    code, again, err = call(LIGHT, *typed(out))
    assert code == 0, err
    assert calls(tmp_path) == ["flat0 None", "flat1 None", "none1 last.ckpt"]
    assert "1 finished, 0 failed, 1 stopped" in again
    assert f"run 1 goes on from {tmp_path / 'sweep' / '1' / 'checkpoints' / 'last.ckpt'}" in again
    before = contents(tmp_path / "sweep" / "0" / "results.json")
    assert call(LIGHT, *typed(out))[0] == 0
    assert calls(tmp_path) == []
    assert contents(tmp_path / "sweep" / "0" / "results.json") == before


def test_another_sweep_is_not_mixed_with_one_that_is_there(call, tmp_path):
    assert call(LIGHT, *GRID)[0] == 0
    before = contents(tmp_path / "sweep")
    line = refusal(call(LIGHT, "-m", "divide=none,flat", "seed=0,1,2", GRID[-1]))
    assert "the sweep in 'sweep' was started with 'divide=none,flat seed=0,1'; give the same" in line
    assert contents(tmp_path / "sweep") == before


@pytest.mark.parametrize("arguments", [["seed=0"], ["-m", "seed=0,1"], ["-m", "seed=x,y"]], ids=" ".join)
def test_a_start_that_fails_leaves_no_folder(call, tmp_path, broken, arguments):
    folders = [f"hydra.run.dir={tmp_path}/a/b", f"hydra.sweep.dir={tmp_path}/a/b"]
    assert call(LIGHT, *arguments, "failing=none0none1nonex", *folders)[0] in (1, 2)
    assert not (tmp_path / "a").exists()


def test_a_fault_of_the_program_is_shown_whole_and_gives_its_own_exit_code(call, tmp_path):
    code, _, err = call(LIGHT, "-m", "divide=none,nothing", GRID[-1])
    assert code == 1
    assert "KeyError: 'nothing'" in err
    assert "Traceback" in err
    assert "KeyError" in json.loads((tmp_path / "sweep" / "1" / "failure.json").read_text())["traceback"]


def test_the_settings_of_a_run_are_gone_with_it(call, tmp_path, monkeypatch):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    environment = dict(os.environ)
    assert call(LIGHT, *GRID)[0] == 0
    assert {**os.environ, "HYDRA_FULL_ERROR": ""} == {**environment, "HYDRA_FULL_ERROR": ""}


def rows(path):
    with Path(path).open(newline="") as file:
        return list(csv.DictReader(file))


def test_training_survives_a_failing_run_and_its_table_has_every_number(call, tmp_path):
    code, out, err = call("train.py", "-m", "module.embedding_dim=31,32", "hydra.sweep.dir=sweep", *QUICK)
    assert code == 2
    assert "error: run 0 of the sweep has failed: an embedding of width 31 cannot be cut into 2" in err
    assert "not in the table: sweep/0 (module.embedding_dim=31): an embedding of width 31" in out
    (row,) = rows(tmp_path / "sweep" / "sweep.csv")
    results = json.loads((tmp_path / "sweep" / "1" / "results.json").read_text())
    for name in ("test/recall_at_1", "val/recall_at_1", "last/val/recall_at_1", "train/seconds"):
        assert float(row[name]) == pytest.approx(results[name])
    notes = json.loads((tmp_path / "sweep" / "1" / "notes.json").read_text())["epochs"]
    assert results["last/val/recall_at_1"] == notes[-1]["metrics"]["val/recall_at_1"]
    assert results["last/epoch"] == 1


def test_optuna_searches_by_validation_and_goes_on_by_repeating_itself(call, tmp_path, broken):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper")
    settings = ["direction=maximize", "n_jobs=1", "sampler.seed=0"]
    search = ["-m", "divide=none,flat", "failing=flat0", "hydra/sweeper=optuna", GRID[-1]]
    search += [f"hydra.sweeper.{text}" for text in settings]
    code, _, _ = call(LIGHT, *search, "hydra.sweeper.n_trials=4")
    assert code == 2
    assert set(calls(tmp_path)) == {"flat0 None", "none0 None"}
    assert "best_value: 0.25" in (tmp_path / "sweep" / "optimization_results.yaml").read_text()
    broken.unlink()
    assert call(LIGHT, *search, "hydra.sweeper.n_trials=4")[0] == 2
    assert calls(tmp_path) == [], "what has failed stays failed, or the search would go elsewhere"
    call(LIGHT, *search, "hydra.sweeper.n_trials=6")
    assert len(calls(tmp_path)) == 2
    line = refusal(call(LIGHT, *search, "hydra.sweeper.sampler.seed=null"))
    assert "has no hydra.sweeper.sampler.seed, so it cannot be repeated" in line
    line = refusal(call(LIGHT, *search, "data.validate_on=test", "hydra.sweep.dir=other"))
    assert "a search chooses by the validation classes" in line
    assert not (tmp_path / "other").exists()


@pytest.mark.slow
def test_runs_of_a_sweep_may_have_several_processes_each(call, tmp_path):
    processes = ["trainer.devices=2", "+trainer.strategy=ddp", "trainer.use_distributed_sampler=false"]
    one = ["trainer.max_epochs=1", "divide=none", "evaluation.map_at_r=false"]
    code, out, err = call("train.py", "-m", "seed=0,1", "hydra.sweep.dir=sweep", *TINY, *one, *processes)
    assert code == 0, err
    assert out.count("everything of this run is in") == 2
    assert {path.name for path in tmp_path.iterdir()} <= {"sweep", "cache"}


def test_the_commands_of_the_page_on_sweeps_do_what_it_says(call, tmp_path):
    """In the order of the page, with runs that take no time; those that name a folder, which others refer to."""
    for line in COMMANDS:
        _, *arguments = shlex.split(line, comments=True)
        if arguments[0] == "-m":
            main(arguments[2:])
        elif "sweeps/" in line:
            code, _, err = call(LIGHT, *arguments[1:])
            assert code == 0, err
    assert len(calls(tmp_path)) == 12 + 8, "the last command finds all of its runs finished"
    for folder, seeds in (("sweeps/losses", 3), ("tables", 5)):
        assert [row["runs"] for row in rows(tmp_path / folder / "sweep.csv")] == [str(seeds)] * 4
