"""Divide and Conquer (Sanakoyeu et al., TPAMI 2021) for any PyTorch Lightning project and metric-learning loss."""

from typing import TYPE_CHECKING

from divconq_pl.lazy import import_when_used

if TYPE_CHECKING:
    from divconq_pl.core.division import Division as Division
    from divconq_pl.core.masks import LearnedSubspaces as LearnedSubspaces
    from divconq_pl.core.sampling import ClusterBatchSampler as ClusterBatchSampler
    from divconq_pl.core.schedule import ConquerScheduler as ConquerScheduler
    from divconq_pl.core.schedule import Stage as Stage
    from divconq_pl.core.subspaces import FixedSubspaces as FixedSubspaces
    from divconq_pl.core.subspaces import RandomSubspaces as RandomSubspaces
    from divconq_pl.core.subspaces import Subspaces as Subspaces
    from divconq_pl.core.subspaces import ZeroedSubspaces as ZeroedSubspaces
    from divconq_pl.errors import InputError as InputError
    from divconq_pl.inference.loading import load as load
    from divconq_pl.lightning.batch_norm import RenewBatchNorm as RenewBatchNorm
    from divconq_pl.lightning.callback import DivideConquerCallback as DivideConquerCallback
    from divconq_pl.lightning.module import DivideConquerModule as DivideConquerModule
    from divconq_pl.lightning.resume import ExactResume as ExactResume
    from divconq_pl.losses.miners import DistanceWeightedMiner as DistanceWeightedMiner
else:
    __getattr__, __dir__, __all__ = import_when_used(__name__)

__version__ = "0.1.0"
