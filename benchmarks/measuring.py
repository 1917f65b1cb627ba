"""What all benchmarks share: contestants that take turns, and the rows that come of it.

On a CPU the processor's time of this process counts, which other programs disturb least; on a GPU the clock's, between
two moments at which the GPU has done all it was given. A ratio is the median of those within each turn.
"""

from __future__ import annotations

import argparse
import logging
import os
import platform
import statistics
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch


@dataclass(frozen=True)
class Goal:
    """What a figure is to be at most, or at least, and why it is not where it is known.

    Attributes:
        limit: the figure.
        of: whether the ratio or the value is meant.
        at_least: whether more is better.
        why: what is in the way, shown where the goal is missed.
    """

    limit: float
    of: Literal["ratio", "value"] = "ratio"
    at_least: bool = False
    why: str = ""


@dataclass(frozen=True)
class Row:
    """One figure.

    Attributes:
        part: the script it comes from.
        work: what was done, with its size.
        contestant: who did it.
        value: the median over the turns.
        unit: of the value.
        against: the contestant that the ratio is to; itself for that one; empty if there is no ratio.
        ratio: to that one, or NaN.
        goal: if there is one.
    """

    part: str
    work: str
    contestant: str
    value: float
    unit: str = "s"
    against: str = ""
    ratio: float = float("nan")
    goal: Goal | None = field(default=None)


def now(device: str) -> float:
    """Read the clock that counts on this device, in seconds."""
    if device == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def take_turns(
    part: str,
    work: str,
    contestants: Mapping[str, Callable[[], object]],
    *,
    device: str = "cpu",
    turns: int = 3,
    warm_up: bool = True,
    goals: Mapping[str, Goal] | None = None,
) -> list[Row]:
    """Time functions in turns; the first one is what the others are compared with.

    Args:
        part: of the rows.
        work: likewise.
        contestants: the functions by name.
        device: "cpu" or "cuda".
        turns: how often each is timed.
        warm_up: call each once before.
        goals: of some of them.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(-int(warm_up), turns):
        for name, function in contestants.items():
            began = now(device)
            function()
            if turn >= 0:
                seconds[name].append(now(device) - began)
    return compare(part, work, seconds, goals=goals)


def compare(
    part: str,
    work: str,
    seconds: Mapping[str, list[float]],
    *,
    unit: str = "s",
    goals: Mapping[str, Goal] | None = None,
) -> list[Row]:
    """Make rows of what contestants took in each turn; the first one is what the others are compared with."""
    against, *_ = seconds
    return [
        Row(
            part,
            work,
            name,
            statistics.median(own),
            unit,
            against,
            ratio=statistics.median(a / b if b else float("nan") for a, b in zip(own, seconds[against], strict=True)),
            goal=(goals or {}).get(name),
        )
        for name, own in seconds.items()
    ]


def device_name(device: str) -> str:
    """Name the card, or the processor with the number of threads."""
    if device != "cpu":
        return torch.cuda.get_device_name()
    threads = torch.get_num_threads()
    return f"{platform.machine()} CPU, {torch.backends.cpu.get_cpu_capability()}, {threads} thread{'s'[: threads > 1]}"


def load() -> float:
    """Return how many processes wanted a processor in the last minute."""
    return os.getloadavg()[0]


def run_alone(rows: Callable[[str, bool], list[Row]]) -> None:
    """Run one part from the command line and print its rows."""
    parser = argparse.ArgumentParser(description="Run this part of the benchmarks.")
    add_arguments(parser)
    arguments = parser.parse_args()
    be_quiet(arguments.threads)
    for row in rows(arguments.device, arguments.quick):
        print(describe(row), flush=True)


def be_quiet(threads: int) -> None:
    """Set the number of threads, and keep Lightning's and our own remarks out of the figures."""
    torch.set_num_threads(threads)
    logging.disable(logging.INFO)
    warnings.filterwarnings("ignore")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what all programs here take."""
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, only to see that everything runs")
    parser.add_argument("--threads", type=int, default=1)


def describe(row: Row) -> str:
    """Return a row as a line."""
    ratio = "" if row.ratio != row.ratio else f"   {row.ratio:8.3f} of {row.against}"
    return f"{row.part:12} {row.work:44} {row.contestant:34} {row.value:10.4g} {row.unit}{ratio}"
