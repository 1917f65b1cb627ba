"""What the learners of one fit hang on the user's module: narrowed losses, isolation, an optimiser for masks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import rank_zero_info
from torch import nn
from torch.optim import Optimizer

from divconq_pl.core.masks import LearnedSubspaces
from divconq_pl.core.subspaces import FixedSubspaces, RandomSubspaces, Subspaces, ZeroedSubspaces
from divconq_pl.errors import InputError
from divconq_pl.lightning.embedding_layer import Embedding, find_backbone_parameters, find_embedding
from divconq_pl.lightning.subspace_optimizer import SubspaceOptimizer
from divconq_pl.lightning.tracing import Trace
from divconq_pl.losses.hooks import Hook, Removable
from divconq_pl.losses.isolation import find_embedding_slices, isolate
from divconq_pl.losses.masking import OutputMask
from divconq_pl.losses.narrowing import WeightDims, find_loss_slices, find_narrowed, narrow_losses

MakeSubspaces = Callable[[int, int], Subspaces]

SUBSPACES: dict[str, MakeSubspaces] = {
    "fixed": FixedSubspaces,
    "learned": LearnedSubspaces,
    "zeroed": ZeroedSubspaces,
    "random": RandomSubspaces,
}
"""The subspaces that have a name; any function of the embedding's width and the split depth makes others."""


class Learners:
    """One learner for each cluster: its subspace, and the module's losses and miners narrowed to it while it is active.

    All of it hangs on the module from :meth:`attach` to :meth:`detach` only; the subspaces are no part of it even then.

    Args:
        subspaces: the name of a kind, or a function of the embedding's width and the split depth that makes them.
        embedding: dotted name of the embedding layer, None to find it.
        weight_dims: see :func:`.narrow_losses`.
        isolated: whether coordinates outside of the active subspace are kept exactly where they are.

    Raises:
        InputError: if there is no kind of that name.
    """

    def __init__(
        self,
        subspaces: str | MakeSubspaces,
        embedding: str | None = None,
        weight_dims: WeightDims | None = None,
        *,
        isolated: bool = False,
    ) -> None:
        if isinstance(subspaces, str) and subspaces not in SUBSPACES:
            raise InputError(f"subspaces={subspaces!r} is unknown; choose {' or '.join(map(repr, SUBSPACES))}")
        self._make = SUBSPACES[subspaces] if isinstance(subspaces, str) else subspaces
        self._embedding = embedding
        self._weight_dims = weight_dims
        self._isolated = isolated
        self._handles: list[Removable] = []
        self.subspaces: Subspaces | None = None
        self.name = ""
        self.layer: nn.Module = nn.Identity()
        self._mask: OutputMask | None = None
        self._is_new = False  # whether no step has been taken since a division
        self._consumers = ""
        self._optimizer: SubspaceOptimizer | None = None
        self._loaded: dict[str, Any] | None = None
        self._backbone: list[nn.Parameter] = []

    @property
    def active(self) -> int | None:
        """The learner whose subspace is trained at this moment, None for the full embedding."""
        return None if self.subspaces is None else self.subspaces.active

    @property
    def is_whole_network(self) -> bool:
        """Whether the embedding layer is a network as a whole, into which images go."""
        return self._embedding is None and self.name != "embedding" and not isinstance(self.layer, nn.Linear)

    def find_heads(self, pl_module: pl.LightningModule) -> list[nn.Module]:
        """Return what is narrowed in a module."""
        return list(find_narrowed(pl_module, self._weight_dims))

    def find(self, pl_module: pl.LightningModule, trace: Trace | None) -> Embedding:
        """Find the embedding layer and what consumes the embedding, see :func:`.find_embedding`."""
        return find_embedding(pl_module, self._embedding, trace)

    def attach(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, split_depth: int, depth: int, found: Embedding
    ) -> None:
        """Make the subspaces, and the module's losses and miners see the active one.

        Args:
            trainer: the fit that is about to begin; its optimisers exist.
            pl_module: the user's module.
            split_depth: greatest depth.
            depth: the depth at which the training begins, or goes on.
            found: the embedding layer.

        Raises:
            InputError: if something cannot be narrowed.
        """
        self.name, self.layer, width = found.name, found.layer, found.width
        self._consumers = found.consumers
        self._backbone = find_backbone_parameters(pl_module, self.layer)
        self.subspaces = subspaces = self._make(width, split_depth).to(pl_module.device)
        self._mask = OutputMask(self.layer, subspaces)
        torch.compiler.reset()  # code that was compiled before is not made anew for hooks, and would run without them
        self._handles = self._mask.attach(found.norms)
        narrows = found.feeds_losses and bool(self.find_heads(pl_module))
        if narrows:
            self._handles += narrow_losses(pl_module, subspaces, self._weight_dims)
        if not narrows or found.has_unknown:
            self.mask_output()
        if self._isolated:
            losses = find_loss_slices(pl_module, width, self._weight_dims) if narrows else []
            self._handles += isolate(trainer.optimizers, find_embedding_slices(self.layer, losses), subspaces)
        self._optimizer = None
        if any(True for _ in subspaces.parameters()):
            self._optimizer = SubspaceOptimizer(subspaces, trainer.optimizers, self.layer)
            self._handles.append(self._optimizer.follow(trainer))
        subspaces.set_depth(depth)
        self._restore()
        self._handles += subspaces.usage.follow(trainer.optimizers)  # last: it forgets what the others ask for
        rank_zero_info(
            f"Divide and conquer: {type(subspaces).__name__} of the {width}-wide embedding given by {self.name!r}"
        )

    def look_at_layer(self, look: Callable[[tuple[Any, ...], Any], None]) -> None:
        """Show what goes into the embedding layer and comes out of it, before it is narrowed, until they detach."""
        hook = Hook(lambda _, inputs, output: look(inputs, output), compiled=True)
        self._handles.append(self.layer.register_forward_hook(hook, prepend=True))

    @property
    def is_masked(self) -> bool:
        """Whether the embedding leaves its layer masked."""
        return self.subspaces is not None and self.subspaces.masks_output

    def mask_output(self) -> None:
        """Let the embedding leave its layer masked from now on, since something unknown consumes it; say so once."""
        if self.subspaces is None or self.is_masked:
            return
        self.subspaces.masks_output = True
        rank_zero_info(
            f"the {self.subspaces.width}-wide embedding given by {self.name!r} also goes into {self._consumers}, which "
            "cannot be narrowed; so it is masked while a subspace is trained: as wide as it is, with zeros outside of "
            'the subspace. weight_dims={"MyHead": {"weight": 1}} narrows a head of yours exactly'
        )

    def watch(self) -> OutputMask:
        """Measure from now on what gradient reaches the embedding outside of the subspace, and remove it."""
        assert self._mask is not None
        self._mask.watch()
        return self._mask

    def check_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look at the first step since a division, and mask the embedding if something consumes all of it.

        Raises:
            InputError: if nothing in the step was narrowed.
        """
        if self.subspaces is None or self._mask is None or not self._is_new or self.active is None:
            return
        self._mask.watches = self._is_new = False
        if self._mask.leaks:
            self.mask_output()
        elif not self.is_masked and not self.subspaces.is_used:
            raise InputError(
                f"no loss in {type(pl_module).__name__} was called in the first divided step of epoch "
                f"{trainer.current_epoch}, and no gradient came to {self.name!r}, so no subspace is trained; assign "
                "the loss that training_step calls in __init__, or name the layer that gives the embedding with "
                "embedding='...'"
            )

    def detach(self) -> None:
        """Leave the module as it was."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        if self.subspaces is not None:
            self.subspaces.activate(None)
            self._loaded = self.state()

    def set_depth(self, depth: int) -> None:
        """Split the subspaces, or merge siblings, until there are ``2 ** depth``; :meth:`attach` is told otherwise."""
        if self.subspaces is None:
            return
        self._is_new = True
        changes = depth != self.subspaces.depth
        self.subspaces.set_depth(depth)
        if changes and self._optimizer is not None:
            self._optimizer.reset()

    def activate(self, learner: int | None, *, divided: bool) -> None:
        """Make a learner the active one, None for the full embedding.

        Args:
            learner: whose batch comes next.
            divided: whether the epoch trains subspaces.
        """
        if self.subspaces is not None:
            self.subspaces.activate(learner)
        if self._is_new and learner is not None:
            self.watch()
        if self._optimizer is not None:
            self._optimizer.divided = divided

    def drop_gradients(self, optimizer: Optimizer) -> None:
        """Forget whose gradients were accumulated, since they are dropped without a step."""
        if self.subspaces is not None:
            self.subspaces.usage.drop_gradients(optimizer, self.active)
        if self._optimizer is not None:
            self._optimizer.drop_gradients(optimizer)

    def freeze_backbone(self) -> None:
        """Remove the gradients of all parameters but those of the embedding layer and the losses."""
        for parameter in self._backbone:
            parameter.grad = None

    def describe(self) -> dict[str, Any]:
        """Return what a training keeps for good, as plain values."""
        return {} if self.subspaces is None else {"subspaces": self.kind, "width": self.subspaces.width}

    @property
    def kind(self) -> str:
        """The class of the subspaces."""
        return type(self.subspaces).__name__

    def state(self) -> dict[str, Any] | None:
        """Return what learners have of their own, as tensors and plain values."""
        if self.subspaces is None:
            return self._loaded
        return {
            "kind": self.kind,
            "values": self.subspaces.state(),
            "used": self.subspaces.usage.state(),
            "masked": self.is_masked,
            "is_new": self._is_new,
            "optimizer": None if self._optimizer is None else self._optimizer.state(),
        }

    def load_state(self, state: dict[str, Any] | None) -> None:
        """Restore what :meth:`state` returned, now or when the learners are attached."""
        self._loaded = state
        if self._handles:
            self._restore()

    def reset(self) -> None:
        """Begin anew with the next fit."""
        self.detach()
        self.subspaces = self._loaded = None
        self._is_new = False

    def _restore(self) -> None:
        state, self._loaded = self._loaded, None
        if state is None or self.subspaces is None:
            return
        if state["kind"] != self.kind:
            raise InputError(
                f"the checkpoint was written with subspaces={state['kind']!r}; resume with those instead of "
                f"{self.kind!r}"
            )
        self.subspaces.load_state(state["values"])
        self.subspaces.usage.load_state(state["used"])
        self._is_new = state.get("is_new", False)
        if state.get("masked"):
            self.mask_output()
        if state["optimizer"] is not None and self._optimizer is not None:
            self._optimizer.load_state(state["optimizer"])
