"""What happens in which epoch: divide, freeze, merge, conquer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from divconq_pl.errors import InputError

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
    every stage. Override :meth:`stage` for another plan.

    Epochs may be given as whole numbers or as a fraction of ``max_epochs`` (a float between 0 and 1).

    Args:
        split_depth: how many times the data and the embedding are halved; 0 is plain training.
        every_n_epochs: division period T.
        warmup_epochs: epochs before the first division; one division period by default.
        freeze_epochs: epochs after each division in which the backbone is frozen.
        merge_at: epoch of the merge; never by default.
        conquer_at: epoch of the conquer stage; never by default.
        flat: divide into all clusters at once.
        progressive: conquer up the tree: from ``conquer_at`` on siblings merge, one level every ``every_n_epochs``.
        max_epochs: epochs of the training; needed for fractions.

    Raises:
        InputError: if a value is out of range, or the merge comes after the conquer stage.

    Example:
        >>> schedule = ConquerScheduler(split_depth=2, every_n_epochs=2, conquer_at=0.75, max_epochs=8)
        >>> [(schedule.stage(epoch).phase, schedule.stage(epoch).depth) for epoch in (0, 2, 4, 6)]
        [('undivided', 0), ('divided', 1), ('divided', 2), ('conquered', 0)]
    """

    def __init__(
        self,
        split_depth: int = 2,
        *,
        every_n_epochs: int = 2,
        warmup_epochs: int | float | None = None,
        freeze_epochs: int = 0,
        merge_at: int | float | None = None,
        conquer_at: int | float | None = None,
        flat: bool = False,
        progressive: bool = False,
        max_epochs: int | None = None,
    ) -> None:
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
        self.first_division = (
            every_n_epochs if warmup_epochs is None else _epoch("warmup_epochs", warmup_epochs, max_epochs)
        )
        self.conquer_at = None if conquer_at is None else _epoch("conquer_at", conquer_at, max_epochs)
        self.merge_at = None if merge_at is None else _epoch("merge_at", merge_at, max_epochs)
        in_order = self.merge_at is None or self.conquer_at is None or self.merge_at <= self.conquer_at
        if split_depth and not in_order:
            raise InputError(
                f"merge_at={merge_at} (epoch {self.merge_at}) comes after conquer_at={conquer_at} (epoch "
                f"{self.conquer_at}); merge first"
            )

    def settings(self) -> dict[str, Any]:
        """Return what decides how the training goes, as plain values."""
        names = ("split_depth", "every_n_epochs", "first_division", "freeze_epochs", "merge_at", "conquer_at", "flat")
        return {name: getattr(self, name) for name in (*names, "progressive")}

    def shortfall(self, max_epochs: int | None) -> str | None:
        """Say that the training or the divided stage ends before there are ``2 ** split_depth`` learners, or None."""
        reached = self.first_division + (0 if self.flat else max(0, self.split_depth - 1)) * self.every_n_epochs
        ends = [epoch for epoch in (max_epochs, self.merge_at, self.conquer_at) if epoch is not None and epoch >= 0]
        if not self.split_depth or not ends or reached < min(ends):
            return None
        return (
            f"split_depth={self.split_depth} would be reached in epoch {reached}, but the divided stage ends with "
            f"epoch {min(ends)}; use a smaller split_depth, a smaller every_n_epochs than {self.every_n_epochs}, or "
            "more epochs"
        )

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

    def _conquer_stage(self, epochs: int) -> Stage:
        assert self.conquer_at is not None
        reached = self.stage(self.conquer_at - 1).depth if self.progressive and self.conquer_at else 0
        depth = max(0, reached - 1 - epochs // self.every_n_epochs)
        if depth == 0:
            return Stage("conquered", 0)
        return Stage("divided" if self.merge_at is None else "merged", depth)


def _epoch(name: str, value: int | float, max_epochs: int | None) -> int:
    """Turn a fraction of the training into an epoch."""
    if value < 0 or (isinstance(value, float) and value > 1):
        raise InputError(f"{name}={value} must be an epoch (0, 1, ...) or a fraction between 0.0 and 1.0")
    if isinstance(value, int):
        return value
    if max_epochs is None or max_epochs < 0:
        raise InputError(f"{name}={value} is a fraction of max_epochs, which is not set; give it as a whole epoch")
    return round(value * max_epochs)
