"""What several processes know, put together; and their end."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.utilities.distributed import DistributedSamplerWrapper
from pytorch_lightning.strategies.launchers import _SubprocessScriptLauncher
from torch import Tensor


def gather_strided(pl_module: pl.LightningModule, rows: Tensor) -> Tensor:
    """Put the rows of all processes together, where process r of W has rows r, r + W, r + 2W, ..."""
    gathered = pl_module.all_gather(rows)
    assert isinstance(gathered, Tensor)
    return gathered.transpose(0, 1).reshape(-1, *rows.shape[1:])


def gather_objects(own: Any) -> list[Any]:
    """Return what each process gave, in the order of their ranks."""
    gathered: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(gathered, own)
    return gathered


def gather_strided_objects(rows: list[Any]) -> list[Any]:
    """Put the entries of all processes together, as :func:`gather_strided` does."""
    return [row for together in zip(*gather_objects(rows), strict=True) for row in together]


def unwrap_sampler(sampler: Any) -> Any:
    """Return the user's sampler inside the one by which the Trainer shares its images among processes."""
    inside: Any = getattr(sampler, "dataset", None)
    return inside._sampler if isinstance(sampler, DistributedSamplerWrapper) else sampler


@contextmanager
def ending_processes(trainer: pl.Trainer) -> Iterator[None]:
    """Wait at the end for processes that a Trainer has started, and leave their group, so that others can be started.

    After an exception they are killed: they may wait for this process forever. Lightning's observer, which would kill
    this process along with them, is left nothing to observe.

    Args:
        trainer: the Trainer, whose fits and predictions are inside.
    """
    failed = True
    try:
        yield
        failed = False
    finally:
        launcher = trainer.strategy.launcher
        if isinstance(launcher, _SubprocessScriptLauncher) and launcher.procs:
            started = launcher.procs[:]
            if failed:
                launcher.procs.clear()
                for process in started:
                    process.send_signal(signal.SIGKILL)
            for process in started:
                process.wait()
            launcher.procs.clear()
            if torch.distributed.is_initialized():
                torch.distributed.destroy_process_group()
