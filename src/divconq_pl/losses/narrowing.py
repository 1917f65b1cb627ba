"""Let any pytorch-metric-learning loss or miner see one learner's subspace only."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import torch
from pytorch_metric_learning.losses import BaseMetricLossFunction, ManifoldLoss
from pytorch_metric_learning.miners import BaseMiner
from torch import Tensor, nn

from divconq_pl.core.subspaces import Subspaces
from divconq_pl.errors import InputError
from divconq_pl.losses.hooks import Hook, Removable, Undo

WeightDims = Mapping[str, Mapping[str, int | None]]

WEIGHT_DIMS: WeightDims = {
    "LargeMarginSoftmaxLoss": {"W": 0},
    "ManifoldLoss": {"proxies": 1},
    "MarginLoss": {"beta": None},
    "NormalizedSoftmaxLoss": {"W": 0},
    "ProxyAnchorLoss": {"proxies": 1},
    "ProxyNCALoss": {"proxies": 1},
    "SoftTripleLoss": {"fc": 0},
    "BaseProxyLoss": {"weight": 1},
}
"""By class name, subclasses included: which dimension of which weight is the embedding's; None: none of them is.

Shapes do not tell, for there may be as many classes as coordinates. ``BaseProxyLoss`` is of version 3.
"""

PARTS = (BaseMetricLossFunction, BaseMiner)
"""What is narrowed wherever it is."""


def narrow_losses(module: nn.Module, subspaces: Subspaces, weight_dims: WeightDims | None = None) -> list[Removable]:
    """Make all losses and miners in ``module`` see the active subspace, wherever they are called.

    What enters them as ``embeddings`` and ``ref_emb`` is narrowed, and so are the weights that a loss owns (proxies,
    class centres), so value and gradient are those of the same loss built at the subspace's width. They compute in
    float32, also under mixed precision. Without an active subspace their value is what it would be anyway, but the
    weights they own keep the precision that they have, so that an optimiser can go on with them. (A loss of
    pytorch-metric-learning by itself turns its weights for good into the precision of the first embeddings that it is
    given, on a CPU also under mixed precision.)

    Args:
        module: a module with losses and miners of pytorch-metric-learning, or subclasses of its base classes, or heads
            that ``weight_dims`` declares.
        subspaces: the subspaces, and which one is active.
        weight_dims: for losses and heads of your own, by class name or by dotted name in ``module``, which dimension of
            which parameter is the embedding's, for example ``{"MyLoss": {"centres": 1}, "classifier": {"weight": 1}}``;
            None in place of the number if none is. The name of a submodule speaks for all of its parameters.

    Returns:
        Handles whose ``remove()`` undoes it.

    Raises:
        InputError: if there is no loss to narrow, or one that cannot be narrowed.
    """
    parts = find_narrowed(module, weight_dims)
    if not parts:
        raise InputError(
            f"no pytorch-metric-learning loss was found in {type(module).__name__}; assign it in __init__ "
            "(self.loss = losses.MarginLoss()), so that it is a submodule"
        )
    weights = [_embedding_weights(part, declared, subspaces.width) for part, declared in parts.items()]
    nested = {inner for part in parts for inner in _parts_inside(part)}
    return [
        handle
        for part, dims in zip(parts, weights, strict=True)
        for handle in _narrow(part, dims, subspaces, is_outermost=part not in nested)
    ]


def find_narrowed(
    module: nn.Module, weight_dims: WeightDims | None = None
) -> dict[nn.Module, Mapping[str, int | None]]:
    """Return what :func:`narrow_losses` narrows in ``module``, with what is known of the weights of each.

    Nothing if there are miners only.

    Raises:
        InputError: if ``weight_dims`` names what is not there.
    """
    given = weight_dims or {}
    known = {**WEIGHT_DIMS, **given}
    parts: dict[nn.Module, Mapping[str, int | None]] = {}
    named: set[str] = set()
    for name, part in module.named_modules():
        classes = [cls.__name__ for cls in reversed(type(part).__mro__)]
        named.update({name, *classes})
        if isinstance(part, PARTS) or name in given or any(cls in given for cls in classes):
            keys = [*classes, *([name] if name in given else [])]
            parts[part] = {weight: dim for key in keys for weight, dim in known.get(key, {}).items()}
    if missing := [key for key in given if key not in named]:
        raise InputError(
            f"weight_dims names {missing[0]!r}, and {type(module).__name__} has no submodule of that class or name"
        )
    return {} if all(isinstance(part, BaseMiner) for part in parts) else parts


def find_loss_slices(
    module: nn.Module, width: int, weight_dims: WeightDims | None = None
) -> list[tuple[nn.Parameter, int]]:
    """Return the parameters of all losses in ``module`` that are cut into subspaces, with the embedding's dimension."""
    return [
        (part.get_parameter(name), dim)
        for part, declared in find_narrowed(module, weight_dims).items()
        for name, dim in _embedding_weights(part, declared, width).items()
    ]


def _parts_inside(part: nn.Module) -> list[nn.Module]:
    """Return the losses and miners that another one calls."""
    return [inner for inner in part.modules() if isinstance(inner, PARTS) and inner is not part]


def _embedding_weights(part: nn.Module, declared: Mapping[str, int | None], width: int) -> dict[str, int]:
    """Return for each embedding-shaped parameter of a part which of its dimensions is the embedding's."""
    me, *bases = [cls.__name__ for cls in type(part).__mro__]
    if "P2SGradLoss" in (me, *bases):
        raise InputError(f"{me} rescales its own weight in every step, not a slice of it; use ArcFaceLoss instead")
    if isinstance(part, PARTS) and "embeddings" not in inspect.signature(part.forward).parameters:
        raise InputError(f"{me}.forward has no argument of the name 'embeddings'; give the embedding that name")
    of_others = {id(weight) for inner in _parts_inside(part) for weight in (*inner.parameters(), *inner.buffers())}
    buffers = dict(part.named_buffers(remove_duplicate=False))
    dims: dict[str, int] = {}
    for name, weight in (*part.named_parameters(remove_duplicate=False), *buffers.items()):
        shape = tuple(weight.shape)
        declaration = next((key for key in declared if f"{name}.".startswith(f"{key}.")), None)
        dim = declared[declaration] if declaration else None
        if id(weight) in of_others or (dim is None and (declaration or width not in shape)):
            continue
        owned = f"{me} owns {name!r} of shape {shape}, and the embedding is {width} wide: "
        if name in buffers:
            raise InputError(
                f"{owned}what is written into a slice of a buffer is lost; make it a parameter (requires_grad=False) "
                f"if it is only read, or say weight_dims={{{me!r}: {{{name!r}: None}}}} if the two widths are unrelated"
            )
        if dim is None:
            raise InputError(
                f"{owned}declare which of its dimensions is the embedding's with "
                f"weight_dims={{{me!r}: {{{name!r}: {shape.index(width)}}}}}, or None in place of the number if none is"
            )
        if dim >= len(shape) or shape[dim] != width:
            raise InputError(f"{owned}build it so that its dimension {dim} is as wide as the embedding")
        dims[name] = dim
    return dims


def _narrow(
    part: nn.Module, dims: Mapping[str, int], subspaces: Subspaces, *, is_outermost: bool
) -> tuple[Removable, ...]:
    arguments = list(inspect.signature(part.forward).parameters)
    hidden = ExitStack()
    autocast: list[tuple[str, bool]] = []  # what to put back after the call; torch.autocast cannot span two hooks

    def hide(owner: nn.Module, name: str, value: Any) -> None:
        """Put a value before an attribute or a parameter until the call ends: an instance's own dictionary wins."""
        own = vars(owner)
        if name in own:
            hidden.callback(own.__setitem__, name, own[name])
        else:
            hidden.callback(own.pop, name)
        own[name] = value

    def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]] | None:
        # An interrupt from the keyboard is the one exception after which torch runs no hook. What it left hidden is
        # uncovered now, or when the hooks are removed; the region of autocast that it left has put its own state back.
        hidden.close()
        autocast.clear()
        given = dict(zip(arguments, args, strict=False)) | kwargs
        if isinstance(module, PARTS):
            narrowed = {name: given[name] for name in ("embeddings", "ref_emb") if given.get(name) is not None}
        else:
            narrowed = _first_embeddings(module, given, subspaces.width)
        for values in narrowed.values():
            if is_outermost and values.shape[-1] != subspaces.width:
                raise InputError(
                    f"{type(module).__name__} was given embeddings of width {values.shape[-1]}, but the embedding "
                    f"layer gives {subspaces.width}; name the layer that gives the embedding with embedding='...'"
                )
        first = next(iter(narrowed.values()), None)
        if first is None:
            return None
        subspaces.is_used = True
        if not subspaces.narrows:
            for owner, weight in (_owner(module, name) for name in dims):
                own = getattr(owner, weight)
                # What the loss converts is a copy. Compiled code finds the weight where it finds a narrowed one.
                hide(owner, weight, own if own.dtype == first.dtype else own.clone())
            return None
        device = first.device.type
        autocast.append((device, torch.is_autocast_enabled(device)))
        torch.set_autocast_enabled(device, False)
        if is_outermost:
            # One tensor stays one: losses and miners ask whether ref_emb is embeddings.
            slices = {id(v): subspaces.narrow_embeddings(_single(v), v.ndim - 1) for v in narrowed.values()}
            narrowed = {name: slices[id(values)] for name, values in narrowed.items()}
        for name, dim in dims.items():
            owner, weight = _owner(module, name)
            hide(owner, weight, subspaces.narrow(_single(getattr(owner, weight)), dim))
        if isinstance(module, ManifoldLoss):
            hide(module, "l", narrowed["embeddings"].shape[-1])
        return (
            tuple(narrowed.get(name, value) for name, value in zip(arguments, args, strict=False)),
            {name: narrowed.get(name, value) for name, value in kwargs.items()},
        )

    def leave(*_: Any) -> None:
        hidden.close()
        while autocast:
            torch.set_autocast_enabled(*autocast.pop())

    return (
        part.register_forward_pre_hook(Hook(enter), with_kwargs=True),
        part.register_forward_hook(Hook(leave), always_call=True),
        Undo(hidden.close),
    )


def _first_embeddings(module: nn.Module, given: Mapping[str, Any], width: int) -> dict[str, Tensor]:
    """Return the first argument of a user's head that is as wide as the embedding, by name."""
    for name, value in given.items():
        if isinstance(value, Tensor) and value.ndim > 1 and value.shape[-1] == width:
            return {name: value}
    raise InputError(
        f"{type(module).__name__}, which weight_dims names, was called without embeddings of width {width}; the "
        "embedding layer gives that width, and embedding='...' names another"
    )


def _owner(module: nn.Module, name: str) -> tuple[nn.Module, str]:
    """Return the submodule that a parameter belongs to, and the parameter's name there."""
    path, _, own = name.rpartition(".")
    return module.get_submodule(path), own


def _single(values: Tensor) -> Tensor:
    """Return half precision values in single precision, others as they are."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values
