"""All random numbers that a training draws."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch

from divconq_pl.lightning._trainer.loaders import living_workers, users_loaders


def peek() -> int:
    """Return a number that depends on torch's random numbers at this moment, without drawing any."""
    twin = torch.Generator()
    twin.set_state(torch.get_rng_state())
    return int(torch.randint(2**62, (), generator=twin))


def random_state(trainer: pl.Trainer) -> dict[str, Any]:
    """Return the state of all random numbers a training draws: Python's, NumPy's, torch's, and the loaders' own.

    It holds plain values and tensors only, so that it is read back with ``weights_only=True``.
    """
    kind, keys, *rest = np.random.get_state(legacy=True)
    device = trainer.strategy.root_device
    return {
        "python": random.getstate(),
        "numpy": (kind, torch.from_numpy(np.asarray(keys, dtype=np.int64)), *rest),
        "torch": torch.get_rng_state(),
        "device": None if device.type == "cpu" else torch.get_device_module(device).get_rng_state(device),
        "loaders": [generator.get_state() for generator in _generators(trainer)],
        "workers": living_workers(trainer),
    }


def set_random_state(trainer: pl.Trainer, state: dict[str, Any]) -> None:
    """Set what :func:`random_state` returned, as far as there are such devices and loaders."""
    device = trainer.strategy.root_device
    random.setstate(state["python"])
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if device.type != "cpu" and state["device"] is not None:
        torch.get_device_module(device).set_rng_state(state["device"], device)
    for generator, loaders in zip(_generators(trainer), state["loaders"], strict=False):
        generator.set_state(loaders)


def _generators(trainer: pl.Trainer) -> list[torch.Generator]:
    """Return the generators that the training loaders were given, each once."""
    parts = [part for loader in users_loaders(trainer) for part in (loader, *_samplers(loader))]
    found = (getattr(part, "generator", None) for part in parts)
    return list({id(generator): generator for generator in found if isinstance(generator, torch.Generator)}.values())


def _samplers(loader: Any) -> list[Any]:
    batch_sampler = getattr(loader, "batch_sampler", None)
    return [getattr(loader, "sampler", None), batch_sampler, getattr(batch_sampler, "sampler", None)]
