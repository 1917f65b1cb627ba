"""What happens in which epoch: divide, freeze, merge, conquer."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal

from divconq_pl.errors import InputError

MERGE_AT = 0.5
"""The share of the training after which ``merge_at="auto"`` merges."""

_DEEPEST = 30

Phase = Literal["undivided", "divided", "merged", "conquered"]


@dataclass(frozen=True)
class Stage:
    """What an epoch is.

    Attributes:
        phase: ``"undivided"`` before the first division; ``"divided"`` while every learner trains its own subspace on
            its own cluster; ``"merged"`` while the full embedding is trained on batches that still come from single
            clusters; ``"conquered"`` once it is trained on all the data.
        depth: depth of the tree of clusters: there are ``2 ** depth`` learners.
        divides: whether the epoch begins with a division.
        frozen: whether the backbone stays as it is in this epoch.
    """

    phase: Phase
    depth: int
    divides: bool = False
    frozen: bool = False

    def summarise(self) -> str:
        """Name the stage in a few words, as a part of a plan."""
        if self.phase == "divided":
            return f"{2**self.depth} learners"
        if self.phase == "merged":
            return f"merged, the full embedding on single-cluster batches from {2**self.depth} clusters"
        return "undivided" if self.phase == "undivided" else "conquered, the full embedding on all the data"

    def describe(self, num_clusters: int) -> str:
        """Say in words what is trained on what while there are ``num_clusters`` clusters."""
        if self.phase == "undivided":
            return "one learner trains the full embedding on all the data"
        if self.phase == "conquered":
            return "the full embedding is trained on all the data"
        whose = "the full embedding is trained" if self.phase == "merged" else "every learner trains its own subspace"
        return f"{whose} on batches from single clusters, {num_clusters} of them"


class ConquerScheduler:
    """Say for every epoch which :class:`Stage` it is; a pure function of the epoch.

    The first division comes after the warm-up, the next ones every ``every_n_epochs`` epochs. Top-down
    (``flat=False``, TPAMI 2021) each of them doubles the number of learners until there are ``2 ** split_depth``; flat
    (CVPR 2019) the first one makes them all. From ``merge_at`` on the full embedding is trained on single-cluster
    batches, from ``conquer_at`` on it is trained on all the data; the embedding is the same function at test time in
    every stage. By default it merges in the middle of the training and stays merged; the authors' command of 2021
    merges at 80 of 180 epochs and stays merged, too.

    Epochs may be given as whole numbers or as a fraction of ``max_epochs`` (a float between 0 and 1).

    Another rule is a subclass with its own :meth:`stage`; one with arguments of its own adds them to :meth:`settings`.

    Args:
        split_depth: how many times the data and the embedding are halved; 0 is plain training.
        every_n_epochs: division period T.
        warmup_epochs: epochs before the first division; one division period by default.
        freeze_epochs: epochs after each division in which the backbone is frozen.
        merge_at: epoch of the merge; None is never, and 0 trains no subspaces at all, only clusters. ``"auto"`` is the
            fraction :data:`MERGE_AT`, or never where ``conquer_at`` is given or ``max_epochs`` is unknown.
        conquer_at: epoch of the conquer stage; never by default.
        flat: make all clusters at the first division instead of top-down.
        progressive: conquer up the tree, one level every T epochs, instead of all at once.
        max_epochs: length of the training; needed for fractions.

    Raises:
        InputError: if a value is out of range or of the wrong kind, or the merge comes after the conquer stage.

    Example:
        >>> for stages in ConquerScheduler(split_depth=2, every_n_epochs=2, max_epochs=12).describe(12).split("; "):
        ...     print(stages)
        epochs 0-1: undivided
        2-3: 2 learners
        4-5: 4 learners
        from 6 on: merged, the full embedding on single-cluster batches from 4 clusters
        5 divisions in all
    """

    def __init__(
        self,
        split_depth: int = 2,
        *,
        every_n_epochs: int = 2,
        warmup_epochs: int | float | None = None,
        freeze_epochs: int = 0,
        merge_at: int | float | Literal["auto"] | None = "auto",
        conquer_at: int | float | None = None,
        flat: bool = False,
        progressive: bool = False,
        max_epochs: int | None = None,
    ) -> None:
        _check_kinds(int, split_depth=split_depth, every_n_epochs=every_n_epochs, freeze_epochs=freeze_epochs)
        _check_kinds(bool, flat=flat, progressive=progressive)
        if split_depth < 0:
            raise InputError(f"split_depth={split_depth} is negative; 0 is plain training, 3 makes 8 learners")
        if split_depth > _DEEPEST:
            raise InputError(f"split_depth={split_depth} makes more learners than any data have images; 3 makes 8")
        if every_n_epochs < 1:
            raise InputError(f"every_n_epochs={every_n_epochs} must be at least 1 epoch")
        if not 0 <= freeze_epochs <= every_n_epochs:
            raise InputError(f"freeze_epochs={freeze_epochs} must lie between 0 and every_n_epochs={every_n_epochs}")
        if flat and progressive:
            raise InputError("flat=True has no tree to conquer up; use progressive=False")
        self.split_depth = split_depth
        self.every_n_epochs = every_n_epochs
        self.freeze_epochs = freeze_epochs
        self.flat = flat
        self.progressive = progressive
        max_epochs = _known(max_epochs)
        automatic = isinstance(merge_at, str) and merge_at == "auto"
        self._unknown_merge = automatic and conquer_at is None and max_epochs is None
        if automatic:
            merge_at = None if conquer_at is not None or self._unknown_merge else MERGE_AT
        self.first_division = (
            every_n_epochs if warmup_epochs is None else _find_epoch("warmup_epochs", warmup_epochs, max_epochs)
        )
        self.conquer_at = None if conquer_at is None else _find_epoch("conquer_at", conquer_at, max_epochs)
        self.merge_at = None if merge_at is None else _find_epoch("merge_at", merge_at, max_epochs)
        in_order = self.merge_at is None or self.conquer_at is None or self.merge_at <= self.conquer_at
        if split_depth and not in_order:
            raise InputError(
                f"merge_at={merge_at} (epoch {self.merge_at}) comes after conquer_at={conquer_at} (epoch "
                f"{self.conquer_at}); merge first"
            )

    def settings(self) -> dict[str, Any]:
        """Return what decides how the training goes, as plain values, by which a checkpoint is compared."""
        return {
            "schedule": type(self).__name__,
            "split_depth": self.split_depth,
            "every_n_epochs": self.every_n_epochs,
            "first_division": self.first_division,
            "freeze_epochs": self.freeze_epochs,
            "merge_at": self.merge_at,
            "conquer_at": self.conquer_at,
            "flat": self.flat,
            "progressive": self.progressive,
        }

    def describe(self, max_epochs: int | None) -> str:
        """Tell the plan in words before the first step, stage by stage.

        Args:
            max_epochs: length of the training. Where it is unknown (None or -1), all changes of the plan are told.
        """
        if not self.split_depth:
            return "all epochs: plain training with one learner"
        max_epochs = _known(max_epochs)
        epochs = range(self._last_change() + 1 if max_epochs is None else max(1, max_epochs))
        stages = [self.stage(epoch) for epoch in epochs]
        parts = []
        for doing, group in groupby(epochs, lambda epoch: stages[epoch].summarise()):
            first, *others = group
            last = others[-1] if others else first
            when = f"from {first} on" if last == epochs[-1] else f"{first}-{last}" if others else f"{first}"
            parts.append(f"{when}: {doing}")
        parts[0] = f"all epochs: {stages[0].summarise()}" if len(parts) == 1 else f"epochs {parts[0]}"
        if max_epochs is not None:
            divisions = sum(stage.divides for stage in stages)
            parts.append(f"{divisions} division{'' if divisions == 1 else 's'} in all")
            if stages[-1].phase == "divided":
                parts.append("the training ends in the divided stage: no epoch trains the full embedding after it")
        if any(stage.frozen for stage in stages):
            parts.append(f"the backbone is frozen for {self.freeze_epochs} of {self.every_n_epochs} epochs each")
        return "; ".join(parts)

    def shortfall(self, max_epochs: int | None) -> str | None:
        """Say what of the plan cannot come about in so many epochs, or None.

        That is: fewer than ``2 ** split_depth`` learners when the training or the divided stage ends, no divided stage
        at all, a stage that would come after the end, or a default that needs ``max_epochs`` where that is unknown.
        """
        if not self.split_depth:
            return None
        told = []
        training = _known(max_epochs)
        reached = self.first_division + (0 if self.flat else max(0, self.split_depth - 1)) * self.every_n_epochs
        # merge_at=0 asks for clusters without subspaces, so it does not end anything.
        ends = [epoch for epoch in (training, self.merge_at or None, self.conquer_at) if epoch is not None]
        if ends and reached >= min(ends):
            never = min(ends) <= self.first_division and min(ends) != training
            told.append(
                f"split_depth={self.split_depth} would be reached in epoch {reached}, but the divided stage ends with "
                f"epoch {min(ends)}{', so no learner ever trains a subspace of its own' if never else ''}; use a "
                f"smaller split_depth, a smaller every_n_epochs than {self.every_n_epochs}, or more epochs"
            )
        for name, epoch in (("merge_at", self.merge_at), ("conquer_at", self.conquer_at)):
            if training is not None and epoch is not None and epoch > training:
                told.append(
                    f"{name}={epoch} lies beyond the {training} epochs of the training, so it never comes; a share of "
                    f"the training is a fraction, such as {name}=0.75"
                )
        if self._unknown_merge:
            told.append("max_epochs is not set, so there is no merge by default; give merge_at as a whole epoch")
        return ". ".join(told) or None

    def stage(self, epoch: int) -> Stage:
        """Return what ``epoch`` (0, 1, ...) is."""
        if self.split_depth == 0 or epoch < self.first_division:
            return Stage("undivided", 0)
        if self.conquer_at is not None and epoch >= self.conquer_at:
            return self._conquer_stage(epoch - self.conquer_at)
        divisions, since = divmod(epoch - self.first_division, self.every_n_epochs)
        return Stage(
            "divided" if self.merge_at is None or epoch < self.merge_at else "merged",
            depth=self.split_depth if self.flat else min(divisions + 1, self.split_depth),
            divides=since == 0,
            frozen=since < self.freeze_epochs,
        )

    def divides_after(self, epoch: int, max_epochs: int | None) -> bool:
        """Tell whether an epoch after ``epoch`` begins with a division; where no end is set one is taken to."""
        end = _known(max_epochs)
        return end is None or any(self.stage(later).divides for later in range(epoch + 1, end))

    def _conquer_stage(self, epochs: int) -> Stage:
        assert self.conquer_at is not None
        reached = self.stage(self.conquer_at - 1).depth if self.progressive and self.conquer_at else 0
        depth = max(0, reached - 1 - epochs // self.every_n_epochs)
        if depth == 0:
            return Stage("conquered", 0)
        return Stage("divided" if self.merge_at is None else "merged", depth)

    def _last_change(self) -> int:
        """Return the first epoch from which on all are alike, but for divisions."""
        grown = self.first_division + (0 if self.flat else self.split_depth - 1) * self.every_n_epochs
        ends = [grown] if self.merge_at is None else [grown, self.merge_at]
        if self.conquer_at is not None:
            ends.append(self.conquer_at + (self.split_depth * self.every_n_epochs if self.progressive else 0))
        return max(ends)


def check_single_plan(schedule: ConquerScheduler | None, plan: Mapping[str, Any]) -> None:
    """Refuse a schedule together with settings from which another one would be made.

    Args:
        schedule: a schedule, if one is given.
        plan: what :class:`.ConquerScheduler` would be made from; its defaults do not count as given.

    Raises:
        InputError: it names the settings.
    """
    if schedule is not None and not hasattr(schedule, "split_depth"):
        raise InputError(
            f"{type(schedule).__name__} has no split_depth; call super().__init__(split_depth=...) in its __init__"
        )
    defaults = {name: p.default for name, p in inspect.signature(ConquerScheduler).parameters.items()}
    if schedule is not None and (given := [f"{k}={v!r}" for k, v in plan.items() if v != defaults[k]]):
        raise InputError(
            f"schedule={type(schedule).__name__}(...) comes with {', '.join(given)}; give either the schedule or what "
            "one is made from, not both"
        )


def _known(max_epochs: int | None) -> int | None:
    """Return how many epochs a training has, None also where a Trainer says -1."""
    return None if max_epochs is None or max_epochs < 0 else max_epochs


def _check_kinds(kind: type[int], **values: object) -> None:
    for name, value in values.items():
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise InputError(f"{name}={value!r} must be {'True or False' if kind is bool else 'a whole number'}")


def _find_epoch(name: str, value: object, max_epochs: int | None) -> int:
    """Turn a fraction of the training into an epoch."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    if not isinstance(value, float) or not 0 <= value <= 1:
        raise InputError(f"{name}={value!r} must be an epoch (0, 1, ...) or a fraction between 0.0 and 1.0")
    if max_epochs is None:
        raise InputError(f"{name}={value} is a fraction of max_epochs, which is not set; give it as a whole epoch")
    return round(value * max_epochs)
