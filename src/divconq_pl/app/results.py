"""The results of runs: in files, collected, averaged and beside published figures.

A run's results are one flat mapping, which ``results.json`` in its folder holds: ``name`` and ``overrides`` (what was
asked for), ``test/recall_at_<K>``, ``test/map_at_r``, ``test/r_precision`` and, where computed, ``test/nmi``,
``test/marp``, ``test/reid_recall_at_<K>``, ``test/cross_camera_map`` and so on as fractions in [0, 1], ``test/images``,
``test/classes`` and, where there is a gallery, ``test/queries`` (how many), ``protocol`` (what was asked),
``per_class`` (see :mod:`divconq_pl.metrics.per_class`), ``train/seconds``, ``epoch`` (the
one that was tested, from 0), ``selection`` (how it was chosen), ``division/first_epoch`` (the one
that began with the first division), ``last/epoch`` and ``last/val/recall_at_1`` (of the
last epoch, beside ``val/recall_at_1`` of the best), and ``published/source`` with ``published/recall_at_1`` and so on:
what somebody published for the same.
"""

from __future__ import annotations

import json
import math
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from divconq_pl.errors import InputError
from divconq_pl.files import write_atomically

Row = Mapping[str, Any]

RESULTS_FILE = "results.json"
SELECTIONS = {
    "validation": "best epoch by validation",
    "best_test_epoch": "best epoch chosen on these very classes, which inflates the figures",
    "last_epoch": "last epoch",
}
"""How the epoch that is tested was chosen, and how a table says it."""
PROTOCOLS = {
    "open": "Unseen classes",
    "closed": "New images of classes that were trained on",
    "train_gallery": "New images of classes that were trained on, looked for among the training images",
}
"""What a test asks for, and how a table says it."""
METRICS = {
    "recall_at_": "R@",
    "map_at_r": "MAP@R",
    "r_precision": "R-prec",
    "marp": "mARP",
    "nmi": "NMI",
    "reid_recall_at_": "re-id R@",
    "cross_camera_map": "cross-camera mAP",
    "cross_camera_cmc_": "cross-camera CMC@",
    "reranked_map": "re-ranked mAP",
    "reranked_cmc_": "re-ranked CMC@",
}
"""The metrics of a test with their headings, in the order of a table; a K follows those that end in ``_``."""
PUBLISHED = "published/"
"""What the keys of published figures begin with."""

_REPEATED = ("seed=", "dataset.fold=")


def write_json(path: str | Path, mapping: Mapping[str, Any]) -> Path:
    """Write a mapping as JSON, atomically, with its keys sorted and nested keys joined by dots.

    Args:
        path: where the file goes; missing folders are made.
        mapping: values are text, numbers (NumPy's and tensors of one element too), None, or lists of them. NaN and
            infinity, which JSON cannot say, become null.

    Returns:
        The path.

    Example:
        >>> import tempfile
        >>> path = write_json(Path(tempfile.mkdtemp()) / "results.json", {"b": float("nan"), "a": {"recall_at_1": 0.5}})
        >>> print(path.read_text().strip())
        {
          "a.recall_at_1": 0.5,
          "b": null
        }
    """
    text = json.dumps(flatten(mapping), indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n"
    return write_atomically(path, text)


def check_published(figures: Mapping[str, Any] | None) -> dict[str, Any]:
    """Check figures that somebody published, and name them as results of a run do, to be shown beside its own.

    Args:
        figures: ``source``, where they are from, and metrics as fractions in [0, 1]: ``recall_at_<K>``, ``nmi``,
            ``marp``, ``map_at_r``, ``r_precision``, ``reid_recall_at_<K>``. None for none.

    Returns:
        The same under ``published/source``, ``published/recall_at_<K>`` and so on.

    Raises:
        InputError: if the source or every metric is missing, or a metric is unknown or not a fraction.

    Example:
        >>> check_published({"source": "TPAMI 2021, table 3", "recall_at_1": 0.8722})
        {'published/source': 'TPAMI 2021, table 3', 'published/recall_at_1': 0.8722}
    """
    if not figures:
        return {}
    metrics = {key: value for key, value in figures.items() if key != "source"}
    if not figures.get("source") or not metrics:
        raise InputError("published needs a source and figures, such as published={source: Table 3, recall_at_1: 0.87}")
    for key, value in metrics.items():
        if split_metric(key) is None:
            raise InputError(f"published.{key} is not a metric; use a name such as recall_at_1, nmi or marp")
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
            raise InputError(f"published.{key}={value} must be a fraction between 0 and 1, such as 0.8722")
    return {f"{PUBLISHED}{key}": value for key, value in figures.items()}


def split_metric(key: str) -> tuple[str, str] | None:
    """Split the name of a metric into its entry of :data:`METRICS` and its K; None if it is no metric.

    Example:
        >>> split_metric("recall_at_10"), split_metric("nmi"), split_metric("recall_at_")
        (('recall_at_', '10'), ('nmi', ''), None)
    """
    name = key.rstrip("0123456789")
    k = key.removeprefix(name)
    return (name, k) if name in METRICS and name.endswith("_") == bool(k) else None


def name_selection(validate_on: str | None, *, validated: bool) -> str:
    """Name how the epoch that was tested was chosen: one of :data:`SELECTIONS`.

    Args:
        validate_on: what validation runs on, ``"val"``, ``"test"`` or None.
        validated: whether any epoch was.
    """
    if not validated:
        return "last_epoch"
    return "best_test_epoch" if validate_on == "test" else "validation"


def describe_selection(rows: Iterable[Row]) -> str:
    """Say how the epochs of some runs were chosen, for a heading."""
    return "; ".join(
        text for selection, text in SELECTIONS.items() if any(r.get("selection") == selection for r in rows)
    )


def describe_protocol(rows: Iterable[Row]) -> str:
    """Say what the tests of some runs asked for, for a heading; a run that does not say it asked for new classes."""
    asked = {row.get("protocol", "open") for row in rows}
    return "; ".join(text for protocol, text in PROTOCOLS.items() if protocol in asked)


def describe_images(rows: Sequence[Row]) -> str:
    """Say what results are of, for a heading; empty where they do not say it.

    Example:
        >>> describe_images([{"test/images": 128, "test/classes": 16}, {"test/images": 130, "test/classes": 16}])
        '128 to 130 images of 16 classes'
    """
    spans = {}
    for what in ("queries", "images", "classes"):
        if counts := [row[f"test/{what}"] for row in rows if row.get(f"test/{what}") is not None]:
            least, most = round(min(counts)), round(max(counts))
            spans[what] = f"{least} {what}" if least == most else f"{least} to {most} {what}"
    images = " in ".join(spans[what] for what in ("queries", "images") if what in spans)
    return f"{images} of {spans['classes']}" if "classes" in spans and images else ""


def read_results(folder: Path) -> dict[str, Any]:
    """Read the results of a run.

    Args:
        folder: of the run.

    Raises:
        InputError: if it holds none, or something else in their place.
    """
    try:
        results = json.loads((folder / RESULTS_FILE).read_text(encoding="utf-8"))
        if not isinstance(results, dict):
            raise ValueError(f"it holds a JSON {type(results).__name__}, not a mapping")
    except (OSError, ValueError) as error:
        raise InputError(
            f"{str(folder)!r} is no folder of a finished run: its {RESULTS_FILE} cannot be read ({error})"
        ) from error
    return results


def collect_runs(folder: str | Path) -> list[dict[str, Any]]:
    """Read the results of every run below the folder of a Hydra multirun.

    Args:
        folder: the multirun's folder, which holds one folder per run. Runs without results (unfinished ones) are
            left out.

    Returns:
        One mapping per run, in the order of the folders' names (2 before 10); ``name`` is the folder's where the run
        has none.

    Raises:
        InputError: if the folder does not exist; likewise as :func:`read_results`.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"'{folder}' is not a folder: give the folder of a multirun, which holds one folder per run")
    runs = sorted((path.parent for path in folder.glob(f"*/{RESULTS_FILE}")), key=lambda run: split_numbers(run.name))
    return [{"name": run.name, **read_results(run)} for run in runs]


def name_setting(overrides: Iterable[str]) -> tuple[str, ...]:
    """Name what runs have in common that differ only in ``seed=`` or ``dataset.fold=``, in whatever order it was given.

    Example:
        >>> name_setting(["seed=1", "loss=margin", "divide=none"])
        ('divide=none', 'loss=margin')
    """
    return tuple(sorted(without_repetition(overrides)))


def without_repetition(overrides: Iterable[str]) -> list[str]:
    """Return overrides but for ``seed=`` and ``dataset.fold=``."""
    return [text for text in overrides if not text.startswith(_REPEATED)]


def average_over_seeds(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """Average runs that differ only in ``seed=`` or ``dataset.fold=``: mean and standard deviation of every number.

    Args:
        rows: results of runs, as ``collect_runs`` gives them. Runs that do not say their overrides stay single.

    Returns:
        One mapping per group, in the order of the first of each, with ``runs`` (how many); of groups of several runs
        each number is the mean over the runs that have it and ``<key>_std`` the sample standard deviation.
    """
    groups: dict[tuple[str, ...], list[Row]] = {}
    for place, row in enumerate(rows):
        overrides = row.get("overrides")
        key = (f"run {place}",) if overrides is None else name_setting(overrides)
        groups.setdefault(key, []).append(row)
    return [{**row, "runs": 1} if len(rest) == 0 else _average([row, *rest]) for row, *rest in groups.values()]


def split_numbers(name: str) -> list[tuple[int, str]]:
    """Split a name into text and numbers, which sorts 2 before 10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def _average(rows: Sequence[Row]) -> dict[str, Any]:
    """Average the numbers of runs, and keep whatever else they all agree on."""
    asked = without_repetition(rows[0]["overrides"])
    combined: dict[str, Any] = {}
    for key in rows[0]:
        values = [row.get(key) for row in rows]
        numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool) and not math.isnan(v)]
        if not key.startswith(PUBLISHED) and numbers and len(numbers) == sum(v is not None for v in values):
            combined[key] = statistics.fmean(numbers)
            if len(numbers) > 1:
                combined[f"{key}_std"] = statistics.stdev(numbers)
        elif all(value == values[0] for value in values):
            combined[key] = values[0]
    return {**combined, "overrides": asked, "runs": len(rows)}


def flatten(mapping: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Join nested keys by dots, and make values what JSON can say."""
    flat: dict[str, Any] = {}
    for key, value in mapping.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = _simplify(value)
    return flat


def _simplify(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_simplify(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _simplify(item) for key, item in value.items()}
    if hasattr(value, "item"):  # a NumPy number or a tensor
        value = value.item()
    if isinstance(value, Path):
        return str(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value
