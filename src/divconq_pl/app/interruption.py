"""Interruptions wait for the end of a step, so that the checkpoint written then is whole and exact."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.utilities import rank_zero_warn


class StopBetweenBatches(pl.Callback):
    """Let the present step finish when Ctrl-C is pressed, then stop the training.

    A second Ctrl-C does not wait. This callback belongs behind all others.
    """

    def __init__(self) -> None:
        self._handler: Any = None
        self._in_step = self._asked = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Handle Ctrl-C from now on, in the main thread."""
        if threading.current_thread() is threading.main_thread():
            self._handler = signal.signal(signal.SIGINT, self._on_interrupt)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Note that a step begins."""
        self._in_step = True

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop if Ctrl-C was pressed during the step."""
        self._in_step = False
        if self._asked:
            raise KeyboardInterrupt

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Restore the handler of Ctrl-C."""
        self._restore_handler()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Restore the handler of Ctrl-C."""
        self._restore_handler()

    def _on_interrupt(self, signal_number: int, frame: FrameType | None) -> None:
        if not self._in_step or self._asked:
            raise KeyboardInterrupt
        self._asked = True

    def _restore_handler(self) -> None:
        self._in_step = self._asked = False
        if self._handler is not None and signal.getsignal(signal.SIGINT) == self._on_interrupt:
            signal.signal(signal.SIGINT, self._handler)
        self._handler = None


class NoticeDeadWorkers(pl.Callback):
    """Let the loader, not a signal, report that a worker process has died: between two batches.

    torch raises an error from a signal handler, wherever the training is at that moment: in the middle of an
    optimiser's step, or while a checkpoint is written. Without the handler the loader notices within 5 seconds, when
    it waits for the worker.
    """

    def __init__(self) -> None:
        self._handler: Any = None

    def on_train_batch_start(self, *_: Any) -> None:
        """Remove torch's handler, which is set once there are workers."""
        if hasattr(signal, "SIGCHLD") and callable(handler := signal.getsignal(signal.SIGCHLD)):
            self._handler = handler
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Explain a broken connection to a worker."""
        if isinstance(exception, ConnectionError | EOFError):
            rank_zero_warn("a process that loads images has died, most often because memory ran out")

    def teardown(self, *_: Any, **__: Any) -> None:
        """Restore torch's handler."""
        if self._handler is not None:
            signal.signal(signal.SIGCHLD, self._handler)
            self._handler = None
