"""What train.py adds to its checkpoints, and how a training goes on from them."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
from omegaconf import DictConfig, OmegaConf

from divconq_pl.app.results import flatten
from divconq_pl.inference.checkpoints import CONFIG_KEY
from divconq_pl.lightning.continuity import compare_settings

_SETTINGS = ("seed", "data.", "module.", "trainer.")
"""What makes a difference to a training; the division's own settings are compared by the callback."""


class KeepConfig(pl.Callback):
    """Keep the configuration of a run in its checkpoints, so that one file is enough to evaluate it.

    Args:
        config: the configuration of the run.
    """

    def __init__(self, config: DictConfig) -> None:
        self._config = OmegaConf.to_container(config, resolve=True)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the configuration to a checkpoint."""
        checkpoint[CONFIG_KEY] = self._config


def compare_configs(before: Any, now: Any) -> str | None:
    """Compare the configuration of a run that resumes with that of its checkpoint.

    Args:
        before: the configuration of the run that wrote the checkpoint.
        now: the configuration of the run that resumes.

    Returns:
        Which settings differ, in words; None if none do.

    Raises:
        InputError: for what may not change, see :func:`.compare_settings`.
    """
    old, new = (
        {key: value for key, value in flatten(config).items() if key.startswith(_SETTINGS)} for config in (before, now)
    )
    return compare_settings(old, new)
