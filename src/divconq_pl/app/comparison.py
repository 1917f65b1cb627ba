"""Compare several checkpoints: find them, name them, and put their results and embeddings together."""

from __future__ import annotations

import glob
import warnings
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from divconq_pl.app.results import RESULTS_FILE, average_over_seeds, flatten, name_setting, split_numbers
from divconq_pl.errors import InputError
from divconq_pl.inference.finding import find_best

if TYPE_CHECKING:  # finding checkpoints is quick, importing torch is not
    from torch import Tensor

    from divconq_pl.data import RetrievalDataset

_SETTINGS = ("data.", "module.", "trainer.", "divide.", "image_size.", "preprocessing.")
_REPEATED = {"seed", "fold", "num_classes"}
_LOADING = {"data.num_workers", "data.cache_dir", "data.eval_batch_size", "trainer.enable_progress_bar"}
"""What makes runs different ones, but for what a repetition changes and what changes no result."""


def find_checkpoints(given: str | Sequence[str]) -> list[Path]:
    """List the checkpoints that a user names.

    Args:
        given: a path, or several: of a checkpoint; of the folder of a run or a multirun, which stands for
            ``checkpoints/best.ckpt`` (``last.ckpt`` where a run has no best epoch) of its finished runs; or a pattern
            with ``*``.

    Returns:
        The files, in the order given; those of a folder or pattern in the order of their names (2 before 10). A path
        without a file is returned as it is; reading it says so.

    Raises:
        InputError: if a folder or a pattern leads to no checkpoint, or there is none.
    """
    found: list[Path] = []
    for path in [given] if isinstance(given, str) else given:
        if Path(path).is_dir():
            runs = [Path(path), *sorted(Path(path).iterdir(), key=lambda path: split_numbers(str(path)))]
            matches = _leave_out_unfinished([c for run in runs if (c := find_best(run)) is not None])
        elif "*" in path:
            matches = sorted(map(Path, glob.glob(path)), key=lambda path: split_numbers(str(path)))
        else:
            matches = [Path(path)]
        if not matches:
            raise InputError(
                f"checkpoint={path!r} leads to no checkpoint; name a file, or the folder of a run or sweep"
            )
        found += matches
    if not found:
        raise InputError("no checkpoint given; use checkpoint=PATH or checkpoint=[PATH,PATH]")
    return found


def name_checkpoints(paths: Sequence[Path]) -> list[str]:
    """Name each checkpoint by the part of its path in which they differ; a single one by its file name.

    Example:
        >>> name_checkpoints([Path("sweep/0/checkpoints/best.ckpt"), Path("sweep/1/checkpoints/best.ckpt")])
        ['0', '1']
    """
    if len(set(paths)) < 2:
        return [path.name for path in paths]
    parts = [path.parts for path in paths]
    first = _count_common(parts)
    last = _count_common([p[first:][::-1] for p in parts])
    return [str(Path(*p[first : len(p) - last])) for p in parts]


def check_same_images(
    before: tuple[RetrievalDataset, ...], now: tuple[RetrievalDataset, ...], path: Path
) -> tuple[RetrievalDataset, ...]:
    """Refuse to compare checkpoints on different images.

    Args:
        before: the test images of the checkpoints before, none for the first.
        now: those of this one.
        path: the checkpoint.

    Returns:
        ``now``.

    Raises:
        InputError: if the images or their classes differ.
    """
    if before and list(map(_identify, before)) != list(map(_identify, now)):
        raise InputError(
            f"the run of {str(path)!r} has other test images than that of the checkpoint before, so they cannot be "
            "compared; name the images to evaluate on with dataset=..."
        )
    return now


def concatenate(embeddings: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """Put the embeddings of several networks side by side, each L2-normalised, and normalise the result.

    Args:
        embeddings: of each network, one tensor (N, d) for each part of the test set.

    Returns:
        One tensor (N, sum of d) for each part.
    """
    import torch

    from divconq_pl.metrics.neighbours import unit_rows

    return [unit_rows(torch.cat([unit_rows(part) for part in parts], dim=1)) for parts in zip(*embeddings, strict=True)]


def group_by_settings(configs: Sequence[Mapping[str, Any]]) -> list[list[int]]:
    """Put checkpoints together whose runs differ in nothing but seed, fold, and where things lie.

    Args:
        configs: the configurations of the runs, as their checkpoints keep them.

    Returns:
        The places of the checkpoints of each group, in the order of the first of each.

    Example:
        >>> plain, divided = {"divide": None}, {"divide": {"split_depth": 2}}
        >>> group_by_settings([{**plain, "seed": 0}, {**divided, "seed": 0}, {**plain, "seed": 1}])
        [[0, 2], [1]]
    """
    groups: dict[str, list[int]] = {}
    for place, config in enumerate(configs):
        settings = {
            key: value
            for key, value in flatten(config).items()
            if f"{key}.".startswith(_SETTINGS) and key.rpartition(".")[2] not in _REPEATED and key not in _LOADING
        }
        groups.setdefault(repr(sorted(settings.items())), []).append(place)
    return list(groups.values())


def read_overrides(path: Path) -> list[str]:
    """Return what the run of a checkpoint was asked for, but for seed and fold; nothing if its folder is gone."""
    file = path.resolve().parents[1] / ".hydra" / "overrides.yaml"
    return list(name_setting(map(str, OmegaConf.load(file)))) if file.is_file() else []


def add_summary_rows(
    rows: Sequence[Mapping[str, Any]], together: Mapping[str, Any], among: str = ""
) -> list[dict[str, Any]]:
    """Add two rows to the results of several checkpoints: their mean, and all embeddings side by side.

    "Separated" and "concatenated" are the two ways in which "A Metric Learning Reality Check" (Musgrave et al., 2020)
    reports the folds of a cross-validation.

    Args:
        rows: results of each checkpoint; what they were asked for is the same.
        together: results of the concatenated embeddings.
        among: names the checkpoints where there are others.

    Returns:
        Rows of a table of results.
    """
    asked = {"overrides": rows[0].get("overrides", [])}
    (mean,) = average_over_seeds([{**row, **asked} for row in rows])
    concatenated = {**together, **(asked if asked["overrides"] else {}), "name": f"concatenated{among}"}
    return [*map(dict, rows), {**mean, "name": f"separated, mean{among}"}, concatenated]


def _count_common(paths: Sequence[tuple[str, ...]]) -> int:
    """Count the components with which all paths begin."""
    return sum(1 for _ in takewhile(lambda names: len(set(names)) == 1, zip(*paths, strict=False)))


def _identify(data: RetrievalDataset) -> tuple[list[str], list[int], list[str]]:
    return data.classes, data.targets.tolist(), [data.name_of(i) for i in range(len(data))]


def _leave_out_unfinished(checkpoints: list[Path]) -> list[Path]:
    finished = [path for path in checkpoints if (path.parents[1] / RESULTS_FILE).is_file()]
    if not finished or len(finished) == len(checkpoints):  # none has results where only checkpoints were copied
        return checkpoints
    _warn_of_left_out(", ".join(str(path.parents[1]) for path in checkpoints if path not in finished))
    return finished


@cache  # checkpoints are looked for before anything slow is imported, and again when it is
def _warn_of_left_out(names: str) -> None:
    warnings.warn(f"left out, since not finished: {names}; name its checkpoint to evaluate it", stacklevel=1)
