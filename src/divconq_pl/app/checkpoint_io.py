"""Checkpoints that are whole or not there."""

from __future__ import annotations

import io
from typing import Any

import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO

from divconq_pl.files import write_atomically


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write a checkpoint under a temporary name beside it, then rename: a run that is killed leaves the last one whole.

    Lightning's own goes by the folder for temporary files. Where that is on another disk, the file is copied to its
    place, over the last one; and a refused permission is passed over in silence.

    Example:
        >>> trainer = pl.Trainer(plugins=[AtomicCheckpointIO()])  # doctest: +SKIP
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write a checkpoint.

        Args:
            checkpoint: what :func:`torch.save` takes.
            path: where to; a remote one, such as ``s3://...``, is left to Lightning.
            storage_options: taken by no local file.

        Raises:
            OSError: if it cannot be written; it names the file, which is what it was before.
        """
        if storage_options is not None or "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        buffer = io.BytesIO()  # since torch makes a RuntimeError of a full disk
        torch.save(checkpoint, buffer)
        write_atomically(path, lambda file: file.write(buffer.getbuffer()))
