"""Rendered images on disk: used again, whole or not there, made again after damage."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from divconq_pl.data import Glyphs, Sides
from divconq_pl.data.dataset import RetrievalDataset
from divconq_pl.data.rendered import cache_folder


def pixels(data: RetrievalDataset) -> np.ndarray:
    return np.stack([np.asarray(data.image(i)) for i in range(len(data))])


def test_cache_is_used_and_written_in_one_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    glyphs = Glyphs(tmp_path / "new" / "folder", num_classes=8)
    first = pixels(glyphs.splits().train)
    assert os.listdir(glyphs.cache_dir) == [glyphs.cache_file.name]
    monkeypatch.setattr(Glyphs, "_render", lambda self: pytest.fail("rendered again"))
    np.testing.assert_array_equal(first, pixels(glyphs.splits().train))


def test_another_process_renders_the_same(tmp_path: Path) -> None:
    program = (
        "import sys; from divconq_pl.data import Glyphs, Sides\n"
        "for rendered in (Glyphs, Sides): rendered(sys.argv[1], num_classes=8).splits()"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "there")], check=True, env=environment)
    for rendered in (Glyphs, Sides):
        from_cache = rendered(tmp_path / "there", num_classes=8)
        assert from_cache.cache_file.is_file()
        here = rendered(tmp_path / "here", num_classes=8)
        np.testing.assert_array_equal(pixels(here.splits().train), pixels(from_cache.splits().train))


def test_interrupted_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(file: object, **arrays: np.ndarray) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Glyphs(tmp_path, num_classes=8).splits()
    assert os.listdir(tmp_path) == []


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def fill_with_text(path: Path) -> None:
    path.write_text("<html>not found</html>")


def make_another_version(path: Path) -> None:
    with np.load(path) as archive:
        arrays = dict(archive)
    arrays["header"] = np.array(str(arrays["header"]).replace('"version": ', '"version": 1000'))
    np.savez(path, **arrays)


@pytest.mark.parametrize(
    "damage", [halve, flip_a_byte, empty, fill_with_text, make_another_version], ids=lambda f: f.__name__
)
def test_damaged_cache_is_made_again(tmp_path: Path, damage, caplog: pytest.LogCaptureFixture) -> None:
    glyphs = Glyphs(tmp_path, num_classes=8)
    expected = pixels(glyphs.splits().train)
    sound = glyphs.cache_file.read_bytes()
    damage(glyphs.cache_file)
    with caplog.at_level(logging.WARNING):
        np.testing.assert_array_equal(expected, pixels(glyphs.splits().train))
    assert str(glyphs.cache_file) in caplog.text
    assert len(glyphs.cache_file.read_bytes()) == len(sound)
    caplog.clear()
    glyphs.splits()
    assert not caplog.text


def test_folder_that_cannot_be_written_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    glyphs = Glyphs(tmp_path / "file" / "cache", num_classes=8)
    with pytest.warns(UserWarning, match="in memory only"):
        assert len(glyphs.splits().train.classes) == 4


def test_cache_folder_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.delenv("DIVCONQ_CACHE", raising=False)
    assert Glyphs().cache_dir == tmp_path / "xdg" / "divconq_pl"
    monkeypatch.setenv("DIVCONQ_CACHE", str(tmp_path / "own"))
    assert Glyphs().cache_dir == tmp_path / "own"
    monkeypatch.delenv("DIVCONQ_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    for platform, place in {"linux": ".cache", "darwin": "Library/Caches", "win32": "AppData/Local"}.items():
        monkeypatch.setattr(sys, "platform", platform)
        monkeypatch.delenv("LOCALAPPDATA", raising=False)
        assert cache_folder() == tmp_path / place / "divconq_pl"
