"""Stop a run so that it can go on: between two batches, and in another folder with its best epoch so far."""

from __future__ import annotations

import shutil
import signal
import threading
import warnings
from pathlib import Path
from types import FrameType
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint

from divconq_pl.files import write_atomically


class StopBetweenBatches(pl.Callback):
    """Let Ctrl-C end the batch that is being trained on first, so that what is saved then is a whole number of steps.

    A second Ctrl-C does not wait. To be put after the other callbacks.
    """

    def __init__(self) -> None:
        self._handler: Any = None
        self._in_step = self._asked = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take Ctrl-C over, where that is possible."""
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
        """Stop, if that was asked for."""
        self._in_step = False
        if self._asked:
            raise KeyboardInterrupt

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Give Ctrl-C back."""
        self._give_back()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Give Ctrl-C back."""
        self._give_back()

    def _on_interrupt(self, signal_number: int, frame: FrameType | None) -> None:
        if not self._in_step or self._asked:
            raise KeyboardInterrupt
        self._asked = True

    def _give_back(self) -> None:
        self._in_step = self._asked = False
        if self._handler is not None and signal.getsignal(signal.SIGINT) == self._on_interrupt:
            signal.signal(signal.SIGINT, self._handler)
        self._handler = None


class CarriedCheckpoint(ModelCheckpoint):
    """A ModelCheckpoint that takes the best epoch along when a run goes on in another folder.

    Without that, the best epoch of the second part would pass for that of the whole run. The file is looked for beside
    the checkpoint that is resumed from. An exception before anything was trained leaves no file: a Trainer that has not
    restored all yet would save weights of the middle of a training with counters of its beginning.
    """

    _resumed_from: Path | None = None
    _step = 0
    _has_trained = False

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Note where the checkpoint lies that a fit goes on from."""
        is_fit = trainer.state.fn == "fit" and trainer.ckpt_path is not None
        self._resumed_from = Path(str(trainer.ckpt_path)) if is_fit else None
        self._step = checkpoint["global_step"]

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the scores, and copy the best checkpoint if it lies in another folder."""
        if state_dict["dirpath"] == self.dirpath:
            super().load_state_dict(state_dict)
        elif self._resumed_from is not None and self.dirpath is not None and self.monitor is not None:
            name = Path(state_dict["best_model_path"] or f"{self.filename}.ckpt").name
            old, new = self._resumed_from.parent / name, Path(self.dirpath) / name
            if not old.is_file():
                return
            try:
                best = torch.load(old, map_location="cpu", weights_only=True)
            except Exception as error:  # a damaged file makes torch raise whatever the unpickler stumbles over
                warnings.warn(f"{str(old)!r} cannot be read ({error}); the best epoch is looked for anew", stacklevel=2)
                return
            if best["global_step"] <= self._step:  # a run may be killed before the others know of its best epoch
                state_dict = best["callbacks"][self.state_key]
            with old.open("rb") as file:
                write_atomically(new, lambda copy: shutil.copyfileobj(file, copy))
            here = {"dirpath": self.dirpath, "best_model_path": str(new), "kth_best_model_path": str(new)}
            score = {"best_k_models": {str(new): state_dict["best_model_score"]}, "last_model_path": ""}
            super().load_state_dict({**state_dict, **here, **score})

    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """Note that there is something to save, and save it if it is time."""
        self._has_trained = True
        super().on_train_batch_end(*args, **kwargs)

    def on_exception(self, *args: Any, **kwargs: Any) -> None:
        """Save what was trained."""
        if self._has_trained:
            super().on_exception(*args, **kwargs)
