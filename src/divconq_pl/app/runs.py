"""The folder of a run: what it holds, and which other runs differ from it only in how they divide."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from omegaconf import OmegaConf

from divconq_pl.app.differences import Difference, is_plain, pair_over_classes, without_division
from divconq_pl.app.results import RESULTS_FILE, flatten, read_results
from divconq_pl.errors import InputError
from divconq_pl.files import write_atomically

if TYPE_CHECKING:
    from divconq_pl.metrics.retrieval import Answers

QUERIES_FILE = "queries.npz"
"""What each test query was answered: ``labels``, ``nearest`` and, for each metric, its value; NaN if unanswerable."""

_MOST_LOOKED_AT = 100
_NO_DIFFERENCE = (
    *("divide.", "seed.", "logger.", "callbacks.", "ckpt_path.", "report."),
    *("data.num_workers.", "data.cache_dir.", "trainer.enable_progress_bar.", "trainer.log_every_n_steps."),
)
"""Keys of a configuration in which two runs may differ and still be compared as plain and divided."""


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        folder: where it is.
        results: what ``results.json`` holds.
        config: its configuration, as Hydra has composed it; empty if that is missing.
    """

    folder: Path
    results: dict[str, Any]
    config: dict[str, Any]

    @classmethod
    def read(cls, folder: str | Path) -> Run:
        """Read the folder of a run.

        Raises:
            InputError: if it holds no results.
        """
        folder = Path(folder)
        return cls(folder, read_results(folder), _read_config(folder))

    @property
    def place(self) -> str:
        """The folder as one would type it: from the working folder on, where it lies below that."""
        folder, here = self.folder.resolve(), Path.cwd()
        return str(folder.relative_to(here) if folder.is_relative_to(here) else folder)

    @property
    def overrides(self) -> list[str]:
        """What was asked for on the command line."""
        return list(self.results.get("overrides") or [])

    @property
    def is_plain(self) -> bool:
        """Whether it trained the plain loss."""
        divide = self.config.get("divide", {"_target_": ""})
        return is_plain(self.overrides) or not divide or "_target_" not in divide

    def queries(self) -> dict[str, NDArray[Any]] | None:
        """Return what :func:`write_queries` wrote, None if there is no such file."""
        path = self.folder / QUERIES_FILE
        if not path.is_file():
            return None
        with np.load(path) as file:
            return dict(file)


def write_queries(folder: Path, answers: Answers, labels: NDArray[np.int64]) -> Path:
    """Write what each test query was answered, so that runs can be compared image by image.

    Args:
        folder: the folder of the run.
        answers: those of the test.
        labels: class of each query, shape (Q,).
    """
    columns = {name: values.cpu().numpy().astype(np.float32) for name, values in answers.values.items()}
    unanswerable = (answers.num_relevant == 0).cpu().numpy()
    for values in columns.values():
        values[unanswerable] = np.nan
    nearest = answers.nearest[:, :1].cpu().numpy().astype(np.int32)
    content: dict[str, Any] = {"labels": labels.astype(np.int32), "nearest": nearest, **columns}
    return write_atomically(folder / QUERIES_FILE, lambda file: np.savez_compressed(file, **content))


def find_plain_run(run: Run) -> Run | None:
    """Find the newest run beside a divided one that trained the plain loss and differs in nothing else.

    Looked at are the folders beside it and beside those of its parent, so those of one sweep and, where runs lie in
    ``outputs/DATE/TIME``, all others. A run with the same seed comes first.
    """
    if run.is_plain or not run.config:
        return None
    found = []
    for folder in _list_neighbours(run.folder):
        try:
            other = Run.read(folder)
        except InputError:  # it is not whole
            continue
        if other.is_plain and _is_same_but_for_division(run.config, other.config):
            found.append(other)
    return max(found, key=lambda other: other.config.get("seed") == run.config.get("seed"), default=None)


def compare_queries(run: Run, other: Run, metric: str = "recall_at_1") -> Difference | None:
    """Compare two runs query by query; None if their test images differ or were not kept."""
    ours, theirs = run.queries(), other.queries()
    if ours is None or theirs is None or metric not in ours or metric not in theirs:
        return None
    if not np.array_equal(ours["labels"], theirs["labels"]):
        return None
    return pair_over_classes(ours[metric], theirs[metric], ours["labels"])


class Compared(NamedTuple):
    """A finished run and the plain one beside it.

    Attributes:
        run: the run.
        plain: the plain run, if there is one.
        verdict: whether dividing helped, in a sentence.
    """

    run: Run
    plain: Run | None
    verdict: str


def compare_with_plain(folder: Path, program: str) -> Compared:
    """Compare the run that has just ended with the plain one beside it.

    Args:
        folder: of the run.
        program: as for :func:`judge`.
    """
    run = Run.read(folder)
    plain = find_plain_run(run)
    return Compared(run, plain, judge(run, plain, program))


def judge(run: Run, plain: Run | None, program: str) -> str:
    """Answer in one sentence whether dividing helped, or say how to find out.

    Args:
        run: the run that has just ended.
        plain: what :func:`find_plain_run` found.
        program: what is typed before the settings to train another one, see :func:`.spell_program`.
    """
    rest = without_division(run.overrides)
    if run.is_plain:
        command = f"{program} -m divide=none,hierarchical {shlex.join(rest)}"
        return f"Did dividing help? This is the plain loss; to compare: {command}"
    metric = "test/recall_at_1"
    if plain is None or plain.results.get(metric) is None or run.results.get(metric) is None:
        command = f"{program} {shlex.join([*rest, 'divide=none'])}"
        return f"Did dividing help? No run of the plain loss with these settings is known here; to find out: {command}"
    ours, theirs = run.results[metric], plain.results[metric]
    text = f"Did dividing help? R@1 is {100 * ours:.1f} and that of the plain loss {100 * theirs:.1f} ({plain.place})"
    if (tested := run.results.get("epoch", 0)) < (first := run.results.get("division/first_epoch", 0)):
        return f"{text}, but tested is epoch {tested}, and the first division came in epoch {first}"
    if run.config.get("seed") != plain.config.get("seed"):
        return f"{text}, with another seed"
    difference = compare_queries(run, plain)
    if difference is None:
        return text
    return f"{text}: {difference.describe()}; {difference.judge()}. Another seed may say otherwise: try seed=0,1,2"


def _list_neighbours(folder: Path) -> Iterator[Path]:
    """Yield the folders beside a run, newest first."""
    folder = folder.resolve()
    places = {*folder.parent.glob("*"), *folder.parent.parent.glob("*/*")} - {folder}
    runs = [path for path in places if (path / RESULTS_FILE).is_file()]
    yield from sorted(runs, key=lambda path: (path / RESULTS_FILE).stat().st_mtime, reverse=True)[:_MOST_LOOKED_AT]


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / ".hydra" / "config.yaml"
    if not path.is_file():
        return {}
    content: Any = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    return content if isinstance(content, dict) else {}


def _is_same_but_for_division(config: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    ours, theirs = (
        {key: value for key, value in flatten(c).items() if not f"{key}.".startswith(_NO_DIFFERENCE)}
        for c in (config, other)
    )
    return ours == theirs
