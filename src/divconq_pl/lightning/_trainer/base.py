"""The two names Lightning goes by, and the strategies that cannot be trained with."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytorch_lightning as pl

from divconq_pl.errors import InputError

if TYPE_CHECKING or find_spec("lightning") is None:
    CallbackBase = pl.Callback
else:  # a callback that the Trainers of both packages take
    from lightning.pytorch import Callback as _MirrorCallback

    class CallbackBase(pl.Callback, _MirrorCallback):
        """The callback base class of both Lightning packages."""


REFUSED_STRATEGIES = {
    "FSDPStrategy": "which cuts parameters into pieces",
    "DeepSpeedStrategy": "which steps its own optimiser",
    "ModelParallelStrategy": "which cuts parameters into pieces",
    "XLAStrategy": "whose devices do not give the state of their random numbers",
    "SingleDeviceXLAStrategy": "whose devices do not give the state of their random numbers",
}
"""Strategies that divide and conquer cannot be trained with, by class name, subclasses included, and why."""


def check_strategy(trainer: pl.Trainer) -> None:
    """Refuse a strategy under which a loss's own weights cannot be narrowed, or an exact resume is impossible.

    Raises:
        InputError: for FSDP, DeepSpeed, model parallelism and XLA.
    """
    strategy = type(trainer.strategy)
    for cls in strategy.__mro__:
        if cls.__name__ in REFUSED_STRATEGIES:
            raise InputError(
                f"strategy {strategy.__name__}, {REFUSED_STRATEGIES[cls.__name__]}, does not go together with "
                "divide-and-conquer; use strategy='ddp' or 'ddp_spawn', or a single device"
            )
