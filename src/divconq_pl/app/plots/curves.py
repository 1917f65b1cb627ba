"""How a training went."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from divconq_pl.errors import InputError


def curves(epochs: Sequence[Mapping[str, Any]], divisions: Sequence[int] = ()) -> Figure:
    """Show the loss and the validation's Recall@1 and MAP@R over the epochs, with divisions dotted.

    Args:
        epochs: what :class:`.Journal` has noted of each.
        divisions: the epochs that began with one.

    Returns:
        The figure.

    Raises:
        InputError: if there is no epoch.
    """
    if not epochs:
        raise InputError("a run without an epoch has no curve: give the notes of at least one")
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    figure.suptitle("How the training went", fontsize=13, weight="bold")
    left, right = figure.subplots(1, 2)
    weights = [{k: count for k, count in noted["batches"].items() if k in noted["losses"]} for noted in epochs]
    means = [
        sum(noted["losses"][k] * count for k, count in parts.items()) / sum(parts.values()) if parts else float("nan")
        for noted, parts in zip(epochs, weights, strict=True)
    ]
    left.plot([noted["epoch"] for noted in epochs], means, "o-", markersize=3)
    left.set(title="mean training loss; it jumps where data are divided", xlabel="epoch")
    for name, label in (("val/recall_at_1", "R@1"), ("val/map_at_r", "MAP@R")):
        known = [(noted["epoch"], noted["metrics"][name]) for noted in epochs if name in noted["metrics"]]
        if known:
            right.plot(*zip(*known, strict=True), "o-", markersize=3, label=label)
    right.set(title="validation classes", xlabel="epoch")
    if right.lines:
        right.legend(frameon=False)
    for axes in (left, right):
        axes.title.set_fontsize(10)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.spines[["top", "right"]].set_visible(False)
        for number, epoch in enumerate(divisions):
            axes.axvline(epoch - 0.5, color="#66727f", linestyle=":", linewidth=0.9, gid=f"division {number}")
    return figure
