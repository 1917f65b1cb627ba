"""Run the study: every row with every seed, in any order, as often as it is interrupted.

python benchmarks/study/run.py                          all of it: some 200 runs of two to three minutes each
python benchmarks/study/run.py --groups sides glyphs    some tables of it
python benchmarks/study/run.py --workers 2              two runs at a time

Each run is a ``train.py`` in a folder of its own below ``outputs/study``, with one thread; where networks are trained
apart, it is several. A line of ``results.csv``, beside this script, is all that is kept of it; runs that have theirs
are not run again. ``tables.py`` makes the tables. The rows of icons need ``benchmarks/icons.py`` and
``ICONS=FOLDER``, those of pybullet's objects ``benchmarks/objects.py`` and ``OBJECTS=FOLDER``.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Any

from rows import Row, all_rows

from divconq_pl.files import write_atomically

ROOT = Path(__file__).resolve().parents[2]
RESULTS = Path(__file__).with_name("results.csv")
COLUMNS = (
    "overrides",
    "seed",
    "recall_at_1",
    "map_at_r",
    "last_recall_at_1",
    "last_map_at_r",
    "val_recall_at_1",
    "steps",
    "pairs_kept",
    "classes_per_cluster",
    "nmi_classes",
    "train_seconds",
    "division_seconds",
    "commit",
)
QUIET = ("trainer.enable_progress_bar=false", "logger=csv")
_lock = Lock()


def read_results() -> list[dict[str, str]]:
    """Return the lines of the CSV, none if there is none yet."""
    if not RESULTS.exists():
        return []
    with RESULTS.open(newline="") as file:
        return list(csv.DictReader(file))


def add_result(result: dict[str, Any]) -> None:
    """Add a line to the CSV, which stays sorted."""
    with _lock:
        rows = [*read_results(), {name: str(result[name]) for name in COLUMNS}]
        rows.sort(key=lambda row: (row["overrides"], int(row["seed"])))

        def write(file: Any) -> None:
            lines = [",".join(COLUMNS), *(",".join(row[name] for name in COLUMNS) for row in rows)]
            file.write(("\n".join(lines) + "\n").encode())

        write_atomically(RESULTS, write)


def run(row: Row, seed: int, folder: Path) -> dict[str, Any]:
    """Train a row with a seed, and test the best epoch and the last one.

    Args:
        row: the row.
        seed: the seed. Networks that are trained apart have seeds of their own, in which they share nothing.
        folder: folder of the run; what is left of an interrupted one is deleted.

    Returns:
        A line of the CSV.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    runs = [folder / str(number) for number in range(row.networks)]

    def call(script: str, *arguments: str) -> None:
        command = [sys.executable, str(ROOT / script), *arguments]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-1000:]}")

    def test(epoch: str) -> dict[str, Any]:
        paths = ",".join(str(own / "checkpoints" / f"{epoch}.ckpt") for own in runs)
        call("evaluate.py", f"checkpoint=[{paths}]", f"json={folder / epoch}.json")
        tested: dict[str, Any] = json.loads((folder / f"{epoch}.json").read_text())
        return {name.removeprefix("concatenated."): value for name, value in tested.items()}

    for number, own in enumerate(runs):
        call("train.py", *row.overrides, f"seed={row.networks * seed + number}", *QUIET, f"hydra.run.dir={own}")
    results = [json.loads((own / "results.json").read_text()) for own in runs]
    best, last = results[0] if row.networks == 1 else test("best"), test("last")
    curve, steps = _read_curve(next(folder.rglob("metrics.csv")))
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    return {
        "overrides": row.key,
        "seed": seed,
        **{name: f"{best[f'test/{name}']:.5f}" for name in ("recall_at_1", "map_at_r")},
        **{f"last_{name}": f"{last[f'test/{name}']:.5f}" for name in ("recall_at_1", "map_at_r")},
        "val_recall_at_1": " ".join(f"{value:.4f}" for value in curve) if row.networks == 1 else "",
        "steps": row.networks * steps,
        **{name: _text(results[0].get(f"division/{name}")) for name in COLUMNS[8:11]},
        "train_seconds": round(sum(one["train/seconds"] for one in results)),
        "division_seconds": round(sum(one["division/seconds"] for one in results)),
        "commit": commit.stdout.strip(),
    }


def _read_curve(path: Path) -> tuple[list[float], int]:
    """Return Recall@1 of the validation classes after each epoch, and how many steps were made."""
    with path.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row.get("val/recall_at_1")]
    return [float(row["val/recall_at_1"]) for row in rows], int(rows[-1]["step"]) + 1


def _text(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def find_jobs(
    results: list[dict[str, str]], groups: list[str] | None, names: list[str] | None, seeds: int | None
) -> list[tuple[Row, int]]:
    """List what is still to be run, all rows with the first seed before any with the second.

    Args:
        results: the lines of the CSV.
        groups: names of tables, None for all.
        names: names of rows, None for all.
        seeds: at most so many seeds of each, None for as many as the row says.
    """
    done = {(row["overrides"], int(row["seed"])) for row in results}
    jobs: dict[tuple[str, int], tuple[Row, int]] = {}
    for row in all_rows():
        chosen = (groups is None or row.group in groups) and (names is None or row.name in names)
        for seed in range(min(row.seeds, seeds or row.seeds) if chosen else 0):
            key = (row.key, seed)
            if key not in done:
                jobs.setdefault(key, (row, seed))
    return sorted(jobs.values(), key=lambda job: job[1])


def main() -> None:
    """Run what has no line in the CSV yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--groups", nargs="+", choices=sorted({row.group for row in all_rows()}))
    parser.add_argument("--rows", nargs="+", choices=sorted({row.name for row in all_rows()}))
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=ROOT / "outputs" / "study")
    arguments = parser.parse_args()
    jobs = find_jobs(read_results(), arguments.groups, arguments.rows, arguments.seeds)

    def work(numbered: tuple[int, tuple[Row, int]]) -> str | None:
        number, (row, seed) = numbered
        name = hashlib.sha256(f"{row.key} {seed}".encode()).hexdigest()[:12]
        try:
            result = run(row, seed, arguments.folder.resolve() / name)
        except RuntimeError as error:
            return f"{row.group}, {row.name}, seed {seed}: {error}"
        add_result(result)
        print(
            f"{number + 1} of {len(jobs)}: {row.group}, {row.name}, seed {seed}: R@1 {result['recall_at_1']}",
            flush=True,
        )
        shutil.rmtree(arguments.folder.resolve() / name)
        return None

    with ThreadPoolExecutor(arguments.workers) as pool:
        failures = [failure for failure in pool.map(work, enumerate(jobs)) if failure]
    if failures:
        sys.exit("\n".join(failures))


if __name__ == "__main__":
    main()
