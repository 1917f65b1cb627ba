"""Divide and Conquer (Sanakoyeu et al., TPAMI 2021) for any PyTorch Lightning project and metric-learning loss."""

from typing import Any

from divconq_pl.core.division import Division
from divconq_pl.core.masks import LearnedSubspaces
from divconq_pl.core.sampling import ClusterBatchSampler
from divconq_pl.core.schedule import ConquerScheduler, Stage
from divconq_pl.core.subspaces import FixedSubspaces, RandomSubspaces, Subspaces, ZeroedSubspaces
from divconq_pl.errors import InputError
from divconq_pl.lightning.batch_norm import RenewBatchNorm
from divconq_pl.lightning.callback import DivideConquerCallback
from divconq_pl.lightning.module import DivideConquerModule
from divconq_pl.lightning.resume import ExactResume
from divconq_pl.losses.miners import DistanceWeightedMiner

__version__ = "0.1.0"

__all__ = [
    "ClusterBatchSampler",
    "ConquerScheduler",
    "DistanceWeightedMiner",
    "DivideConquerCallback",
    "DivideConquerModule",
    "Division",
    "ExactResume",
    "FixedSubspaces",
    "InputError",
    "LearnedSubspaces",
    "RandomSubspaces",
    "RenewBatchNorm",
    "Stage",
    "Subspaces",
    "ZeroedSubspaces",
    "load",
]


def __getattr__(name: str) -> Any:
    if name == "load":  # which needs more than the base package
        from divconq_pl.inference import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
