"""Check what a configuration says about paths, and whether it is complete, without importing what it names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from divconq_pl.app.comparison import find_checkpoints
from divconq_pl.errors import InputError
from divconq_pl.inference.finding import check_is_file, find_newest

_INSTEAD = {
    "download": "; dataset.download=true fetches it, if it can be fetched",
    "name": "; dataset.name={root} would look for it on the Hub",
}
"""What else helps where a folder is missing, by a key that the data set has."""


def check_training(config: DictConfig) -> None:
    """Refuse a training from which something is missing.

    Args:
        config: conf/train.yaml, as the user changed it.

    Raises:
        InputError: it names the key, or the path that does not exist.
    """
    _check_complete(config, but="num_classes")
    _check_root(config)
    if isinstance(config.get("ckpt_path"), str):
        check_is_file(find_newest(config.ckpt_path), "ckpt_path")
    if OmegaConf.select(config, "callbacks.early_stopping") and OmegaConf.select(config, "data.validate_on") is None:
        raise InputError("callbacks=early_stopping needs validations to stop by; use it with selection=validation")


def check_evaluation(config: DictConfig) -> None:
    """Refuse an evaluation from which something is missing.

    Args:
        config: conf/evaluate.yaml, as the user changed it.

    Raises:
        InputError: it names the key, or the path that does not exist.
    """
    if OmegaConf.is_missing(config, "checkpoint"):
        raise InputError("no checkpoint given; use checkpoint=PATH, a run leaves its own in its folder 'checkpoints'")
    _check_complete(config)
    _check_root(config)
    given = list(config.checkpoint) if isinstance(config.checkpoint, ListConfig) else [config.checkpoint]
    if all(isinstance(path, str) for path in given):
        for path in find_checkpoints(given):
            check_is_file(path, "checkpoint")


def check_search(config: DictConfig) -> None:
    """Refuse a search from which something is missing.

    Args:
        config: conf/search.yaml, as the user changed it.

    Raises:
        InputError: it names the key.
    """
    if OmegaConf.is_missing(config, "index"):
        raise InputError("no index given; use index=FOLDER, with checkpoint=PATH images=FOLDER to build it")


def check_exporting(config: DictConfig) -> None:
    """Refuse to export nothing.

    Args:
        config: conf/export.yaml, as the user changed it.

    Raises:
        InputError: it names the key.
    """
    if OmegaConf.is_missing(config, "checkpoint"):
        raise InputError("no checkpoint given; use checkpoint=PATH, the folder of a run or a file in its 'checkpoints'")


def _check_complete(config: DictConfig, but: str = "") -> None:
    plain: Any = OmegaConf.to_container(config, resolve=False)
    for key in _list_missing(plain):
        if key != but:
            raise InputError(f"{key} is not given; add {key}=... to the command")


def _list_missing(node: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in node.items():
        if isinstance(value, dict):
            yield from _list_missing(value, f"{prefix}{key}.")
        elif value == "???":
            yield f"{prefix}{key}"


def _check_root(config: DictConfig) -> None:
    """Refuse a data set of this package whose files are not there, unless it is to be downloaded."""
    dataset = config.get("dataset")
    if not isinstance(dataset, DictConfig) or not str(dataset.get("_target_")).startswith("divconq_pl."):
        return
    root = dataset.get("root")
    if not isinstance(root, str) or dataset.get("download") or (path := Path(root).expanduser()).exists():
        return
    there = next(parent for parent in path.absolute().parents if parent.exists())
    missed = path.absolute().relative_to(there).parts[0]
    instead = "".join(text.format(root=root) for key, text in _INSTEAD.items() if key in dataset)
    raise InputError(f"dataset.root={root!r} does not exist: there is no {missed!r} in {str(there)!r}{instead}")
