"""Compare finished runs: a table, and a page with their curves, settings, differences and images; or whole sweeps."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from divconq_pl.app.command import end_with_error
from divconq_pl.app.comparison import name_checkpoints
from divconq_pl.app.reporting import read_epochs
from divconq_pl.app.results import describe_protocol, flatten
from divconq_pl.app.runs import Run, compare_queries
from divconq_pl.app.sweeps import is_sweep, report_sweep
from divconq_pl.app.table import print_results
from divconq_pl.errors import InputError
from divconq_pl.files import write_atomically
from divconq_pl.inference.trust import build_trusted
from divconq_pl.report import Images
from divconq_pl.report.page import make_environment
from divconq_pl.report.sections.curves import list_metrics
from divconq_pl.report.svg import Line, colour_of, draw_lines
from divconq_pl.report.thumbnails import Thumbnails

_METRICS = {"recall_at_1": "R@1", "map_at_r": "MAP@R"}
_IMAGES = 12


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the program; the first run is what the others are compared with, and a sweep has a table of its own."""
    parser = argparse.ArgumentParser("python -m divconq_pl.compare", description="Compare runs of train.py.")
    parser.add_argument(
        "folders",
        nargs="+",
        metavar="FOLDER",
        help="of a run, and the others are compared with the first; or of a sweep (train.py -m), one or several, for "
        "a table of their settings",
    )
    parser.add_argument("--to", metavar="PATH", help="page of the runs (comparison.html), or folder of the table")
    given = parser.parse_args(arguments)
    folders = [Path(folder) for folder in given.folders]
    try:
        if missing := [str(folder) for folder in folders if not folder.is_dir()]:
            raise InputError(f"{missing[0]!r} is no folder; give those of runs or of sweeps")
        if any(is_sweep(folder) for folder in folders):
            report_sweep(folders, Path(given.to or folders[0]))
        else:
            print(f"the comparison is in {compare(folders, given.to or 'comparison.html')}")
    except InputError as error:
        end_with_error(str(error))


def compare(folders: Sequence[str | Path], path: str | Path) -> Path:
    """Print a table of runs and their differences, and write a page.

    Args:
        folders: of the runs; the others are compared with the first.
        path: where the page goes.

    Returns:
        The page.

    Raises:
        InputError: if there are fewer than two runs, or a folder holds none that is finished.
    """
    if len(folders) < 2:
        raise InputError(f"{len(folders)} run cannot be compared with another; name two or more folders")
    runs = [Run.read(folder) for folder in folders]
    names = name_checkpoints([run.folder.resolve() for run in runs])
    if len(set(names)) < len(names):
        raise InputError(f"a run is named twice in {', '.join(map(str, folders))}; name each once")
    rows = [{**run.results, "name": name} for run, name in zip(runs, names, strict=True)]
    print_results(rows, title=describe_protocol(rows))
    differences = []
    for run, name in zip(runs[1:], names[1:], strict=True):
        for metric, shown in _METRICS.items():
            if (found := compare_queries(run, runs[0], metric)) is not None:
                text = f"{found.describe()}; {found.judge()}"
                differences.append({"name": name, "metric": shown, "difference": text})
                print(f"{name} against {names[0]}: {shown} {text}")
    if len(differences) < len(_METRICS) * (len(runs) - 1):
        print("runs without queries.npz, or with other test images than the first, have no paired difference")
    page = (
        make_environment()
        .get_template("comparison.html")
        .render(
            names=names,
            colours=[colour_of(place, len(runs)) for place in range(len(runs))],
            rows=rows,
            metrics={f"test/{key}": shown for key, shown in _METRICS.items()},
            differences=differences,
            curves=_draw_curves(runs, names),
            settings=find_differing([run.config for run in runs]),
            images=_show_images(runs, names),
        )
    )
    return write_atomically(path, page)


def find_differing(configs: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Return the settings in which configurations differ, with the value of each; "-" where one has none.

    Example:
        >>> find_differing([{"a": 1, "b": {"c": 2}}, {"a": 1, "b": None}])
        {'b': ['-', None], 'b.c': [2, '-']}
    """
    flat = [flatten(config) for config in configs]
    keys = sorted({key for config in flat for key in config})
    values = {key: [config.get(key, "-") for config in flat] for key in keys}
    return {key: row for key, row in values.items() if any(value != row[0] for value in row)}


def _draw_curves(runs: Sequence[Run], names: Sequence[str]) -> list[tuple[str, Any]]:
    """Draw each metric of the validations, of all runs over one another."""
    lines: dict[str, list[Line]] = {}
    for place, (run, name) in enumerate(zip(runs, names, strict=True)):
        for line in list_metrics(read_epochs(run.folder)):
            lines.setdefault(line.name, []).append(line._replace(name=name, colour=colour_of(place, len(runs))))
    return [(metric, draw_lines(own, [], [], label=metric, percent=True)) for metric, own in lines.items()]


def _show_images(runs: Sequence[Run], names: Sequence[str]) -> list[dict[str, Any]]:
    """Show queries that the first run answers right and another wrong, and the other way round."""
    first, thumbnails = runs[0].queries(), Thumbnails()
    images = _find_images(runs[0])
    blocks = []
    for run, name in zip(runs[1:], names[1:], strict=True):
        other = run.queries()
        if first is None or other is None or not np.array_equal(first["labels"], other["labels"]):
            continue
        ours, theirs = first["recall_at_1"], other["recall_at_1"]
        for title, found in (
            (f"{names[0]} right, {name} wrong", (ours == 1) & (theirs == 0)),
            (f"{name} right, {names[0]} wrong", (ours == 0) & (theirs == 1)),
        ):
            which = np.flatnonzero(found)
            shown = which[:: max(1, -(-len(which) // _IMAGES))].tolist()
            pictures = [
                {"uri": thumbnails.make(images, i), "name": images.name(i)} for i in shown if images is not None
            ]
            blocks.append({"title": title, "count": len(which), "pictures": pictures})
    return blocks


def _find_images(run: Run) -> Images | None:
    """Build the test images of a run; None where they are not there any more."""
    try:
        config: Any = OmegaConf.to_container(OmegaConf.create(run.config).data, resolve=True)
        part = build_trusted(config, "dataset").tested[0]
    except Exception:  # a data set may have moved, or need what is not installed: the rest can be compared
        return None
    return Images.of_dataset(part, part.targets.numpy())
