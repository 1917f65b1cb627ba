"""What happens when a process that loads images dies."""

from __future__ import annotations

import signal
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.utilities import rank_zero_warn


class NoticeDeadWorkers(pl.Callback):
    """Let the death of a worker be noticed between two batches, so that a checkpoint written for it is whole and exact.

    torch raises an error from a signal handler, wherever the training is at that moment: in the middle of an
    optimiser's step, or of the very checkpoint that is written because the loader has noticed it first. Without the
    handler the loader notices within 5 seconds, when it waits for the worker.
    """

    def __init__(self) -> None:
        self._handler: Any = None

    def on_train_batch_start(self, *_: Any) -> None:
        """Put torch's handler aside; it is there once there are workers."""
        if hasattr(signal, "SIGCHLD") and callable(handler := signal.getsignal(signal.SIGCHLD)):
            self._handler = handler
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Say what a broken connection to a worker means."""
        if isinstance(exception, ConnectionError | EOFError):
            rank_zero_warn("a process that loads images has died, most often because memory ran out")

    def teardown(self, *_: Any, **__: Any) -> None:
        """Put the handler back."""
        if self._handler is not None:
            signal.signal(signal.SIGCHLD, self._handler)
            self._handler = None
