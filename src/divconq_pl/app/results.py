"""Tables and files that say how a run went.

A run's results are one flat mapping, which `results.json` in its folder holds: `name` and `overrides` (what was asked
for), `test/recall_at_<K>`, `test/map_at_r`, `test/r_precision` and, where computed, `test/nmi`, `test/marp` and
`test/reid_recall_at_<K>` as fractions in [0, 1], `train/seconds`, `selection` (how the epoch was chosen), and
`published/source` with `published/recall_at_1` and so on: what somebody published for the same.
"""

from __future__ import annotations

import json
import math
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

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
_SEED, _PUBLISHED = "seed=", "published/"
_METRIC = re.compile(r"(reid_)?recall_at_\d+|map_at_r|r_precision|nmi|marp")
_WIDEST = 1000  # columns of a table in a file


def write_json(path: str | Path, mapping: Mapping[str, Any]) -> Path:
    """Write a mapping as JSON, atomically, with its keys sorted and nested keys joined by dots.

    Args:
        path: Where the file goes; missing folders are made.
        mapping: Values are text, numbers (NumPy's and tensors of one element too), None, or lists of them. NaN and
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
    text = json.dumps(_flat(mapping), indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n"
    return write_atomically(path, lambda file: file.write(text.encode()))


def published(figures: Mapping[str, Any] | None) -> dict[str, Any]:
    """Check figures that somebody published, and name them as results of a run do, to be shown beside its own.

    Args:
        figures: `source`, where they are from, and metrics as fractions in [0, 1]: `recall_at_<K>`, `nmi`, `marp`,
            `map_at_r`, `r_precision`, `reid_recall_at_<K>`. None for none.

    Returns:
        The same under `published/source`, `published/recall_at_<K>` and so on.

    Raises:
        InputError: If the source or every metric is missing, or a metric is unknown or no fraction.

    Example:
        >>> published({"source": "TPAMI 2021, table 3", "recall_at_1": 0.8722})
        {'published/source': 'TPAMI 2021, table 3', 'published/recall_at_1': 0.8722}
    """
    if not figures:
        return {}
    metrics = {key: value for key, value in figures.items() if key != "source"}
    if not figures.get("source") or not metrics:
        raise InputError("published needs a source and figures, such as published={source: Table 3, recall_at_1: 0.87}")
    for key, value in metrics.items():
        if not _METRIC.fullmatch(key):
            raise InputError(f"published.{key} is no metric; name it as a run does, such as recall_at_1, nmi or marp")
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
            raise InputError(f"published.{key}={value} must be a fraction between 0 and 1, such as 0.8722")
    return {f"{_PUBLISHED}{key}": value for key, value in figures.items()}


def selection(validate_on: str | None, *, validated: bool) -> str:
    """Name how the epoch that was tested was chosen: one of :data:`SELECTIONS`.

    Args:
        validate_on: what validation runs on, `"val"`, `"test"` or None.
        validated: whether any epoch was.
    """
    if not validated:
        return "last_epoch"
    return "best_test_epoch" if validate_on == "test" else "validation"


def how_chosen(rows: Iterable[Row]) -> str:
    """Say how the epochs of some runs were chosen, for a heading."""
    return "; ".join(
        text for selection, text in SELECTIONS.items() if any(r.get("selection") == selection for r in rows)
    )


def collect_runs(folder: str | Path) -> list[dict[str, Any]]:
    """Read the results of every run below the folder of a Hydra multirun.

    Args:
        folder: The multirun's folder, which holds one folder per run. Runs without results (unfinished ones) are
            left out.

    Returns:
        One mapping per run, in the order of the folders' names (2 before 10); `name` is the folder's where the run has
        none.

    Raises:
        InputError: If the folder does not exist, or a file of results is not a JSON mapping.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"'{folder}' is not a folder: give the folder of a multirun, which holds one folder per run")
    rows = []
    for path in sorted(folder.glob(f"*/{RESULTS_FILE}"), key=lambda path: natural(path.parent.name)):
        try:
            row = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise InputError(f"'{path}' does not hold results: it is not JSON ({error}); run that one again") from error
        if not isinstance(row, dict):
            raise InputError(f"'{path}' does not hold results: it is a JSON {type(row).__name__}, not a mapping")
        rows.append({"name": path.parent.name, **row})
    return rows


def average_over_seeds(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """Put runs that differ only in `seed=` together: mean and standard deviation of every number.

    Args:
        rows: Results of runs, as `collect_runs` gives them. Runs that do not say their overrides stay single.

    Returns:
        One mapping per group, in the order of the first of each, with `runs` (how many); of groups of several runs each
        number is the mean over the runs that have it and `<key>_std` the sample standard deviation.
    """
    groups: dict[tuple[str, ...], list[Row]] = {}
    for place, row in enumerate(rows):
        overrides = row.get("overrides")
        key = (f"run {place}",) if overrides is None else tuple(o for o in overrides if not o.startswith(_SEED))
        groups.setdefault(key, []).append(row)
    return [{**row, "runs": 1} if len(rest) == 0 else _mean([row, *rest]) for row, *rest in groups.values()]


def results_table(rows: Sequence[Row], *, title: str | None = None) -> Table:
    """Lay out the results of one or several runs, metrics in percent.

    A column shows each override in which the runs differ; what all were given stands below the table. Published figures
    follow in rows of their own, named by their source.

    Args:
        rows: Results of runs; `<key>_std` and `runs`, as `average_over_seeds` adds them, are shown too.
        title: Heading of the table.

    Returns:
        The table, to be printed by `print_results` or any `rich` console.

    Raises:
        InputError: If there is no run.
    """
    if not rows:
        raise InputError("no run has results to show: give at least one")
    given = [dict(override.partition("=")[::2] for override in row.get("overrides") or []) for row in rows]
    keys = dict.fromkeys(key for overrides in given for key in overrides)
    differing = [key for key in keys if len({overrides.get(key) for overrides in given}) > 1]
    common = [f"{key}={given[0][key]}" for key in keys if key not in differing]

    table = Table(title=title, box=box.SIMPLE_HEAVY, collapse_padding=True, pad_edge=False)
    table.title_justify = table.caption_justify = "left"
    table.caption = Text(f"all with {' '.join(common)}" if len(rows) > 1 else " ".join(common)) if common else None
    labels = [[overrides.get(key, "-") for key in differing] for overrides in given]
    quoted = _published_rows(rows)
    if len({tuple(label) for label in labels}) < len(rows) or not differing or quoted:
        table.add_column("run", no_wrap=not quoted)  # a source may be long
        labels = [[str(row.get("name", "run")), *label] for row, label in zip(rows, labels, strict=True)]
    for key in differing:
        table.add_column(Text(key.replace(".", ".\n")), no_wrap=True)
    columns = _columns([*rows, *quoted])
    for heading in columns.values():
        table.add_column(heading, justify="right")
    for row, label in zip(rows, labels, strict=True):
        table.add_row(*map(Text, label), *(_cell(row, key) for key in columns))
    for row in quoted:
        table.add_row(Text(row["name"]), *("-" for _ in differing), *(_cell(row, key) for key in columns))
    return table


def print_results(rows: Sequence[Row], *, title: str | None = None, console: Console | None = None) -> None:
    """Print the results of one or several runs as a table.

    Args:
        rows: Results of runs.
        title: Heading of the table.
        console: Where to; by default the standard output.

    Raises:
        InputError: If there is no run.
    """
    console = console or Console()
    table = results_table(rows, title=title)
    if not console.is_terminal:
        # A file has no width of its own: rich would squeeze the table into 80 columns.
        table.width = console.measure(table, options=console.options.update(max_width=_WIDEST)).maximum
    console.print(table, crop=False)


def natural(name: str) -> list[tuple[int, str]]:
    """Return a key that sorts names with numbers in them by these: 2 before 10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def _published_rows(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return what was published as rows like those of runs, each once."""
    found: list[dict[str, Any]] = []
    for row in rows:
        figures = {key.removeprefix(_PUBLISHED): value for key, value in row.items() if key.startswith(_PUBLISHED)}
        if figures:
            shown = {"name": figures.pop("source"), **{f"test/{key}": value for key, value in figures.items()}}
            found += [shown] if shown not in found else []
    return found


def _columns(rows: Sequence[Row]) -> dict[str, str]:
    columns = _recall_columns(rows, "test/recall_at_", "R@")
    columns |= {"test/map_at_r": "MAP@R", "test/r_precision": "R-prec"}
    for key, heading in (("test/marp", "mARP"), ("test/nmi", "NMI")):
        if any(key in row for row in rows):
            columns[key] = heading
    columns |= _recall_columns(rows, "test/reid_recall_at_", "re-id R@")
    if any("train/seconds" in row for row in rows):
        columns["train/seconds"] = "train s"
    if any(row.get("runs", 1) > 1 for row in rows):
        columns["runs"] = "runs"
    return columns


def _recall_columns(rows: Sequence[Row], prefix: str, heading: str) -> dict[str, str]:
    ks = {int(key.removeprefix(prefix)) for row in rows for key in row if re.fullmatch(rf"{prefix}\d+", key)}
    return {f"{prefix}{k}": f"{heading}{k}" for k in sorted(ks)}


def _cell(row: Row, key: str) -> str:
    value, deviation = row.get(key), row.get(f"{key}_std")
    if value is None or math.isnan(value):
        return "-"
    if key == "runs":
        return str(value)
    scale, digits = (1, 0 if value >= 100 else 1) if key == "train/seconds" else (100, 2)
    text = f"{value * scale:.{digits}f}"
    return text if deviation is None else f"{text} ±{deviation * scale:.{digits}f}"


def _mean(rows: Sequence[Row]) -> dict[str, Any]:
    """Combine runs: numbers by mean and deviation, anything else where all agree on it."""
    asked = [o for o in rows[0]["overrides"] if not o.startswith(_SEED)]
    combined: dict[str, Any] = {}
    for key in rows[0]:
        values = [row.get(key) for row in rows]
        numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool) and not math.isnan(v)]
        if not key.startswith(_PUBLISHED) and numbers and len(numbers) == sum(v is not None for v in values):
            combined[key] = statistics.fmean(numbers)
            if len(numbers) > 1:
                combined[f"{key}_std"] = statistics.stdev(numbers)
        elif all(value == values[0] for value in values):
            combined[key] = values[0]
    return {**combined, "overrides": asked, "runs": len(rows)}


def _flat(mapping: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in mapping.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = _plain(value)
    return flat


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "item"):  # a NumPy number or a tensor
        value = value.item()
    if isinstance(value, Path):
        return str(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value
