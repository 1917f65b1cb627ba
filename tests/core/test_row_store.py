"""Rows find room in memory or in a file."""

from __future__ import annotations

import os
import shutil
from collections import namedtuple
from pathlib import Path

import pytest
import torch

from divconq_pl.core.row_store import RowStore, mapped
from divconq_pl.errors import InputError

ROWS = torch.linspace(-1, 1, 35).view(7, 5)


@pytest.mark.parametrize("in_file", [False, True])
def test_rows_are_kept_in_the_order_they_came(tmp_path: Path, in_file: bool) -> None:
    folder = tmp_path / "a" / "b"
    store = RowStore(7, folder if in_file else None)
    assert len(store) == 0
    for batch in (ROWS[:3], ROWS[3:4]):
        store.append(batch)
    assert len(store) == 4
    place = store.rows.data_ptr()
    store.append(ROWS[4:])
    assert store.rows.data_ptr() == place, "nothing was copied to make room"
    assert store.rows.dtype == (torch.float16 if in_file else torch.float32)
    assert torch.equal(store.rows, ROWS.half() if in_file else ROWS)
    assert not in_file or not list(folder.iterdir()), "the file has no name"


def test_more_rows_than_told_are_refused() -> None:
    store = RowStore(6)
    with pytest.raises(InputError, match=r"7 or more feature rows came where 6"):
        store.append(ROWS)


def test_two_stores_share_a_folder(tmp_path: Path) -> None:
    first, second = RowStore(7, tmp_path), RowStore(7, tmp_path)
    first.append(ROWS)
    second.append(-ROWS)
    assert torch.equal(first.rows, ROWS.half())
    assert torch.equal(second.rows, -ROWS.half())


def test_a_disk_that_is_too_full_is_said_to_be_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(
        InputError, match=r"has [\d.e+]+ GB free, .* 10000000000000 images, 256 numbers each, take 5.12e"
    ):
        mapped(tmp_path, 10**13, 256)
    # The disk fills up after it was looked at, or only some of it is for this user.
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: namedtuple("usage", "free")(10**20))
    with pytest.raises(InputError, match=r"feature_store='.*' has .* free"):
        mapped(tmp_path, 10**12, 256)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="no way to reserve room here")
def test_room_is_reserved(tmp_path: Path) -> None:
    before = shutil.disk_usage(tmp_path).free
    rows = mapped(tmp_path, 2**20, 64)
    assert before - shutil.disk_usage(tmp_path).free > 2**26  # others use the disk, too
    del rows


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"feature_store='.*file' cannot be used \(.*\); name a folder"):
        mapped(tmp_path / "file", 7, 5)


def test_memory_that_does_not_suffice_is_told_of_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*size: int, device: torch.device, dtype: torch.dtype) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    store = RowStore(10**9)
    monkeypatch.setattr(torch, "empty", full)
    with pytest.raises(InputError, match=r"1000000000 images, 5 numbers each, take 20 GB .* 'cpu'; .* feature_store="):
        store.append(ROWS)
