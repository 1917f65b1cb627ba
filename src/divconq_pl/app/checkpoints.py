"""Read a checkpoint of train.py back into a network that embeds images."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import torch
from hydra.utils import get_object, instantiate
from torch import nn

from divconq_pl.app.command import CONFIG_KEY
from divconq_pl.errors import InputError
from divconq_pl.lightning.module import DivideConquerModule

TRUSTED = ("divconq_pl.data.", "divconq_pl.backbones.")
"""Where lies what a checkpoint may name to be built; anything else has to be named by the user."""

_SETTINGS = ("seed", "data.", "module.", "trainer.")
"""What makes a difference to a training; the division's own settings are compared by the callback."""

_OF_THE_OPTIMISER = tuple(
    f"module.{name}"
    for name in (
        "optimizer.",
        "lr_scheduler",
        "embedding_lr_factor",
        "loss_lr_factor",
        "loss_weight_decay_factor",
    )
)


def read_checkpoint(path: str | Path, key: str = "checkpoint") -> dict[str, Any]:
    """Read a checkpoint that train.py wrote, without unpickling anything.

    Args:
        path: the file.
        key: what the user calls it.

    Returns:
        Its content; under :data:`CONFIG_KEY` the configuration of the run.

    Raises:
        InputError: if there is no such file, or it is no checkpoint of train.py.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{key}={str(path)!r} is no file; a run leaves its checkpoints in its folder 'checkpoints'")
    try:
        with ZipFile(path) as file:
            if (entry := file.testzip()) is not None:  # torch itself would take other numbers for weights
                raise BadZipFile(entry)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file makes torch raise whatever the unpickler stumbles over
        raise InputError(
            f"{key}={str(path)!r} is damaged or no checkpoint of train.py; it cannot be read safely"
        ) from error
    if not isinstance(content, dict) or not all(isinstance(content.get(k), dict) for k in (CONFIG_KEY, "state_dict")):
        raise InputError(f"{key}={str(path)!r} holds no configuration; it must be one that train.py wrote")
    return content


@contextmanager
def explained_by(path: str | Path) -> Iterator[None]:
    """Put down what goes wrong with the content of a checkpoint to the file, which another version may have written.

    Raises:
        InputError: if an entry is missing or of another kind.
    """
    try:
        yield
    except InputError:
        raise
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise InputError(
            f"checkpoint={str(path)!r} is not what this version of train.py writes: "
            f"{type(error).__name__}: {error}; name dataset=... and backbone=... yourself, or train anew"
        ) from error


def build_trusted(config: dict[str, Any], name: str) -> Any:
    """Build what a checkpoint describes, if it is a part of this package.

    Raises:
        InputError: if it names anything else; a file must not choose what code is run.
    """
    return instantiate(check_trusted(config, name))


def check_trusted(config: Any, name: str) -> Any:
    """Return a part of a checkpoint's configuration, if all it names to be built is a part of this package.

    Raises:
        InputError: as :func:`build_trusted`.
    """
    for target in _targets(config):
        if not _is_trusted(target):
            raise InputError(
                f"the checkpoint names {target} for its {name}, which is not a part of divconq-pl; give it "
                f"yourself with {name}=..."
            )
    return config


def load_embedder(content: dict[str, Any], backbone: nn.Module | None = None) -> DivideConquerModule:
    """Build the network of a checkpoint and load its weights; the loss is left out.

    Args:
        content: what :func:`read_checkpoint` returned.
        backbone: the backbone, if it is not one of this package.

    Raises:
        InputError: if the weights do not fit the network, by name.
    """
    config = content[CONFIG_KEY]["module"]
    backbone = backbone or build_trusted({**config["backbone"], **_without_download(config["backbone"])}, "backbone")
    module = DivideConquerModule(backbone, config["embedding_dim"], nn.Identity(), recall_ks=tuple(config["recall_ks"]))
    weights = {k: v for k, v in content["state_dict"].items() if k.startswith(("backbone.", "embedding."))}
    check_fit(module, weights)
    module.load_state_dict(weights)
    return module


def compare_configs(before: Any, now: Any) -> str | None:
    """Refuse a configuration that would not have the effect it promises, when a run goes on.

    Args:
        before: the configuration of the run that wrote the checkpoint.
        now: that of the run that goes on.

    Returns:
        What else is different, for the user to know, or None.

    Raises:
        InputError: if the optimiser's settings differ, which come from the checkpoint.
    """
    old, new = _flat(before), _flat(now)
    changed = {
        key: f"{key}={new.get(key)} instead of {old.get(key)}"
        for key in sorted({*old, *new})
        if key.startswith(_SETTINGS) and old.get(key) != new.get(key)
    }
    if fixed := [said for key, said in changed.items() if key.startswith(_OF_THE_OPTIMISER)]:
        raise InputError(
            f"the optimiser goes on with the settings in the checkpoint, so {', '.join(fixed)} would have no effect; "
            "leave them as they were"
        )
    return f"the run goes on with other settings than before: {', '.join(changed.values())}" if changed else None


def _flat(config: Any, name: str = "") -> dict[str, Any]:
    if not isinstance(config, dict):
        return {name: config}
    return {k: v for key, part in config.items() for k, v in _flat(part, f"{name}.{key}".lstrip(".")).items()}


def check_fit(module: nn.Module, weights: dict[str, Any]) -> None:
    """Refuse weights that are not those of a module.

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


def _is_trusted(target: str) -> bool:
    if not target.startswith(TRUSTED):
        return False
    try:
        part = get_object(target)
    except ImportError:  # a part of another version
        return False
    # A module of ours also has what it imports: divconq_pl.data.glyphs.os is not a part of this package.
    return f"{getattr(part, '__module__', '')}.".startswith(TRUSTED)


def _without_download(backbone: dict[str, Any]) -> dict[str, Any]:
    """Leave out pretrained weights: those of the checkpoint replace them."""
    return {"weights": None} if "weights" in backbone else {}


def _targets(config: Any) -> Iterator[str]:
    if isinstance(config, dict):
        if "_target_" in config:
            yield config["_target_"]
        for value in config.values():
            yield from _targets(value)
    elif isinstance(config, list):
        for value in config:
            yield from _targets(value)
