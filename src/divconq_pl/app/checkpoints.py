"""What train.py adds to its checkpoints, and how a training goes on from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from omegaconf import DictConfig, OmegaConf

from divconq_pl.errors import InputError
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


def find_newest(path: str | Path, key: str = "ckpt_path") -> Path:
    """Return the checkpoint of a run that was written last, if a path is that of its folder, and the path if not.

    That of the best epoch is taken only if there is no other.

    Args:
        path: a file, the folder of a run, or its folder ``checkpoints``.
        key: what the user calls it.

    Raises:
        InputError: if the folder holds no checkpoint.
    """
    path = Path(path)
    if not path.is_dir():
        return path
    found = [*path.glob("*.ckpt"), *(path / "checkpoints").glob("*.ckpt")]
    if not found:
        raise InputError(f"{key}={str(path)!r} holds no checkpoint; give the folder of a run, or a file")
    return max(found, key=lambda file: (file.stem != "best", file.stat().st_mtime_ns))


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
        {key: value for key, value in _flatten(config).items() if key.startswith(_SETTINGS)} for config in (before, now)
    )
    return compare_settings(old, new)


def _flatten(config: Any, name: str = "") -> dict[str, Any]:
    if not isinstance(config, dict):
        return {name: config}
    return {k: v for key, part in config.items() for k, v in _flatten(part, f"{name}.{key}".lstrip(".")).items()}
