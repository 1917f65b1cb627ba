"""Divide and Conquer (Sanakoyeu et al., TPAMI 2021) for any PyTorch Lightning project and metric-learning loss."""

from divconq_pl.callback import DivideConquerCallback
from divconq_pl.division import Division
from divconq_pl.errors import InputError
from divconq_pl.module import DivideConquerModule
from divconq_pl.sampling import ClusterBatchSampler
from divconq_pl.schedule import ConquerScheduler, Stage
from divconq_pl.subspaces import FixedSubspaces, LearnedSubspaces, Subspaces

__version__ = "0.1.0"

__all__ = [
    "ClusterBatchSampler",
    "ConquerScheduler",
    "DivideConquerCallback",
    "DivideConquerModule",
    "Division",
    "FixedSubspaces",
    "InputError",
    "LearnedSubspaces",
    "Stage",
    "Subspaces",
]
