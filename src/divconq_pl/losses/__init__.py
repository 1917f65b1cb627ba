"""Losses and miners of pytorch-metric-learning, on the part of the embedding that a learner sees."""

from divconq_pl.losses.miners import DistanceWeightedMiner

__all__ = ["DistanceWeightedMiner"]
