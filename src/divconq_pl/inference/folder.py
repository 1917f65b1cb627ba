"""A network in a folder that others can read: its weights as safetensors, beside what is needed to build it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from divconq_pl.errors import InputError
from divconq_pl.extras import require_packages
from divconq_pl.inference.checkpoints import CONFIG_KEY, for_embedding
from divconq_pl.inference.embedder import Embedder

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"


def write_weights(embedder: Embedder, folder: Path) -> Path:
    """Write the weights of a network and what is needed to build it; :func:`read_folder` reads both.

    Of the configuration of the run, only what an embedding needs is kept, and no path of the machine it ran on.

    Returns:
        The file of the weights.
    """
    from safetensors.torch import save

    weights = {name: value.cpu().contiguous() for name, value in embedder.module.state_dict().items()}
    (folder / WEIGHTS_FILE).write_bytes(save(weights, metadata={"format": "pt"}))
    text = json.dumps({CONFIG_KEY: for_embedding(embedder.config)}, indent=2, ensure_ascii=False)
    (folder / CONFIG_FILE).write_text(text + "\n", encoding="utf-8")
    return folder / WEIGHTS_FILE


def is_folder(path: Path) -> bool:
    """Tell whether a path is that of a folder that :func:`write_weights` wrote to."""
    return (path / CONFIG_FILE).is_file() and (path / WEIGHTS_FILE).is_file()


def read_folder(folder: Path, key: str) -> dict[str, Any]:
    """Read what :func:`write_weights` wrote, as :func:`.read_checkpoint` reads a checkpoint.

    Args:
        folder: the folder.
        key: what the user calls it.

    Raises:
        InputError: if a file is damaged.
        ModuleNotFoundError: without safetensors.
    """
    require_packages("a folder of safetensors", "export", "safetensors")
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))[CONFIG_KEY]
        weights = load_file(folder / WEIGHTS_FILE)
    except (OSError, ValueError, LookupError, TypeError, SafetensorError) as error:
        raise InputError(f"{key}={str(folder)!r} is damaged: {type(error).__name__}: {error}") from error
    return {CONFIG_KEY: config, "state_dict": weights}
