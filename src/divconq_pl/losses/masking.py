"""Mask the embedding where it leaves the network, for whatever consumes it beside the losses that are known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from divconq_pl.core.subspaces import Subspaces, shape_along
from divconq_pl.losses.hooks import Hook, Removable

ROUNDING, HALF_ROUNDING = 1e-3, 3e-2
"""Gradient outside of the active subspace, as a share of the greatest inside, that is taken for rounding.

A network that normalises its embeddings leaves that: losses that normalise their part again do not see its length.
"""


class OutputMask:
    """Stand at the output of the embedding layer: watch the gradient that comes back, or let a part of it out only.

    While ``subspaces.masks_output`` is false, the gradient that reaches the embedding outside of the active subspace is
    removed, and measured if asked for. While it is true, whatever comes after the layer is given zeros outside of the
    active subspace (or the values times the active mask, where masks are learned).

    Args:
        layer: gives the embedding, see :func:`embedding_dim`.
        subspaces: the subspaces, and which one is active.

    Attributes:
        watches: whether to measure.
        leaks: whether more than rounding was found since :meth:`watch`.
    """

    def __init__(self, layer: nn.Module, subspaces: Subspaces) -> None:
        self.watches = self.leaks = False
        self._layer = layer
        self._subspaces = subspaces

    def attach(self, norms: Sequence[nn.Module] = ()) -> list[Removable]:
        """Begin; the handles' ``remove()`` ends it.

        Args:
            norms: batch normalisations of the embedding. Coordinates that are masked do not enter their statistics.
        """

        def look(_: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
            if not self._subspaces.narrows or not isinstance(output, Tensor):
                return output
            dim = embedding_dim(output, self._layer, self._subspaces.width)
            if self._subspaces.masks_output:
                return self._subspaces.mask(output, dim)
            if output.requires_grad and not torch.compiler.is_compiling():
                self._guard(output, dim)
            return output

        handles: list[Removable] = [self._layer.register_forward_hook(Hook(look, compiled=True))]
        for norm in norms:
            handles += _keep_statistics(norm, self._subspaces)
        return handles

    def watch(self) -> None:
        """Measure from now on, as long as nothing is masked."""
        self.watches, self.leaks = True, False

    def _guard(self, output: Tensor, dim: int) -> None:
        seen = self._subspaces.seen()
        if seen is None:
            return

        def remove(gradient: Tensor) -> Tensor:
            outside = torch.ones(gradient.shape[dim], dtype=torch.bool, device=gradient.device)
            outside[seen] = False
            if self.watches:
                share = share_outside(gradient, outside, dim)
                self.leaks |= share > (HALF_ROUNDING if gradient.element_size() == 2 else ROUNDING)
            return gradient.masked_fill(shape_along(outside, dim, gradient.ndim), 0)

        output.register_hook(remove)


def share_outside(gradient: Tensor, outside: Tensor, dim: int) -> float:
    """Return the greatest entry of a gradient outside of a subspace, as a share of the greatest of all; 0 for none."""
    sizes = gradient.detach().abs().float().movedim(dim, 0).flatten(1).amax(1)
    greatest = float(sizes.max())
    return float(sizes[outside].max()) / greatest if greatest > 0 and bool(outside.any()) else 0.0


def embedding_dim(values: Tensor, layer: nn.Module, width: int | None = None) -> int:
    """Return which dimension of what a layer gives is the embedding's.

    Args:
        values: what it gives. In maps, and in sequences that a convolution gives, channels come first, otherwise last.
        layer: the layer.
        width: width of the embedding, if that is known: where channels are not that many, they are elsewhere.
    """
    last = values.ndim - 1
    kinds = (_ConvNd, _BatchNorm, nn.Linear, nn.LayerNorm)
    ends = [isinstance(part, (_ConvNd, _BatchNorm)) for part in layer.modules() if isinstance(part, kinds)]
    first = values.ndim == 4 or (values.ndim == 3 and ends[-1:] == [True])
    dims = (1, last) if first else (last, 1)
    return next((dim for dim in dims if dim <= last and values.shape[dim] == width), dims[0])


def _keep_statistics(norm: nn.Module, subspaces: Subspaces) -> tuple[Removable, ...]:
    """Keep the running statistics of masked coordinates, and mask what comes out, too."""
    assert isinstance(norm, _BatchNorm)
    kept: list[Tensor] = []

    def applies() -> bool:
        return subspaces.narrows and subspaces.masks_output and subspaces.seen() is not None

    def before(*_: Any) -> None:
        if applies() and norm.running_mean is not None and norm.running_var is not None:
            kept[:] = [norm.running_mean.clone(), norm.running_var.clone()]

    def after(_: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        if not applies():
            return output
        with torch.no_grad():
            for values, old in zip((norm.running_mean, norm.running_var), kept, strict=False):
                assert values is not None
                values.data.copy_(torch.where(subspaces.mask(torch.ones_like(values), 0) > 0, values, old))
        kept.clear()
        return subspaces.mask(output, 1)

    return (
        norm.register_forward_pre_hook(Hook(before, compiled=True)),
        norm.register_forward_hook(Hook(after, compiled=True)),
    )
