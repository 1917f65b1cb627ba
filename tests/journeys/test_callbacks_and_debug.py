"""Callbacks that are chosen beside ours, and ways to look for what is wrong, do in a run what their names say."""

import csv
import json
import re
from pathlib import Path

import pytest
import torch
from programs import refusal

from divconq_pl.lightning.module import DivideConquerModule

QUICK = [
    "dataset=glyphs",
    "dataset.num_classes=14",
    "dataset.size=16",
    "dataset.images_per_class=8",
    "data.batch_size=8",
    "data.images_per_class=2",
    "divide={split_depth: 1, every_n_epochs: 1, warmup_epochs: 0, merge_at: null}",
]
CHOSEN = [
    *QUICK,
    "logger=csv",
    "callbacks=[ema,early_stopping,learning_rate_monitor,rich_progress_bar]",
    "callbacks.ema.decay=0.8",
    "callbacks.early_stopping={patience: 2, min_delta: 1}",  # no epoch is better by that much
    "trainer.max_epochs=6",
]


def load(path):
    return torch.load(path, weights_only=True)


def test_chosen_callbacks_work_together_and_resume(call, tmp_path, monkeypatch):
    pytest.importorskip("pytorch_lightning.callbacks.weight_averaging")
    code, out, err = call("train.py", *CHOSEN, "hydra.run.dir=whole")
    assert code == 0, err
    assert "2 learners" in err
    assert "Epoch 2/5" in out
    whole = load(tmp_path / "whole" / "checkpoints" / "last.ckpt")
    assert whole["epoch"] == 2, "it was to stop two epochs after the first"
    with (tmp_path / "whole" / "csv" / "metrics.csv").open() as file:
        rates = [row["lr-Adam/backbone"] for row in csv.DictReader(file) if row["lr-Adam/backbone"]]
    assert rates == ["0.001"] * 3

    best = tmp_path / "whole" / "checkpoints" / "best.ckpt"
    averaged = load(best)
    assert any(
        not torch.equal(value, averaged["current_model_state"][k]) for k, value in averaged["state_dict"].items()
    )
    assert call("evaluate.py", f"checkpoint={best}", "json=evaluated.json")[0] == 0
    evaluated, results = (json.loads(path.read_text()) for path in (Path("evaluated.json"), Path("whole/results.json")))
    tested = {key: value for key, value in evaluated.items() if key.startswith("test/")}
    assert tested == {key: results[key] for key in tested}

    step = DivideConquerModule.training_step

    def interrupted(self, *batch):
        if self.global_step == 5:  # in the middle of the second epoch
            raise KeyboardInterrupt
        return step(self, *batch)

    with monkeypatch.context() as patch:
        patch.setattr(DivideConquerModule, "training_step", interrupted)
        assert call("train.py", *CHOSEN, "hydra.run.dir=part")[0] == 130
    code, _, err = call("train.py", *CHOSEN, "hydra.run.dir=resumed", "ckpt_path=part")
    assert code == 0, err
    resumed = load(tmp_path / "resumed" / "checkpoints" / "last.ckpt")
    assert (resumed["epoch"], resumed["global_step"]) == (2, whole["global_step"])
    for key in ("state_dict", "current_model_state"):
        for name, value in whole[key].items():
            assert torch.equal(resumed[key][name], value), (key, name)


def test_early_stopping_without_a_validation_is_refused(call):
    line = refusal(call("train.py", *QUICK, "callbacks=early_stopping", "selection=last_epoch"))
    assert "callbacks=early_stopping needs validations to stop by" in line


def test_a_fast_run_divides_and_leaves_no_checkpoint(call, tmp_path):
    code, out, err = call("train.py", *QUICK[:-1], "debug=fast_dev_run", "hydra.run.dir=run")
    assert code == 0, err
    assert re.search(r"division 1 \| epoch 0 \| 2 clusters: ", err)
    assert "warning" not in err
    assert "Unseen classes" in out
    assert not list(tmp_path.rglob("*.ckpt"))


def test_a_profile_says_where_the_time_went(call, tmp_path):
    code, out, err = call("train.py", *QUICK[:-1], "debug=profiler", "logger=none", "hydra.run.dir=run")
    assert code == 0, err
    assert re.search(r"\[Callback\]DivideConquerCallback\.on_train_epoch_start .*\|  2 ", out + err)
    assert "FIT Profiler Report" in (tmp_path / "run" / "train.log").read_text()


def test_overfitting_trains_on_the_same_three_batches(call, monkeypatch):
    seen, step = [], DivideConquerModule.training_step

    def watched(self, batch, *rest):
        outcome = step(self, batch, *rest)
        seen.append((batch[0].clone(), float(outcome)))
        return outcome

    monkeypatch.setattr(DivideConquerModule, "training_step", watched)
    short = ["trainer.max_epochs=10", "logger=none", "hydra.run.dir=run"]
    code, _, err = call("train.py", *QUICK[:-1], "debug=overfit", *short)
    assert code == 0, err
    assert len(seen) == 30
    assert all(torch.equal(images, seen[i % 3][0]) for i, (images, _) in enumerate(seen))
    assert not torch.equal(seen[0][0], seen[1][0])
    first, last = (sum(loss for _, loss in part) for part in (seen[:3], seen[-3:]))
    assert last < 0.7 * first
