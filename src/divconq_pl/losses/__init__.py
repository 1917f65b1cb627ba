"""Losses and miners of pytorch-metric-learning, on the part of the embedding that a learner sees."""

from typing import TYPE_CHECKING

from divconq_pl.lazy import import_when_used

if TYPE_CHECKING:
    from divconq_pl.losses.miners import DistanceWeightedMiner as DistanceWeightedMiner
else:
    __getattr__, __dir__, __all__ = import_when_used(__name__)
