"""A checkpoint of train.py back into a network, without running anything that it holds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import torch
from torch import nn

from divconq_pl.errors import InputError
from divconq_pl.inference.finding import check_is_file
from divconq_pl.inference.trust import build_trusted
from divconq_pl.lightning.module import DivideConquerModule

CONFIG_KEY = "divconq_pl_config"
"""Where a checkpoint keeps the configuration of its run."""

_OF_MODULE = ("embedding_dim", "recall_ks")


def read_checkpoint(path: str | Path, key: str = "checkpoint") -> dict[str, Any]:
    """Read a checkpoint that train.py wrote, without unpickling anything.

    Args:
        path: the file.
        key: what the user calls it.

    Returns:
        Its content; under :data:`CONFIG_KEY` the configuration of the run.

    Raises:
        InputError: if there is no such file, or train.py did not write it.
    """
    path = Path(path)
    check_is_file(path, key)
    try:
        with ZipFile(path) as file:
            if (entry := file.testzip()) is not None:  # torch itself would take other numbers for weights
                raise BadZipFile(entry)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises all kinds of exceptions for a damaged file
        raise InputError(
            f"{key}={str(path)!r} is damaged or not a checkpoint of train.py; it cannot be read safely"
        ) from error
    entries = content if isinstance(content, dict) else {}
    parts = [entries.get(name) for name in (CONFIG_KEY, "state_dict")]
    if not all(isinstance(part, dict) for part in parts) or not _is_plain(parts[0]):
        raise InputError(f"{key}={str(path)!r} holds no configuration; it must be one that train.py wrote")
    return entries


def _is_plain(value: Any) -> bool:
    """Tell whether a value is what a YAML file may hold."""
    if isinstance(value, dict):
        return all(isinstance(key, str | int | float) and _is_plain(inner) for key, inner in value.items())
    if isinstance(value, list):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


@contextmanager
def refuse_odd_entries(path: str | Path) -> Iterator[None]:
    """Name the checkpoint when using its content fails, as it may if another version has written it.

    Args:
        path: the file of the checkpoint.

    Raises:
        InputError: if an entry is missing or of another kind than expected.
    """
    try:
        yield
    except InputError:
        raise
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise InputError(
            f"checkpoint={str(path)!r} is not what this version of train.py writes: "
            f"{type(error).__name__}: {error}; name dataset=... and backbone=... yourself, or train again"
        ) from error


def load_embedder(content: dict[str, Any], backbone: nn.Module | None = None) -> DivideConquerModule:
    """Build the network of a checkpoint and load its weights; the loss is left out.

    Args:
        content: what :func:`read_checkpoint` returned.
        backbone: the backbone, if it is not one of this package.

    Raises:
        InputError: if the weights do not fit the network; it names them.
    """
    config = content[CONFIG_KEY]["module"]
    backbone = backbone or build_trusted(_untrained(config["backbone"]), "backbone")
    module = DivideConquerModule(backbone, config["embedding_dim"], nn.Identity(), recall_ks=tuple(config["recall_ks"]))
    weights = {k: v for k, v in content["state_dict"].items() if k.startswith(("backbone.", "embedding."))}
    check_fit(module, weights)
    module.load_state_dict(weights)
    return module


def check_fit(module: nn.Module, weights: dict[str, Any]) -> None:
    """Refuse weights that are not those of a module.

    Args:
        module: the module that is to load them.
        weights: a state dict.

    Raises:
        InputError: it names the first few that do not fit.
    """
    own = module.state_dict()
    unfit = [
        *(f"{name} is missing" for name in own if name not in weights),
        *(f"{name} is unknown" for name in weights if name not in own),
        *(
            f"{name} has shape {tuple(weights[name].shape)} instead of {tuple(value.shape)}"
            for name, value in own.items()
            if name in weights and weights[name].shape != value.shape
        ),
    ]
    if unfit:
        more = f" and {len(unfit) - 3} more" if len(unfit) > 3 else ""
        raise InputError(f"the checkpoint does not fit {type(module).__name__}: {', '.join(unfit[:3])}{more}")


def for_embedding(config: dict[str, Any]) -> dict[str, Any]:
    """Return the part of a run's configuration that building its network and reading its images needs."""
    module, data = config["module"], config["data"]
    source = data["dataset"] if isinstance(data.get("dataset"), dict) else {}
    return {
        "channels": config["channels"],
        "image_size": config.get("image_size"),
        "module": {**{key: module[key] for key in _OF_MODULE}, "backbone": _untrained(module["backbone"])},
        "data": {
            "test_transform": data.get("test_transform"),
            "dataset": {key: source[key] for key in ("white_level", "max_megapixels") if key in source},
        },
    }


def _untrained(backbone: dict[str, Any]) -> dict[str, Any]:
    """Tell a backbone to load no trained weights, which those of the checkpoint replace, and to keep no gradients."""
    without = {"weights": None, "grad_checkpointing": False}
    return backbone | {key: value for key, value in without.items() if key in backbone}
