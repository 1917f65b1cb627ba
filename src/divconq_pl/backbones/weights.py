"""Trained weights from files, without unpickling anything."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.utils import consume_prefix_in_state_dict_if_present

from divconq_pl.errors import InputError

_PLACES = ("state_dict", "model")


def looks_like_path(weights: str) -> bool:
    """Tell the path of a file from a name such as ``DEFAULT``."""
    return bool(Path(weights).suffix) or os.sep in weights or Path(weights).is_file()


def read_state_dict(path: str | Path) -> dict[str, Any]:
    """Read the state dict of a network, or of a :class:`.Backbone` or a data-parallel module around it.

    It may lie in a checkpoint: in one of ours or of Lightning, of which the backbone is taken, or under ``state_dict``
    or ``model``, where other trainings keep it.

    Args:
        path: a file of torch.save, or one that ends in ``.safetensors``; nothing in it is run.

    Raises:
        InputError: if there is no such file, or it is incomplete or holds something else.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise InputError(f"weights={str(path)!r} does not exist; give the path of a file")
    try:
        loaded = _read(path)
    except Exception as error:  # an incomplete file makes the unpickler fail in many ways
        raise InputError(
            f"{path} is not a complete file of torch.save(network.state_dict(), ...): {shorten_error(error)}"
        ) from error
    if not isinstance(loaded, Mapping):
        raise InputError(f"{path} holds a {type(loaded).__name__}, not a state dict")
    state = dict(next((loaded[key] for key in _PLACES if isinstance(loaded.get(key), Mapping)), loaded))
    consume_prefix_in_state_dict_if_present(state, "module.")
    if own := {key: value for key, value in state.items() if key.startswith("backbone.")}:
        state = own  # without the embedding layer and what a loss has learned
    for wrapper in ("backbone.", "network."):
        consume_prefix_in_state_dict_if_present(state, wrapper)
    return state


def _read(path: Path) -> Any:
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file  # comes with timm, whose files these are

        return load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)


def drop_layers(state: Mapping[str, Any], parts: tuple[str, ...]) -> dict[str, Any]:
    """Leave out the weights of some layers, by name."""
    return {key: value for key, value in state.items() if not key.startswith(tuple(f"{part}." for part in parts))}


def load_weights(network: nn.Module, state: Mapping[str, Any], path: str | Path) -> None:
    """Load a state dict that must fit.

    Args:
        network: what to load it into.
        state: name -> tensor.
        path: where it comes from.

    Raises:
        InputError: if it does not fit; it names the first differences.
    """
    if found := find_differences(state, network.state_dict()):
        raise InputError(
            f"{path} does not hold the weights of this network: {'; '.join(found[:3])} "
            f"({len(found)} differences in all)"
        )
    network.load_state_dict(state)


def find_differences(state: Mapping[str, Any], expected: Mapping[str, Tensor]) -> list[str]:
    """List where names or shapes are not the expected ones."""
    # Files from before PyTorch 0.4.1 have no num_batches_tracked; loading fills it in.
    missing = [key for key in expected if key not in state and not key.endswith("num_batches_tracked")]
    shapes = {key: tuple(getattr(value, "shape", ())) for key, value in state.items()}
    return [
        *(f"{key} is missing" for key in missing),
        *(f"{key} is not part of it" for key in state if key not in expected),
        *(
            f"{key} is {shape}, not {tuple(expected[key].shape)}"
            for key, shape in shapes.items()
            if key in expected and shape != expected[key].shape
        ),
    ]


def shorten_error(error: BaseException) -> str:
    """Return the first line of an error of another library."""
    return (str(error) or type(error).__name__).splitlines()[0]
