"""Draw the negatives of triplets by their distance, as the authors of the method do."""

from __future__ import annotations

import math
from typing import Any

import torch
from pytorch_metric_learning.distances import LpDistance
from pytorch_metric_learning.miners import BaseMiner
from torch import Tensor

from divconq_pl.errors import InputError

LEAST_WEIGHT = 1e-9
"""What is added to the weight of every negative within reach; the greatest weight of an anchor is about 1."""


class DistanceWeightedMiner(BaseMiner):  # type: ignore[misc]
    """Draw a negative for each positive pair, so that all distances from the anchor are about equally likely.

    A negative at distance r from its anchor has the weight 1 / q(r), where q is the density of distances between random
    points on the unit sphere of n dimensions, q(r) ~ r^(n - 2) (1 - r^2 / 4)^((n - 3) / 2). The negatives of an anchor
    are drawn without replacement, one for each of its positives; an anchor with more positives than negatives has each
    of them about equally often. Which of its negatives goes with which of its positives is random. Images without
    positives are no anchors, and without negatives there is no triplet.

    Weights are relative to the greatest one of the same anchor, so every anchor keeps its triplets at any width. The
    class of the same name in pytorch-metric-learning takes them relative to the greatest one in the batch, and loses
    the anchors whose weights all underflow, most of them at 512 dimensions.

    Sources: Wu et al., "Sampling Matters in Deep Embedding Learning", ICCV 2017, section 4; weights as in the authors'
    code of TPAMI 2021 (CompVis/metric-learning-divide-and-conquer-improved), which in a batch of unequal classes takes
    the same number of negatives for all anchors and repeats or leaves out positives.

    Args:
        cutoff: smaller distances are weighed as this one.
        nonzero_loss_cutoff: negatives as far as this are out of reach: they are drawn where too few others are left.
            For a margin loss it is beta + margin, beyond which a negative has no loss.
        width: the dimensions n of the formula, where they are not those of the embeddings that the miner sees. A
            learner of a divided epoch sees a slice of the embedding; the authors', who set the other coordinates to
            zero, weigh distances by the whole width, which favours the nearest negatives more.
        far_weight: the weight of each negative out of reach. The authors' 1e-6 is more than what is left of most
            weights within reach where the width is large: an anchor that draws several negatives then gets the nearest
            one and some out of reach. With 1e-12 those within reach come first.
        **kwargs: ``distance`` and ``collect_stats``, as for all miners of pytorch-metric-learning. The distance must
            be the Euclidean one of normalised embeddings, which is the default.

    Raises:
        InputError: if the cutoffs are not 0 < cutoff < nonzero_loss_cutoff, the width or the weight is no positive
            number, or the distance is another; when called, if an embedding is NaN or infinite.

    Example:
        >>> labels = torch.tensor([0, 0, 0, 1, 1, 1])
        >>> anchors, positives, negatives = DistanceWeightedMiner()(torch.randn(6, 512), labels)
        >>> anchors.tolist()
        [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
        >>> positives.tolist()
        [1, 2, 0, 2, 0, 1, 4, 5, 3, 5, 3, 4]
    """

    def __init__(
        self,
        cutoff: float = 0.5,
        nonzero_loss_cutoff: float = 1.4,
        width: int | None = None,
        far_weight: float = 1e-6,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not 0 < cutoff < nonzero_loss_cutoff:
            raise InputError(
                f"cutoff={cutoff} and nonzero_loss_cutoff={nonzero_loss_cutoff} are two distances, and the first must "
                "be the smaller one and positive, for example 0.5 and 1.4"
            )
        if width is not None and width < 1:
            raise InputError(
                f"width={width} must be a number of dimensions, or None for those of the embeddings that come"
            )
        if not 0 < far_weight < math.inf:
            raise InputError(
                f"far_weight={far_weight} must be a positive number, for example 1e-12, since an anchor may have no "
                "other negatives than those out of reach"
            )
        metric = self.distance
        if not isinstance(metric, LpDistance) or (metric.p, metric.power, metric.normalize_embeddings) != (2, 1, True):
            raise InputError(
                f"the formula of DistanceWeightedMiner holds for distances on the unit sphere, not for {metric}; leave "
                "distance out, or use LpDistance(p=2, power=1, normalize_embeddings=True)"
            )
        self.cutoff = cutoff
        self.nonzero_loss_cutoff = nonzero_loss_cutoff
        self.width = width
        self.far_weight = far_weight
        self.add_to_recordable_attributes(list_of_names=["cutoff", "nonzero_loss_cutoff"], is_stat=False)

    def mine(
        self, embeddings: Tensor, labels: Tensor, ref_emb: Tensor, ref_labels: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return anchors, positives and negatives as indices of equal shape, (number of positive pairs,)."""
        if not bool(embeddings.isfinite().all() & ref_emb.isfinite().all()):
            raise InputError("DistanceWeightedMiner was given embeddings that are NaN or infinite")
        alone = ref_emb is embeddings
        same_class = labels[:, None] == ref_labels
        with torch.autocast(embeddings.device.type, enabled=False):
            embeddings = embeddings.to(torch.promote_types(embeddings.dtype, torch.float32))
            ref_emb = embeddings if alone else ref_emb.to(embeddings.dtype)
            weights = negative_weights(
                self.distance(embeddings, ref_emb),
                same_class,
                self.width or embeddings.shape[1],
                self.cutoff,
                self.nonzero_loss_cutoff,
                self.far_weight,
            )
        return draw_triplets(same_class.fill_diagonal_(False) if alone else same_class, weights)


def negative_weights(
    distances: Tensor, same_class: Tensor, width: int, cutoff: float, nonzero_loss_cutoff: float, far_weight: float
) -> Tensor:
    """Return the weight with which each reference is drawn as a negative of each anchor, all shapes (B, R).

    Args:
        distances: from anchors to references.
        same_class: whether they are of one class; the weight is 0 then.
        width: dimensions of the sphere that distances are compared with.
        cutoff: smaller distances count as this one.
        nonzero_loss_cutoff: from this distance on the weight is ``far_weight``.
        far_weight: that weight.
    """
    distances = distances.clamp(min=cutoff)
    within = ~same_class & (distances < nonzero_loss_cutoff)
    cosine_term = (1 - distances**2 / 4).clamp(min=torch.finfo(distances.dtype).eps)  # 0 for opposite points
    log_weights = (2 - width) * distances.log() - (width - 3) / 2 * cosine_term.log()
    log_weights = log_weights.masked_fill(~within, 0)
    weights = (log_weights - log_weights.amax(dim=1, keepdim=True)).exp() + LEAST_WEIGHT
    return weights.masked_fill(~within, far_weight).masked_fill(same_class, 0)


def draw_triplets(positive: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return all positive pairs of anchors that have negatives, with a negative for each drawn without replacement.

    Args:
        positive: whether a reference is a positive of an anchor, shape (B, R).
        weights: of the references as negatives of an anchor, 0 for those that are none, same shape.
    """
    negative = weights > 0
    positive = positive & negative.any(dim=1, keepdim=True)
    anchors, positives = positive.nonzero(as_tuple=True)
    if not len(anchors):
        return anchors, positives, positives.clone()
    wanted, available = positive.sum(dim=1), negative.sum(dim=1)
    # The first k of a race of exponential times at these rates are k draws without replacement, in their order.
    speeds = (weights / torch.empty_like(weights).exponential_()).masked_fill(~negative, -1)
    drawn = speeds.topk(int(wanted.max()), dim=1).indices
    start = (torch.rand(len(positive), device=positive.device) * wanted).long()  # the first draw is for any positive
    turn = (positive.cumsum(dim=1)[anchors, positives] + start[anchors]) % wanted[anchors]
    return anchors, positives, drawn[anchors, turn % available[anchors]]
