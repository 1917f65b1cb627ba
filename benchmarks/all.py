"""Run all benchmarks and put their figures into results.csv and docs/benchmarks.md.

python benchmarks/all.py                   on the CPU, with one thread
python benchmarks/all.py --device cuda     what has a side on a GPU, beside the CPU's figures
python benchmarks/all.py --only retrieval  some parts
python benchmarks/all.py --quick           tiny sizes; prints, and changes no file
python benchmarks/all.py --page            measures nothing, makes the page of the CSV

Contestants take turns within one run, so trust the ratios more than the seconds. On a machine with one thread all takes
about an hour. A new figure takes the place of the last one of the same part on the same device.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module

import table
import torch
from measuring import Row, add_arguments, be_quiet, describe, device_name, load

PARTS = (
    "start_up",
    "images",
    "photographs",
    "steps",
    "optimizers",
    "overhead",
    "clustering",
    "division",
    "size",
    "layouts",
    "whole_runs",
    "retrieval",
    "search",
    "pictures",
    "narrowing",
    "mining",
    "backbones",
)
ON_A_GPU = ("steps", "optimizers", "clustering", "division", "retrieval", "narrowing", "mining", "backbones")


def measure(parts: Sequence[str], device: str, quick: bool) -> Iterator[list[Row]]:
    """Run parts and yield their rows."""
    for name in parts:
        rows: Callable[[str, bool], list[Row]] = import_module(name).rows
        yield rows(device, quick)


def main() -> None:
    """Measure, and write after every part, so that what was measured stays."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--only", nargs="+", choices=PARTS, metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--page", action="store_true")
    arguments = parser.parse_args()
    be_quiet(arguments.threads)
    parts = arguments.only or (PARTS if arguments.device == "cpu" else ON_A_GPU)
    device = device_name(arguments.device)
    print(f"{device}, torch {torch.__version__}, load {load():.1f}", flush=True)
    for rows in measure(() if arguments.page else parts, arguments.device, arguments.quick):
        for row in rows:
            print(describe(row), flush=True)
        if not arguments.quick:
            lines = [table.to_line(row, device, load()) for row in rows]
            table.write(table.merge(table.read(), lines))
    if not arguments.quick:
        table.PAGE.write_text(table.fill_in(table.PAGE.read_text(), table.read()))


if __name__ == "__main__":
    main()
