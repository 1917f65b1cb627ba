"""Which part of the embedding belongs to which learner."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from divconq_pl.errors import InputError

SMALLEST_WIDTH = 4
"""Coordinates that a fixed subspace needs at least; narrower ones break several losses."""


class Subspaces(nn.Module, ABC):
    """The subspaces of an embedding, one for each of ``2 ** depth`` learners.

    One of them is active at a time, or none, which means the full embedding. The choice lives in tensors that are
    changed in place, so that compiled code follows it.

    Args:
        width: width d of the embedding.
        split_depth: greatest depth; there are ``2 ** split_depth`` subspaces then.
    """

    def __init__(self, width: int, split_depth: int) -> None:
        super().__init__()
        if 2**split_depth > width:
            raise InputError(
                f"split_depth={split_depth} makes {2**split_depth} learners, more than the embedding has coordinates "
                f"({width}); use split_depth={self.deepest(width)} or less"
            )
        self.width = width
        self.split_depth = split_depth
        self.depth = 0
        self.active: int | None = None
        self.used: set[int] = set()  # learners that were active since the optimiser's last step
        self.narrows = False  # compiled code asks this and not which one is active, or it would be compiled for each

    @staticmethod
    @abstractmethod
    def deepest(width: int) -> int:
        """Return the greatest split depth that an embedding of ``width`` coordinates allows."""

    @abstractmethod
    def set_depth(self, depth: int) -> None:
        """Split every subspace in two, or merge siblings, until there are ``2 ** depth``."""

    @abstractmethod
    def narrow(self, values: Tensor, dim: int) -> Tensor:
        """Return the active learner's part of ``values``, whose dimension ``dim`` is the embedding's."""

    def activate(self, learner: int | None) -> None:
        """Make ``learner`` the active one; ``None`` means the full embedding."""
        if learner is not None and not 0 <= learner < 2**self.depth:
            raise IndexError(f"learner {learner} does not exist among {2**self.depth}")
        self.active = learner
        if learner is not None:
            self.used.add(learner)
        self.narrows = learner is not None

    def _check_depth(self, depth: int) -> None:
        if not 0 <= depth <= self.split_depth:
            raise ValueError(f"depth={depth} must lie between 0 and split_depth={self.split_depth}")


class FixedSubspaces(Subspaces):
    """Consecutive slices of the embedding, d / K coordinates for each of K learners (the paper's fixed masks).

    Splitting halves the slices, so children 2k and 2k + 1 tile that of learner k.

    Args:
        width: width d of the embedding.
        split_depth: greatest depth.

    Raises:
        InputError: if d cannot be cut into equal slices of at least 4 coordinates.

    Example:
        >>> subspaces = FixedSubspaces(8, split_depth=1)
        >>> subspaces.set_depth(1)
        >>> subspaces.activate(1)
        >>> subspaces.narrow(torch.arange(8), dim=0)
        tensor([4, 5, 6, 7])
    """

    learner: Tensor

    def __init__(self, width: int, split_depth: int) -> None:
        super().__init__(width, split_depth)
        learners = 2**split_depth
        if width % learners or (split_depth and width // learners < SMALLEST_WIDTH):
            step = learners * SMALLEST_WIDTH if width < learners * SMALLEST_WIDTH else learners
            below, above = width // step * step, -(-width // step) * step
            widths = " or ".join(str(w) for w in sorted({below, above}) if w and w != width)
            raise InputError(
                f"an embedding of width {width} cannot be cut into {learners} equal subspaces of at least "
                f"{SMALLEST_WIDTH} coordinates; use a width of {widths}, or a smaller split_depth than {split_depth}"
            )
        self.register_buffer("learner", torch.zeros(1, dtype=torch.int64), persistent=False)

    @staticmethod
    def deepest(width: int) -> int:
        """Return how often ``width`` can be halved into slices of at least 4 coordinates."""
        depth = 0
        while width % 2 ** (depth + 1) == 0 and width >> (depth + 1) >= SMALLEST_WIDTH:
            depth += 1
        return depth

    def set_depth(self, depth: int) -> None:
        """Cut the embedding into ``2 ** depth`` slices."""
        self._check_depth(depth)
        self.depth = depth
        self.activate(None)

    def activate(self, learner: int | None) -> None:
        """Make ``learner`` the active one; ``None`` means the full embedding."""
        super().activate(learner)
        if learner is not None:
            self.learner.fill_(learner)

    def idle(self, learners: Iterable[int], device: torch.device) -> Tensor:
        """Return the coordinates of all other than these learners, int64."""
        width = self.width >> self.depth
        used = [coordinate for k in learners for coordinate in range(k * width, (k + 1) * width)]
        mask = torch.ones(self.width, dtype=torch.bool, device=device)
        mask[used] = False
        return torch.nonzero(mask).squeeze(1)

    def narrow(self, values: Tensor, dim: int) -> Tensor:
        """Return the coordinates of the active slice."""
        if not self.narrows:
            return values
        learners, dim = 1 << self.depth, dim % values.ndim
        slices: Tensor = values.unflatten(dim, (learners, self.width // learners))
        return slices.index_select(dim, self.learner).squeeze(dim)


class LearnedSubspaces(Subspaces):
    """Non-negative masks over the whole embedding, one for each learner, that are trained (the paper's learned masks).

    A split gives both children the mask of their parent (the first one is all ones); a merge gives the parent the mean
    of its children. The masks are parameters ``mask_0``, ``mask_1``, ... but no part of the ``state_dict`` of the
    module they are put into, so that its own checkpoints stay what they were; :meth:`masks_state` carries them.

    Args:
        width: width d of the embedding.
        split_depth: greatest depth.
        lr_factor: learning rate of the masks as a multiple of the optimiser's (the paper: 100).
        weight_decay_factor: weight decay of the masks as a multiple of the optimiser's.
        orthogonality_weight: lambda, the weight of :func:`orthogonality` in the loss.
    """

    choice: Tensor

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
        self.orthogonality_weight = orthogonality_weight
        self.register_buffer("choice", torch.zeros(1, dtype=torch.int64), persistent=False)
        self.lr_factor = lr_factor
        self.weight_decay_factor = weight_decay_factor
        for k in range(2**split_depth):
            self.register_parameter(f"mask_{k}", nn.Parameter(torch.ones(width)))

    @property
    def masks(self) -> list[nn.Parameter]:
        """The masks of the learners of the current depth, before the rectification, each of shape (d,)."""
        return [self.get_parameter(f"mask_{k}") for k in range(2**self.depth)]

    @torch.no_grad()
    def set_depth(self, depth: int) -> None:
        """Copy the masks to the children, or average those of siblings, level by level."""
        self._check_depth(depth)
        self.activate(None)
        while self.depth < depth:
            parents = [mask.clone() for mask in self.masks]
            self.depth += 1
            for k, mask in enumerate(self.masks):
                mask.copy_(parents[k // 2])
        while self.depth > depth:
            children = [mask.clone() for mask in self.masks]
            self.depth -= 1
            for k, mask in enumerate(self.masks):
                mask.copy_((children[2 * k] + children[2 * k + 1]) / 2)

    @staticmethod
    def deepest(width: int) -> int:
        """Return the depth with at most one learner for each coordinate."""
        return width.bit_length() - 1

    def activate(self, learner: int | None) -> None:
        """Make ``learner`` the active one; ``None`` means the full embedding."""
        super().activate(learner)
        if learner is not None:
            self.choice.fill_(learner)

    def narrow(self, values: Tensor, dim: int) -> Tensor:
        """Return ``values`` times the active mask."""
        if not self.narrows:
            return values
        mask = torch.stack(list(self.parameters())).index_select(0, self.choice).relu().to(values.dtype)
        return values * mask.view([-1 if i == dim % values.ndim else 1 for i in range(values.ndim)])

    def anchor(self, embeddings: Tensor) -> Tensor:
        """Return ``embeddings``, made to depend on every mask without being changed by any.

        Processes that exchange gradients wait for one of every parameter.
        """
        return embeddings + sum((mask.sum() for mask in self.parameters()), torch.zeros(())) * 0.0

    @torch.enable_grad()
    def finish_gradients(self, *, push_apart: bool, scale: float = 1.0) -> None:
        """Make the gradients of the masks what an optimiser should see; to be called before each of its steps.

        A mask that no batch has used since the last step gets none, so that momentum and weight decay leave it alone.
        The gradient of ``orthogonality_weight * orthogonality(masks)`` is added here: it depends on the masks alone, so
        it need not pass through the training step of a module that is not ours. It comes before gradients are clipped,
        as it would if it were in the loss.

        Args:
            push_apart: whether to add the orthogonality term.
            scale: what the gradients are multiplied by at this moment, under mixed precision.
        """
        for k, mask in enumerate(self.parameters()):
            if k not in self.used:
                mask.grad = None
        self.used.clear()
        masks = self.masks
        if not push_apart or not self.orthogonality_weight or len(masks) == 1 or not masks[0].requires_grad:
            return
        term = scale * self.orthogonality_weight * orthogonality(torch.stack([mask.relu() for mask in masks]))
        for mask, gradient in zip(masks, torch.autograd.grad(term, masks), strict=True):
            mask.grad = gradient if mask.grad is None else mask.grad + gradient

    def masks_state(self) -> Tensor:
        """Return the values of all masks, shape (2 ** split_depth, d)."""
        return torch.stack([mask.detach().cpu() for mask in self.parameters()])

    @torch.no_grad()
    def load_masks_state(self, values: Tensor) -> None:
        """Set the values of all masks, shape (2 ** split_depth, d)."""
        for mask, value in zip(self.parameters(), values, strict=True):
            mask.copy_(value)

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        """Save nothing: the callback carries the masks."""

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], *args: Any) -> None:
        """Load nothing, and miss nothing."""


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
