"""Which part of the embedding belongs to which learner."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from divconq_pl.core.usage import Usage
from divconq_pl.errors import InputError

SMALLEST_WIDTH = 4
"""Coordinates that a fixed subspace needs at least; narrower ones break several losses."""


class Subspaces(nn.Module, ABC):
    """The subspaces of an embedding, one for each of ``2 ** depth`` learners.

    One of them is active at a time, or none, which means the full embedding. The choice lives in a tensor that is
    changed in place, so that compiled code follows it.

    A new kind says in :meth:`part` what the active learner (``self.learner``, a tensor of one number) sees; where
    learners have something of their own, :meth:`split` and :meth:`merge` say what becomes of it. Parameters and buffers
    of a kind belong to the callback, not to the module that is trained: they are saved with the callback, and the
    parameters are optimised as the embedding layer is, at ``lr_factor`` times its learning rate and
    ``weight_decay_factor`` times its weight decay.

    Args:
        width: width d of the embedding.
        split_depth: greatest depth; there are ``2 ** split_depth`` subspaces then.

    Raises:
        InputError: if the embedding has fewer coordinates than there are learners.
    """

    lr_factor: float = 1.0
    weight_decay_factor: float = 1.0
    is_cut: bool = False
    """Whether a part is narrower than the whole."""

    learner: Tensor

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
        self.narrows = False  # compiled code asks this and not which one is active, or it would be compiled for each
        self.masks_output = False  # whether embeddings leave the network masked, see `mask`
        self.is_used = False  # whether a loss has asked for its part since the last `activate`
        self.usage = Usage()
        self.register_buffer("learner", torch.zeros(1, dtype=torch.int64), persistent=False)

    # What makes a kind.

    @abstractmethod
    def part(self, values: Tensor, dim: int) -> Tensor:
        """Return the active learner's part of ``values``, whose dimension ``dim`` is the embedding's."""

    def mask(self, values: Tensor, dim: int) -> Tensor:
        """Return ``values`` as wide as they are, without what the active learner does not see; :meth:`part` if not cut.

        Whatever takes the embedding takes that, too.
        """
        return self.part(values, dim)

    def seen(self) -> Tensor | None:
        """Return the coordinates that the active learner sees, int64; None if it sees something of all."""
        return None

    def split(self) -> None:
        """Give the children of each of the ``2 ** depth`` learners what they begin with; they are 2k and 2k + 1."""

    def merge(self) -> None:
        """Give the parent of each two of the ``2 ** depth`` learners what it goes on with."""

    def outside(self, learners: Iterable[int]) -> Tensor | None:
        """Return the coordinates that belong to none of these learners, int64; None if all learners share all."""
        return None

    def own_parameters(self, learners: Collection[int]) -> list[nn.Parameter]:
        """Return the parameters that a step is to change after batches of these learners; all by default."""
        return list(self.parameters()) if learners else []

    def penalty(self) -> Tensor | None:
        """Return what is added to the loss of every step while the embedding is divided, or None."""
        return None

    @staticmethod
    def deepest(width: int) -> int:
        """Return the greatest split depth that an embedding of ``width`` coordinates allows."""
        return width.bit_length() - 1

    # What all kinds share.

    def narrow(self, values: Tensor, dim: int) -> Tensor:
        """Return the active learner's part of ``values``, or all of them if none is active."""
        return self.part(values, dim) if self.narrows else values

    def narrow_embeddings(self, values: Tensor, dim: int) -> Tensor:
        """Return the active learner's part of embeddings that have left the network, masked or not."""
        return values if self.masks_output and not self.is_cut else self.narrow(values, dim)

    def activate(self, learner: int | None) -> None:
        """Make ``learner`` the active one; ``None`` means the full embedding.

        Raises:
            IndexError: if there is no such learner.
        """
        if learner is not None and not 0 <= learner < 2**self.depth:
            raise IndexError(f"learner {learner} does not exist among {2**self.depth}")
        self.active = learner
        self.is_used = False
        self.narrows = learner is not None
        if learner is not None:
            self.learner.fill_(learner)
            self.usage.note(learner)

    @torch.no_grad()
    def set_depth(self, depth: int) -> None:
        """Split every subspace in two, or merge siblings, until there are ``2 ** depth``.

        Raises:
            ValueError: if the depth is negative or greater than ``split_depth``.
        """
        if not 0 <= depth <= self.split_depth:
            raise ValueError(f"depth={depth} must lie between 0 and split_depth={self.split_depth}")
        self.activate(None)
        while self.depth < depth:
            self.split()
            self.depth += 1
        while self.depth > depth:
            self.merge()
            self.depth -= 1

    @contextmanager
    def tried(self) -> Iterator[None]:
        """Have the last learner of the greatest depth active, and leave nothing of that behind."""
        values, depth, usage = self.state(), self.depth, self.usage
        self.usage = Usage()
        try:
            self.set_depth(self.split_depth)
            self.activate(2**self.depth - 1)
            yield
        finally:
            self.activate(None)
            self.depth, self.usage = depth, usage
            self.load_state(values)

    def state(self) -> dict[str, Tensor]:
        """Return the values of all parameters and persistent buffers."""
        return {name: value.detach().cpu().clone() for name, value in self.state_dict().items()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state` returned.

        Raises:
            InputError: if it is of another kind, width or split depth.
        """
        own = {name: tuple(value.shape) for name, value in self.state_dict().items()}
        given = {name: tuple(value.shape) for name, value in state.items()}
        if own != given:
            raise InputError(
                f"the checkpoint holds subspaces with {_list(given)}, and {type(self).__name__} has {_list(own)}; "
                "resume with the subspaces and the split_depth of the checkpoint"
            )
        self.load_state_dict(state)


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

    is_cut = True

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

    @staticmethod
    def deepest(width: int) -> int:
        """Return how often ``width`` can be halved into slices of at least 4 coordinates."""
        depth = 0
        while width % 2 ** (depth + 1) == 0 and width >> (depth + 1) >= SMALLEST_WIDTH:
            depth += 1
        return depth

    def part(self, values: Tensor, dim: int) -> Tensor:
        """Return the coordinates of the active slice."""
        learners, dim = 1 << self.depth, dim % values.ndim
        slices: Tensor = values.unflatten(dim, (learners, self.width // learners))
        return slices.index_select(dim, self.learner).squeeze(dim)

    def mask(self, values: Tensor, dim: int) -> Tensor:
        """Return all coordinates, those that the active learner does not see as zeros."""
        inside = values.new_zeros(self.width).index_fill(0, self.seen(), 1)
        return values * shape_along(inside, dim, values.ndim)

    def seen(self) -> Tensor:
        """Return the coordinates of the active slice, int64."""
        size = self.width >> self.depth
        return self.learner * size + torch.arange(size, device=self.learner.device)

    def outside(self, learners: Iterable[int]) -> Tensor | None:
        """Return the coordinates of all other slices, int64."""
        owner = torch.arange(self.width, device=self.learner.device) // (self.width >> self.depth)
        return torch.nonzero(~torch.isin(owner, owner.new_tensor(sorted(learners)))).squeeze(1)


class ZeroedSubspaces(FixedSubspaces):
    """The same slices, all d coordinates wide with those of the others set to zero, as the authors' fixed masks are.

    After normalisation the distances are those of the slices; what depends on the width of the embedding differs, such
    as distance-weighted mining, which mines harder at d than at d / K.

    Example:
        >>> subspaces = ZeroedSubspaces(8, split_depth=1)
        >>> subspaces.set_depth(1)
        >>> subspaces.activate(1)
        >>> subspaces.narrow(torch.arange(8), dim=0)
        tensor([0, 0, 0, 0, 4, 5, 6, 7])
    """

    is_cut = False

    def part(self, values: Tensor, dim: int) -> Tensor:
        """Return all coordinates, those outside of the active slice as zeros."""
        return self.mask(values, dim)


class RandomSubspaces(FixedSubspaces):
    """d / K coordinates drawn at random for each batch, whichever learner it belongs to, to compare slices with.

    Random coordinates in every step are what UNICOM trains with (An et al., ICLR 2023). They depend on nothing but how
    many were drawn before, so all processes draw the same, and a resumed training goes on with those that come next.

    Example:
        >>> subspaces = RandomSubspaces(8, split_depth=1)
        >>> subspaces.set_depth(1)
        >>> subspaces.activate(1)
        >>> subspaces.narrow(torch.arange(8), dim=0).shape
        torch.Size([4])
    """

    draws: Tensor

    def __init__(self, width: int, split_depth: int) -> None:
        super().__init__(width, split_depth)
        self.register_buffer("draws", torch.zeros(1, dtype=torch.int64))
        self.register_buffer("coordinates", torch.arange(width), persistent=False)

    def activate(self, learner: int | None) -> None:
        """Draw coordinates; ``None`` means the full embedding."""
        super().activate(learner)
        if learner is not None:
            generator = torch.Generator().manual_seed(int(self.draws))
            drawn = torch.randperm(self.width, generator=generator)[: self.width >> self.depth]
            self.coordinates = drawn.sort().values.to(self.learner.device)
            self.draws += 1

    def part(self, values: Tensor, dim: int) -> Tensor:
        """Return the coordinates that were drawn."""
        return values.index_select(dim, self.coordinates)

    def seen(self) -> Tensor:
        """Return the coordinates that were drawn, int64."""
        return self.coordinates

    def outside(self, learners: Iterable[int]) -> None:
        """Return None: all learners share all coordinates in time."""


def shape_along(vector: Tensor, dim: int, ndim: int) -> Tensor:
    """Return a vector in a shape in which it is multiplied along one of ``ndim`` dimensions."""
    return vector.view([-1 if i == dim % ndim else 1 for i in range(ndim)])


def _list(shapes: dict[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{name} of shape {shape}" for name, shape in shapes.items()) or "no values of their own"
