"""What the settings of a sweep reached, and what dividing changed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from divconq_pl.app.results import name_setting


def gains(names: Sequence[str], rows: Sequence[Mapping[str, Any]], runs: Sequence[Mapping[str, Any]]) -> Figure:
    """Show Recall@1 of each run and the mean of its setting, and the paired difference to the plain loss.

    Args:
        names: of the settings.
        rows: the settings, as :func:`.summarise` gives them.
        runs: their runs.

    Returns:
        The figure; its right half is left out where no setting was compared.
    """
    compared = [row.get("gain/recall_at_1") for row in rows]
    figure = Figure(figsize=(9 if any(compared) else 5.5, 1.4 + 0.32 * len(rows)), layout="constrained")
    left, *right = figure.subplots(1, 2 if any(compared) else 1, sharey=True, squeeze=False)[0]
    for place, row in enumerate(rows):
        own = [
            run for run in runs if name_setting(run.get("overrides") or []) == name_setting(row.get("overrides") or [])
        ]
        values = [100 * run["test/recall_at_1"] for run in own if run.get("test/recall_at_1") is not None]
        left.plot(values, [place] * len(values), "o", color="tab:blue", alpha=0.4, markersize=4)
        left.plot(100 * row.get("test/recall_at_1", math.nan), place, "|", color="black", markersize=13)
    left.set_yticks(range(len(rows)), names)
    left.set_ylim(len(rows) - 0.5, -0.5)
    left.set_xlabel("R@1, %: each run, and the mean")
    for axes in right:
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set_xlabel("R@1 against plain, points (95 % interval)")
        for place, gain in enumerate(compared):
            if gain is not None:
                reach = None if math.isnan(gain.low) else 100 * (gain.high - gain.mean)
                axes.errorbar(100 * gain.mean, place, xerr=reach, fmt="o", capsize=3, color="tab:blue")
    for axes in (left, *right):
        axes.spines[["top", "right"]].set_visible(False)
    return figure
