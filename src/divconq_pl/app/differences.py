"""Did it help? Differences between runs, each with its 95 % interval, and the sentence that says so."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtrit  # Student's t, without scipy.stats, which takes long to import

from divconq_pl.app.results import name_setting

_CONFIDENCE = 0.95
_OF_DIVISION = ("divide=", "divide.")
_PLAIN = {"divide=none", "divide.split_depth=0"}


class Difference(NamedTuple):
    """A mean difference with its 95 % interval; the interval is NaN where there is too little to tell.

    Attributes:
        mean: the mean difference.
        low, high: the ends of the interval.
        over: what it was computed over, in words.
    """

    mean: float
    low: float
    high: float
    over: str

    def describe(self, unit: str = "points") -> str:
        """Say it in words; differences of fractions are in percentage points.

        Example:
            >>> Difference(0.11, 0.082, 0.138, "5 seeds").describe()
            '+11.0 points, 95 % interval over 5 seeds +8.2 to +13.8'
        """
        text = f"{100 * self.mean:+.1f} {unit}"
        if math.isnan(self.low):
            return f"{text}, of which {self.over} can give no interval"
        return f"{text}, 95 % interval over {self.over} {100 * self.low:+.1f} to {100 * self.high:+.1f}"

    def abbreviate(self) -> str:
        """Say it in a cell of a table, in percentage points, in Markdown: bold where the interval excludes 0.

        Example:
            >>> Difference(0.11, 0.082, 0.138, "5 seeds").abbreviate()
            '**+11.0 [+8.2, +13.8]**'
        """
        text = f"{100 * self.mean:+.1f}"
        if math.isnan(self.low):
            return text
        text += f" [{100 * self.low:+.1f}, {100 * self.high:+.1f}]"
        return f"**{text}**" if self.low > 0 or self.high < 0 else text

    def judge(self) -> str:
        """Answer whether it helped, in a word or two."""
        if self.low > 0:
            return "it helped"
        if self.high < 0:
            return "it hurt"
        return "no difference that this could show"


def pair_over_seeds(values: ArrayLike, others: ArrayLike) -> Difference:
    """Compare runs with other runs of the same seeds, by Student's t of the differences.

    Example:
        >>> pair_over_seeds([0.8, 0.7, 0.9], [0.7, 0.6, 0.8]).describe()
        '+10.0 points, 95 % interval over 3 seeds +10.0 to +10.0'
    """
    differences = np.asarray(values, dtype=float) - np.asarray(others, dtype=float)
    count = len(differences)
    error = differences.std(ddof=1) / math.sqrt(count) if count > 1 else math.nan
    return _with_interval(float(differences.mean()), error, count, f"{count} seed{'s' if count > 1 else ''}")


def pair_over_classes(values: ArrayLike, others: ArrayLike, classes: ArrayLike) -> Difference:
    """Compare two runs query by query, on the same test images.

    Queries of one class are no independent trials, so the standard error is that of a mean over clusters of queries,
    one for each class. It says how much other test classes could change the difference, not how much other seeds could.

    Args:
        values: a metric of each query, shape (Q,); NaN for queries that are left out.
        others: those of the other run.
        classes: class of each query.

    Returns:
        The mean of ``values`` less that of ``others``.
    """
    differences = np.asarray(values, dtype=float) - np.asarray(others, dtype=float)
    kept = ~np.isnan(differences)
    differences, names = differences[kept], np.unique(np.asarray(classes)[kept], return_inverse=True)[1]
    if not len(differences):
        return Difference(math.nan, math.nan, math.nan, "no query")
    count, mean = int(names.max()) + 1, float(differences.mean())
    sums = np.bincount(names, weights=differences - mean)
    error = math.sqrt(count / (count - 1) * (sums**2).sum()) / len(differences) if count > 1 else math.nan
    return _with_interval(mean, error, count, f"{count:,} test classes")


def _with_interval(mean: float, error: float, count: int, over: str) -> Difference:
    reach = error * float(stdtrit(count - 1, (1 + _CONFIDENCE) / 2)) if count > 1 else math.nan
    return Difference(mean, mean - reach, mean + reach, over)


def is_plain(overrides: Sequence[str]) -> bool:
    """Tell whether a run with these overrides trains the plain loss."""
    return bool(_PLAIN & set(overrides))


def without_division(overrides: Sequence[str]) -> list[str]:
    """Return overrides without those that say how to divide."""
    return [text for text in overrides if not text.lstrip("+~").startswith(_OF_DIVISION)]


def pair_with_plain(
    rows: Sequence[Mapping[str, Any]], metric: str = "test/recall_at_1"
) -> dict[tuple[str, ...], tuple[Difference, float, float]]:
    """Compare each divided setting of a sweep with the plain runs of the same seeds that differ in nothing else.

    Args:
        rows: results of runs with their ``overrides``, one each.
        metric: what is compared.

    Returns:
        By :func:`.name_setting`: the difference, and the two means, of the plain runs first.
    """
    plain = {
        tuple(sorted(without_division(row["overrides"]))): row
        for row in rows
        if _is_comparable(row, metric, plain=True)
    }
    pairs: dict[tuple[str, ...], list[tuple[float, float]]] = {}
    for row in rows:
        other = plain.get(tuple(sorted(without_division(row.get("overrides") or []))))
        if other is not None and _is_comparable(row, metric, plain=False):
            pairs.setdefault(name_setting(row["overrides"]), []).append((row[metric], other[metric]))
    found = {}
    for name, both in pairs.items():
        ours, theirs = zip(*both, strict=True)
        found[name] = (pair_over_seeds(ours, theirs), float(np.mean(theirs)), float(np.mean(ours)))
    return found


def compare_sweep(rows: Sequence[Mapping[str, Any]], metric: str = "test/recall_at_1") -> list[str]:
    """Say of each setting of a sweep whether dividing helped: against the plain runs with the same seeds.

    Args:
        rows: results of runs with their ``overrides``, one each.
        metric: what is compared.

    Returns:
        One sentence for each setting; none where the sweep has no plain runs that differ in nothing else.
    """
    found = pair_with_plain(rows, metric)
    given: dict[tuple[str, ...], list[str]] = {}
    for row in rows:
        given.setdefault(name_setting(row.get("overrides") or []), list(row.get("overrides") or []))
    common = set.intersection(*map(set, given.values())) if given else set()
    said = []
    for name, (difference, theirs, ours) in found.items():
        shown = [text for text in given[name] if text in name and text not in common]
        what = " ".join(text for text in shown if text.lstrip("+").startswith("divide")) or "divided"
        rest = " ".join(text for text in shown if not text.lstrip("+").startswith("divide"))
        said.append(
            f"{what} against the plain loss{f' ({rest})' if rest and len(found) > 1 else ''}: "
            f"R@1 {100 * theirs:.1f} -> {100 * ours:.1f}, {difference.describe()}; "
            + ("repeat it with seed=0,1,2" if math.isnan(difference.low) else difference.judge())
        )
    return said


def _is_comparable(row: Mapping[str, Any], metric: str, *, plain: bool) -> bool:
    return row.get("overrides") is not None and row.get(metric) is not None and is_plain(row["overrides"]) == plain
