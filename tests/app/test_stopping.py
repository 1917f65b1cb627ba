"""Stopping between two batches, and going on in another folder."""

import os
import signal
from contextlib import nullcontext

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader
from toys import PlainModule, Vectors, loader, trainer

from divconq_pl.app.stopping import CarriedCheckpoint, StopBetweenBatches


class Press(pl.Callback):
    """Press Ctrl-C in a hook of the third batch."""

    def __init__(self, hook, times=1):
        self.batches, self.times = [], times
        setattr(self, hook, self._press)

    def _press(self, trainer, *_):
        if trainer.global_step == 3 and self.times:
            self.times -= 1
            os.kill(os.getpid(), signal.SIGINT)

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.batches.append(batch_idx)


@pytest.fixture
def interruptible():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def fit(*callbacks):
    fitted = trainer(*callbacks, StopBetweenBatches(), max_epochs=1)
    with pytest.raises(SystemExit):  # what the Trainer makes of Ctrl-C
        fitted.fit(PlainModule(), loader())
    return fitted


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("hook", ["on_after_backward", "on_before_optimizer_step"])
def test_the_step_is_ended_first(hook):
    press = Press(hook)
    assert fit(press).global_step == 4
    assert press.batches == [0, 1, 2, 3]


@pytest.mark.usefixtures("interruptible")
def test_a_second_time_does_not_wait():
    class Twice(Press):
        def on_after_backward(self, trainer, module):
            self._press(trainer)
            self._press(trainer)

    press = Twice("unused", times=2)
    assert fit(press).global_step == 3
    assert press.batches == [0, 1, 2]


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_is_given_back_after_the_training():
    stop = StopBetweenBatches()
    trainer(stop, max_epochs=1).fit(PlainModule(), loader())
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


class Scored(PlainModule):
    """A module that logs scores that were thought out beforehand."""

    def __init__(self, scores):
        super().__init__()
        self.scores = scores

    def validation_step(self, batch, batch_idx):
        self.log("score", self.scores[self.current_epoch])


def train(folder, scores, resume=None):
    options = {"monitor": "score", "mode": "max", "filename": "best", "enable_version_counter": False}
    best = CarriedCheckpoint(folder, **options)
    last = CarriedCheckpoint(folder, filename="last", enable_version_counter=False)
    fitted = trainer(best, last, max_epochs=len(scores), enable_checkpointing=True)
    fitted.fit(Scored(scores), loader(), DataLoader(Vectors(seed=1), batch_size=64), ckpt_path=resume)
    return best, torch.load(folder / "best.ckpt", weights_only=True)["epoch"]


def test_the_best_epoch_of_the_first_part_goes_along(tmp_path):
    train(tmp_path / "first", [0.1, 0.9, 0.3])
    best, epoch = train(tmp_path / "second", [0.1, 0.9, 0.3, 0.5], tmp_path / "first" / "last.ckpt")
    assert (float(best.best_model_score), epoch) == (pytest.approx(0.9), 1)
    assert best.best_model_path == str(tmp_path / "second" / "best.ckpt")


def test_a_better_epoch_takes_its_place(tmp_path):
    train(tmp_path / "first", [0.1, 0.6, 0.3])
    best, epoch = train(tmp_path / "second", [0.1, 0.6, 0.3, 0.7], tmp_path / "first" / "last.ckpt")
    assert (float(best.best_model_score), epoch) == (pytest.approx(0.7), 3)
    assert torch.load(tmp_path / "first" / "best.ckpt", weights_only=True)["epoch"] == 1


@pytest.mark.parametrize("damaged", [True, False])
def test_a_part_whose_best_epoch_is_gone_begins_anew(tmp_path, damaged):
    train(tmp_path / "first", [0.1, 0.9])
    if damaged:
        (tmp_path / "first" / "best.ckpt").write_bytes(b"half a file")
    else:
        (tmp_path / "first" / "best.ckpt").unlink()
    with pytest.warns(match="cannot be read") if damaged else nullcontext():
        best, epoch = train(tmp_path / "second", [0.1, 0.9, 0.3], tmp_path / "first" / "last.ckpt")
    assert (float(best.best_model_score), epoch) == (pytest.approx(0.3), 2)
