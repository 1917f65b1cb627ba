"""Which checkpoints are meant, and when they can be compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from divconq_pl.app.comparison import (
    add_summary_rows,
    check_same_images,
    concatenate,
    find_checkpoints,
    group_by_settings,
    name_checkpoints,
)
from divconq_pl.data import FileDataset
from divconq_pl.errors import InputError


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """A sweep of which run 1 has not finished, and run 10 has no best epoch."""
    for name in ("0/checkpoints/best", "0/checkpoints/last", "2/checkpoints/best", "10/checkpoints/last"):
        path = tmp_path / "sweep" / f"{name}.ckpt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "sweep" / "1").mkdir()
    (tmp_path / "sweep" / "multirun.yaml").touch()
    return tmp_path / "sweep"


def found(sweep: Path, *given: str) -> list[str]:
    paths = [str(sweep / name) for name in given]
    return [str(path.relative_to(sweep)) for path in find_checkpoints(paths[0] if len(paths) == 1 else paths)]


def test_a_folder_or_a_pattern_stands_for_its_checkpoints(sweep: Path):
    runs = ["0/checkpoints/best.ckpt", "2/checkpoints/best.ckpt", "10/checkpoints/last.ckpt"]
    assert found(sweep, "") == runs
    assert found(sweep, "2") == runs[1:2]
    assert found(sweep, "10") == runs[2:]
    assert found(sweep, "*/checkpoints/best.ckpt") == runs[:2]
    assert found(sweep, "*/checkpoints/last.ckpt") == ["0/checkpoints/last.ckpt", runs[2]]
    assert found(sweep, "2", runs[0]) == [runs[1], runs[0]]
    assert found(sweep, "nowhere.ckpt") == ["nowhere.ckpt"]  # whoever reads it says so


def test_of_a_sweep_only_finished_runs_are_taken_and_the_others_said(sweep: Path):
    for run in ("0", "10"):
        (sweep / run / "results.json").touch()
    with pytest.warns(UserWarning, match=r"left out, since not finished: .*sweep/2; name its checkpoint"):
        assert found(sweep, "") == ["0/checkpoints/best.ckpt", "10/checkpoints/last.ckpt"]
    assert found(sweep, "2/checkpoints/best.ckpt") == ["2/checkpoints/best.ckpt"]


def test_checkpoints_are_grouped_by_what_they_were_trained_with_wherever_they_lie():
    def config(place: int, loss: str) -> dict[str, Any]:
        data = {"seed": place, "dataset": {"fold": place}, "num_workers": place}
        module = {"loss": {"_target_": loss, "num_classes": 10 + place}}
        return {"seed": place, "data": data, "module": module, "checkpoint": {"dirpath": f"run{place}"}}

    assert group_by_settings([config(0, "a"), config(1, "b"), config(2, "a")]) == [[0, 2], [1]]


def test_what_leads_to_no_checkpoint_is_refused(sweep: Path):
    for given in ("1", "*/best.ckpt"):
        with pytest.raises(InputError, match="leads to no checkpoint"):
            found(sweep, given)
    with pytest.raises(InputError, match="no checkpoint given"):
        find_checkpoints([])


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["runs/a/checkpoints/best.ckpt"], ["best.ckpt"]),
        (["runs/a/checkpoints/best.ckpt", "runs/b/checkpoints/best.ckpt"], ["a", "b"]),
        (["a/checkpoints/best.ckpt", "a/checkpoints/last.ckpt"], ["best.ckpt", "last.ckpt"]),
        (["x/a/best.ckpt", "x/b/c/best.ckpt"], ["a", "b/c"]),
        (["a.ckpt", "a.ckpt"], ["a.ckpt", "a.ckpt"]),
    ],
)
def test_checkpoints_are_named_by_where_they_differ(paths: list[str], names: list[str]):
    assert name_checkpoints(list(map(Path, paths))) == names


def test_embeddings_side_by_side_weigh_the_same():
    one, two = torch.randn(5, 3), 100 * torch.randn(5, 2)
    (both,) = concatenate([[one], [two]])
    for row, a, b in zip(both.numpy(), one.numpy(), two.numpy(), strict=True):
        expected = np.concatenate([a / np.linalg.norm(a), b / np.linalg.norm(b)]) / np.sqrt(2)
        assert row == pytest.approx(expected, abs=1e-6)
    parts = concatenate([[one, one[:2]], [two, two[:2]]])
    assert [part.shape for part in parts] == [(5, 5), (2, 5)]


def test_folds_are_followed_by_their_mean_and_all_together():
    rows = [{"name": name, "test/recall_at_1": value} for name, value in (("0", 0.5), ("1", 0.7))]
    first, second, mean, together = add_summary_rows(rows, {"test/recall_at_1": 0.8})
    assert [first, second] == rows
    assert mean["name"] == "separated, mean"
    assert mean["test/recall_at_1"] == pytest.approx(0.6)
    assert mean["test/recall_at_1_std"] == pytest.approx(0.02**0.5)
    assert together == {"name": "concatenated", "test/recall_at_1": 0.8}


def test_other_images_are_not_add_summary_rows():
    files = FileDataset(["a", "b"], [0, 1], ["x", "y"])
    others = [
        FileDataset(["a", "c"], [0, 1], ["x", "y"]),
        FileDataset(["a", "b"], [1, 0], ["x", "y"]),
        FileDataset(["a", "b"], [0, 1], ["x", "z"]),
        FileDataset(["a"], [0], ["x", "y"]),
    ]
    path = Path("run/best.ckpt")
    assert check_same_images((), (files,), path) == (files,)
    assert check_same_images((files,), (files,), path) == (files,)
    for other in [(other,) for other in others] + [(files, files)]:
        with pytest.raises(InputError, match=r"'run/best\.ckpt' has other test images"):
            check_same_images((files,), other, path)
