"""Folders that nothing came of, and commands to go on with."""

import shlex
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from divconq_pl.app.going_on import begin_folder, close_folders, end_sweep, spell_run, spell_sweep

SOURCES = [{"provider": "main", "path": "x"}, {"provider": "command-line", "path": "/my conf"}]
GIVEN = {"task": ["divide=none,flat", "loss='a b'"], "hydra": ["hydra.mode=MULTIRUN", "hydra/launcher=joblib"]}
HYDRA = OmegaConf.create(
    {
        "overrides": GIVEN,
        "runtime": {"config_sources": SOURCES},
        "job": {"config_name": "train"},
        "sweep": {"dir": "sweeps/one"},
    }
)


@pytest.fixture(autouse=True)
def program(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train.py"])


def test_a_run_is_spelled_whole_with_the_users_own_configurations():
    typed = shlex.split(spell_run(HYDRA, "ckpt_path=last.ckpt"))
    assert typed == ["python", "train.py", "--config-dir=/my conf", *HYDRA.overrides.task, "ckpt_path=last.ckpt"]


def test_what_a_run_went_on_from_before_is_replaced(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/bin/divconq-train"])
    hydra = OmegaConf.merge(
        HYDRA, {"overrides": {"task": ["ckpt_path=old", "seed=1"]}, "runtime": {"config_sources": []}}
    )
    assert spell_run(hydra, "ckpt_path=new") == "divconq-train seed=1 ckpt_path=new"


def test_a_sweep_is_spelled_with_its_launcher_and_folder():
    typed = shlex.split(spell_sweep(HYDRA))
    assert typed[2:4] == ["--config-dir=/my conf", "-m"]
    assert typed[4:] == [*HYDRA.overrides.task, "hydra/launcher=joblib", "hydra.sweep.dir=sweeps/one"]


def test_a_folder_that_nothing_came_of_is_removed_with_those_made_for_it(tmp_path):
    (tmp_path / "mine").mkdir()
    begin_folder(tmp_path / "mine" / "a" / "b")
    for place in (".hydra", "csv", "0/.hydra", "0/tensorboard"):
        (tmp_path / "mine/a/b" / place).mkdir(parents=True)
    (tmp_path / "mine/a/b/0/train.log").touch()
    close_folders()
    assert list(tmp_path.iterdir()) == [tmp_path / "mine"]
    assert not list((tmp_path / "mine").iterdir())


@pytest.mark.parametrize("kept", ["0/checkpoints/last.ckpt", "results.json", "0/own.txt"])
def test_a_folder_that_holds_something_is_kept_and_a_stopped_sweep_told(tmp_path, capsys, kept):
    begin_folder(tmp_path / "a", "the command")
    (tmp_path / "a" / "0" / ".hydra").mkdir(parents=True)
    (tmp_path / "a" / kept).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "a" / kept).touch()
    close_folders()
    assert (tmp_path / "a" / kept).is_file()
    assert capsys.readouterr().out == "the sweep was stopped; go on with: the command\n"


def test_what_was_there_before_is_never_removed(tmp_path):
    (tmp_path / "notes.log").touch()
    assert begin_folder(tmp_path) == [tmp_path / "notes.log"]
    (tmp_path / ".hydra").mkdir()
    close_folders()
    assert (tmp_path / "notes.log").is_file()


def test_a_sweep_that_came_to_its_end_has_nothing_to_go_on_with(tmp_path, capsys):
    begin_folder(tmp_path / "a", "the command")
    Path(tmp_path / "a" / "sweep.md").touch()
    end_sweep()
    close_folders()
    assert capsys.readouterr().out == ""
