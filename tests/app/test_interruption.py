"""Ctrl-C stops between two batches."""

import os
import signal

import pytest
import pytorch_lightning as pl
from toys import PlainModule, loader, trainer

from divconq_pl.app.interruption import StopBetweenBatches


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
