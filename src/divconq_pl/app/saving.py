"""Save checkpoints: whole or not at all, and the best epoch of a run wherever it continues."""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO
from pytorch_lightning.utilities import rank_zero_warn

from divconq_pl.files import write_atomically


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write a checkpoint under a temporary name beside it, then rename: a run that is killed leaves the last one whole.

    Lightning's own writes to the folder for temporary files first. Where that is on another disk, the file is copied
    over the last checkpoint; and a refused permission is ignored in silence.

    Example:
        >>> trainer = pl.Trainer(plugins=[AtomicCheckpointIO()])  # doctest: +SKIP
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write a checkpoint.

        Args:
            checkpoint: what :func:`torch.save` takes.
            path: the file; a remote one, such as ``s3://...``, is left to Lightning.
            storage_options: for remote files only.

        Raises:
            OSError: if it cannot be written; it names the file, which keeps its old content.
        """
        if storage_options is not None or "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        buffer = io.BytesIO()  # since torch makes a RuntimeError of a full disk
        torch.save(checkpoint, buffer)
        write_atomically(path, lambda file: file.write(buffer.getbuffer()))


class CarriedCheckpoint(ModelCheckpoint):
    """A ModelCheckpoint that takes the best epoch along when a run continues in another folder.

    Without that, the best epoch of the second part would count as that of the whole run. The file is expected beside
    the checkpoint that the run resumes from. An exception before the first training step saves nothing: a Trainer that
    is still restoring a checkpoint would save weights from the middle of a training with counters from its beginning.
    """

    _resumed_from: Path | None = None
    _step = 0
    _has_trained = False

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Note which checkpoint a fit resumes from."""
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
            except Exception as error:  # torch raises all kinds of exceptions for a damaged file
                rank_zero_warn(
                    f"{str(old)!r} cannot be read ({error}); the best epoch is chosen from those that are still to come"
                )
                return
            if best["global_step"] <= self._step:  # a run may be killed before the others know of its best epoch
                state_dict = best["callbacks"][self.state_key]
            with old.open("rb") as file:
                write_atomically(new, lambda copy: shutil.copyfileobj(file, copy))
            here = {"dirpath": self.dirpath, "best_model_path": str(new), "kth_best_model_path": str(new)}
            score = {"best_k_models": {str(new): state_dict["best_model_score"]}, "last_model_path": ""}
            super().load_state_dict({**state_dict, **here, **score})

    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """Note that there is something to save, and save it when it is due."""
        self._has_trained = True
        super().on_train_batch_end(*args, **kwargs)

    def on_exception(self, *args: Any, **kwargs: Any) -> None:
        """Save what was trained so far."""
        if self._has_trained:
            super().on_exception(*args, **kwargs)


def read_epoch(path: str | Path) -> int:
    """Return the epoch after which a checkpoint was written, counted from 0, without reading its weights."""
    return int(torch.load(path, map_location="cpu", weights_only=True, mmap=True)["epoch"])
