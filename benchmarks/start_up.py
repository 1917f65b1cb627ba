"""What a user waits for before anything happens: the processor's time of programs that only answer."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

from measuring import Goal, Row, compare, run_alone

ROOT = Path(__file__).resolve().parents[1]
PROGRAMS = {
    "import hydra": ["-c", "import hydra"],
    "train.py --help": ["train.py", "--help"],
    "train.py with an unknown argument": ["train.py", "no_such_argument=1"],
    "evaluate.py with a wrong path": ["evaluate.py", "checkpoint=no_such_file.ckpt"],
    "import divconq_pl": ["-c", "import divconq_pl"],
}


def processor_seconds(arguments: list[str]) -> float:
    """Run Python, and return the processor's time that it took."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], cwd=ROOT, check=False, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def rows(device: str = "cpu", quick: bool = False) -> list[Row]:
    """Start each in turn."""
    programs = {"import hydra": ["-c", "pass"]} if quick else PROGRAMS
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(1):
        for name, arguments in programs.items():
            seconds[name].append(processor_seconds(arguments))
    why = "torch, Lightning and torchvision are imported first"
    goals = {name: Goal(2.0, of="value", why=why) for name in programs if name.endswith(("help", "argument", "path"))}
    return compare("start_up", "starting Python", seconds, goals=goals)


if __name__ == "__main__":
    run_alone(rows)
