"""Learned masks: subspaces that are trained."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, nn

from divconq_pl.core.subspaces import Subspaces, shape_along


class LearnedSubspaces(Subspaces):
    """Non-negative masks over the whole embedding, one for each learner, that are trained (the paper's learned masks).

    A split gives both children the mask of their parent (the first one is all ones); a merge gives the parent the mean
    of its children. The masks are the parameters ``mask_0``, ``mask_1``, ..., each of shape (d,), before their
    rectification.

    Args:
        width: width d of the embedding.
        split_depth: greatest depth.
        lr_factor: learning rate of the masks as a multiple of the embedding layer's (the paper: 100).
        weight_decay_factor: weight decay of the masks as a multiple of the embedding layer's.
        orthogonality_weight: lambda, the weight of :func:`orthogonality` in the loss.
    """

    def __init__(
        self,
        width: int,
        split_depth: int,
        *,
        lr_factor: float = 100.0,
        weight_decay_factor: float = 0.0,
        orthogonality_weight: float = 0.01,
    ) -> None:
        super().__init__(width, split_depth)
        self.lr_factor = lr_factor
        self.weight_decay_factor = weight_decay_factor
        self.orthogonality_weight = orthogonality_weight
        for k in range(2**split_depth):
            self.register_parameter(f"mask_{k}", nn.Parameter(torch.ones(width)))

    @property
    def masks(self) -> list[nn.Parameter]:
        """The masks of the learners of the current depth."""
        return [self.get_parameter(f"mask_{k}") for k in range(2**self.depth)]

    def part(self, values: Tensor, dim: int) -> Tensor:
        """Return ``values`` times the active mask."""
        mask = torch.stack(list(self.parameters())).index_select(0, self.learner).squeeze(0).relu()
        return values * shape_along(mask.to(values.dtype), dim, values.ndim)

    def split(self) -> None:
        """Copy each mask to both children."""
        parents = [mask.clone() for mask in self.masks]
        for k in range(2 * len(parents)):
            self.get_parameter(f"mask_{k}").copy_(parents[k // 2])

    def merge(self) -> None:
        """Average the masks of siblings."""
        children = [mask.clone() for mask in self.masks]
        for k in range(len(children) // 2):
            self.get_parameter(f"mask_{k}").copy_((children[2 * k] + children[2 * k + 1]) / 2)

    def own_parameters(self, learners: Collection[int]) -> list[nn.Parameter]:
        """Return the masks of these learners."""
        return [self.get_parameter(f"mask_{k}") for k in learners]

    def penalty(self) -> Tensor | None:
        """Return ``orthogonality_weight`` times :func:`orthogonality` of the masks."""
        if not self.orthogonality_weight or not self.depth:
            return None
        return self.orthogonality_weight * orthogonality(torch.stack([mask.relu() for mask in self.masks]))


def orthogonality(masks: Tensor) -> Tensor:
    """Return the mean cosine between different rows, the paper's regularisation of the masks.

    Args:
        masks: non-negative masks of the learners, shape (K, d).

    Returns:
        A scalar between 0 (all orthogonal) and 1; 0 for a single mask.

    Example:
        >>> orthogonality(torch.tensor([[1.0, 0.0], [0.0, 1.0]])).item()
        0.0
    """
    learners = len(masks)
    if learners == 1:
        return masks.sum() * 0.0
    # Masks that are nearly alike have gradients that drown in the rounding of half precision.
    unit = nn.functional.normalize(masks.to(torch.promote_types(masks.dtype, torch.float32)), dim=1)
    cosines = unit @ unit.T
    return (cosines.sum() - cosines.diagonal().sum()) / (learners * (learners - 1))
