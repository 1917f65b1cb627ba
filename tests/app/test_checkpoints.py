"""What may change when a training goes on, and from which checkpoint it does."""

import os

import pytest

from divconq_pl import InputError
from divconq_pl.app.checkpoints import compare_configs
from divconq_pl.inference.finding import find_newest

RUN = {
    "seed": 0,
    "module": {"optimizer": {"lr": 0.1}, "loss": {"margin": 0.2}, "parameter_groups": {"loss": {"lr": None}}},
    "trainer": {"max_epochs": 3},
    "checkpoint": {"dirpath": "a"},
}


def test_a_run_goes_on_with_the_same_settings_elsewhere():
    assert compare_configs(RUN, {**RUN, "checkpoint": {"dirpath": "b"}, "ckpt_path": "a/last.ckpt"}) is None


def test_what_changes_is_said():
    now = {**RUN, "trainer": {"max_epochs": 4}, "module": {**RUN["module"], "loss": {"margin": 0.2, "beta": 1}}}
    said = "module.loss.beta=1 instead of None, trainer.max_epochs=4 instead of 3"
    assert compare_configs(RUN, now).endswith(f": {said}")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"optimizer": {"lr": 0.2}}, "module.optimizer.lr=0.2 instead of 0.1"),
        ({"parameter_groups": {"loss": {"lr": 0.5}}}, "module.parameter_groups.loss.lr=0.5 instead of None"),
    ],
)
def test_a_change_without_effect_is_refused(change, message):
    with pytest.raises(InputError, match=f"so {message} would have no effect"):
        compare_configs(RUN, {**RUN, "module": {**RUN["module"], **change}})


def test_the_folder_of_a_run_stands_for_its_newest_checkpoint(tmp_path):
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    with pytest.raises(InputError, match=r"ckpt_path='.*checkpoints' holds no checkpoint"):
        find_newest(run / "checkpoints")
    for age, name in enumerate(["best", "interrupted", "last"]):  # the best is the youngest
        (run / "checkpoints" / f"{name}.ckpt").touch()
        os.utime(run / "checkpoints" / f"{name}.ckpt", (1000 - age, 1000 - age))
    assert find_newest(run) == find_newest(run / "checkpoints") == run / "checkpoints" / "interrupted.ckpt"
    assert find_newest(run / "checkpoints" / "last.ckpt") == run / "checkpoints" / "last.ckpt"
    for name in ("interrupted", "last"):
        (run / "checkpoints" / f"{name}.ckpt").unlink()
    assert find_newest(run) == run / "checkpoints" / "best.ckpt"
    assert find_newest("no such folder").name == "no such folder"  # which reading it says
