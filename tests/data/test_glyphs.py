"""The glyph data set: what it draws, how it splits, how its cache survives damage."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch

from divconq_pl.data import Glyphs
from divconq_pl.data import glyphs as module
from divconq_pl.data.dataset import RetrievalDataset
from divconq_pl.errors import InputError


def pixels(data: RetrievalDataset) -> np.ndarray:
    return np.stack([np.asarray(data.image(i)) for i in range(len(data))])


def parts(glyphs: Glyphs) -> list[RetrievalDataset]:
    splits = glyphs.splits()
    assert splits.val is not None
    assert not isinstance(splits.test, tuple)
    return [splits.train, splits.val, splits.test]


def slant(image: np.ndarray) -> float:
    """Angle of the main axis of the ink, in degrees from the vertical."""
    y, x = np.nonzero(image > 100)
    _, axes = np.linalg.eigh(np.cov(x, y))
    return float(np.rad2deg(np.arctan(axes[0, -1] / axes[1, -1])))


def test_splits_share_no_class_and_hold_the_asked_number(tmp_path: Path) -> None:
    split = parts(Glyphs(tmp_path, num_classes=20, val_fraction=0.25, test_fraction=0.35))
    assert [len(part.classes) for part in split] == [8, 5, 7]
    assert len(set().union(*(part.classes for part in split))) == 20
    for part in split:
        assert sorted(set(part.targets.tolist())) == list(range(len(part.classes)))
        assert 12 <= int(torch.bincount(part.targets).min()) <= int(torch.bincount(part.targets).max()) <= 16


def test_image_shows_the_class_it_is_labelled_with(tmp_path: Path) -> None:
    train = Glyphs(tmp_path, num_classes=20, rotation=0).splits().train
    image, label = train[5]
    name = train.classes[label]
    assert train.name_of(5).startswith(name)
    code, face = int(name.split()[0][2:], 16), train.name_of(5).split(", ")[-1]
    assert name.endswith(unicodedata.name(chr(code)))
    ink = module._ink(face, module._font(face, 48), code)
    assert ink is not None
    box = train.image(5).getbbox()
    assert box is not None
    drawn = train.image(5).crop(box).resize(ink.size)
    assert np.corrcoef(np.asarray(ink).ravel(), np.asarray(drawn).ravel())[0, 1] > 0.8
    assert image.shape == (1, 32, 32)
    assert 0 <= float(image.min()) <= float(image.max()) <= 1


def test_another_process_renders_the_same(tmp_path: Path) -> None:
    here = pixels(Glyphs(tmp_path / "here", num_classes=8).splits().train)
    program = f"from divconq_pl.data import Glyphs; Glyphs({str(tmp_path / 'there')!r}, num_classes=8).splits()"
    path = os.pathsep.join(sys.path)
    subprocess.run([sys.executable, "-c", program], check=True, env={**os.environ, "PYTHONPATH": path})
    from_cache = Glyphs(tmp_path / "there", num_classes=8)
    assert from_cache.cache_file.is_file()
    np.testing.assert_array_equal(here, pixels(from_cache.splits().train))


def test_seed_changes_classes_and_fewer_classes_are_drawn_from_the_same(tmp_path: Path) -> None:
    def names(**knobs: int) -> set[str]:
        return {name for part in parts(Glyphs(tmp_path, **knobs)) for name in part.classes}

    assert names(num_classes=10) != names(num_classes=10, seed=1)
    assert names(num_classes=10) < names(num_classes=12)


def test_rotation_is_respected(tmp_path: Path) -> None:
    bar = ord("|")
    angles = {}
    for rotation in (0.0, 15.0, 90.0):
        ink = module._ink("DejaVuSans", module._font("DejaVuSans", 58), bar)
        assert ink is not None
        jitter = np.random.default_rng(0).uniform(-1, 1, (50, 4))
        measured = np.array([slant(module._place(ink, 32, rotation, row)) for row in jitter])
        # A line has no direction, so angles count modulo 180. A bar turned clockwise leans to the left below.
        difference = (measured + rotation * jitter[:, 0] + 90) % 180 - 90
        assert np.abs(difference).max() < 2
        angles[rotation] = np.abs(measured).max()
    assert angles[0.0] < 0.5
    assert 13 < angles[15.0] < 17
    assert angles[90.0] > 80

    still, turned = (pixels(Glyphs(tmp_path, num_classes=8, rotation=r).splits().train) for r in (0, 15))
    assert still.shape == turned.shape
    assert (still != turned).any()


@pytest.mark.parametrize("rotation", [0, 15, 180])
def test_nothing_is_blank_cut_or_off_centre(tmp_path: Path, rotation: float) -> None:
    allowed = {0: 2, 15: 4, 180: 6}[rotation]  # pixels; what is turned need not fill its turned box evenly
    images = np.concatenate([pixels(part) for part in parts(Glyphs(tmp_path, num_classes=60, rotation=rotation))])
    assert images.max(axis=(1, 2)).min() > 100
    border = np.concatenate([images[:, 0], images[:, -1], images[:, :, 0], images[:, :, -1]])
    assert border.max() < 10
    for image in images:
        y, x = np.nonzero(image > 20)
        assert abs((x.min() + x.max()) / 2 - 15.5) <= allowed
        assert abs((y.min() + y.max()) / 2 - 15.5) <= allowed


def test_size_and_number_of_images(tmp_path: Path) -> None:
    whole = Glyphs(tmp_path, num_classes=8).splits().train
    assert len(np.unique(pixels(whole), axis=0)) == len(whole)
    capped = Glyphs(tmp_path, num_classes=8, images_per_class=5, size=16).splits().train
    assert torch.bincount(capped.targets).tolist() == [5] * len(capped.classes)
    assert capped.image(0).size == (16, 16)


def test_look_alikes_are_one_class() -> None:
    found = set(module.characters())
    assert found & {ord("A"), 0x0391, 0x0410} == {ord("A")}  # Latin, Greek, Cyrillic
    assert found & {ord("o"), 0x03BF, 0x043E} == {ord("o")}
    assert {ord("B"), ord("8"), ord("b"), 0x00C4} <= found
    assert 2000 < len(found) < 2400
    assert {unicodedata.category(chr(code))[0] for code in found} == set("LNSP")


def test_characters_draw_ink_in_most_faces_and_no_placeholder() -> None:
    fonts = {face: module._font(face, 32) for face in module.FACES}
    box = {face: bytes(font.getmask(chr(0x10FFFE))) for face, font in fonts.items()}
    for code in module.characters()[::40]:
        drawn = [face for face, font in fonts.items() if module._ink(face, font, code) is not None]
        assert len(drawn) >= 12
        assert all(bytes(fonts[face].getmask(chr(code))) != box[face] for face in drawn)


def test_cache_is_used_and_written_in_one_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    glyphs = Glyphs(tmp_path / "new" / "folder", num_classes=8)
    first = pixels(glyphs.splits().train)
    assert os.listdir(glyphs.root) == [glyphs.cache_file.name]
    monkeypatch.setattr(Glyphs, "_render", lambda self: pytest.fail("rendered again"))
    np.testing.assert_array_equal(first, pixels(glyphs.splits().train))


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


def lose_images(path: Path) -> None:
    with np.load(path) as archive:
        arrays = dict(archive)
    arrays["images"] = arrays["images"][1:]
    np.savez(path, **arrays)


@pytest.mark.parametrize(
    "damage", [halve, flip_a_byte, empty, fill_with_text, make_another_version, lose_images], ids=lambda f: f.__name__
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


def test_another_format_version_has_another_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = Glyphs(tmp_path).cache_file
    monkeypatch.setattr(module, "FORMAT_VERSION", module.FORMAT_VERSION + 1)
    assert Glyphs(tmp_path).cache_file != before


def test_folder_that_cannot_be_written_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    glyphs = Glyphs(tmp_path / "file" / "cache", num_classes=8)
    with pytest.warns(UserWarning, match="in memory only"):
        assert len(glyphs.splits().train.classes) == 4


def test_cache_folder_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.delenv("DIVCONQ_CACHE", raising=False)
    assert Glyphs().root == tmp_path / "xdg" / "divconq_pl"
    monkeypatch.setenv("DIVCONQ_CACHE", str(tmp_path / "own"))
    assert Glyphs().root == tmp_path / "own"
    monkeypatch.delenv("DIVCONQ_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    for platform, place in {"linux": ".cache", "darwin": "Library/Caches", "win32": "AppData/Local"}.items():
        monkeypatch.setattr(sys, "platform", platform)
        monkeypatch.delenv("LOCALAPPDATA", raising=False)
        assert module.cache_folder() == tmp_path / place / "divconq_pl"


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"num_classes": 100_000}, r"num_classes=100000, but there are 2\d\d\d characters"),
        ({"num_classes": 3}, "num_classes=3"),
        ({"rotation": -1}, "0 to 180 degrees"),
        ({"rotation": float("nan")}, "rotation=nan"),
        ({"size": 4}, "size=4"),
        ({"images_per_class": 1}, "images_per_class=1"),
        ({"num_classes": 5}, "5 classes cannot be split"),
        ({"num_classes": 8, "test_fraction": 1.2}, "test_fraction=1.2"),
        ({"num_classes": 8, "test_fraction": 0}, "the test part has 0 class"),
    ],
)
def test_arguments_out_of_range(tmp_path: Path, knobs: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Glyphs(tmp_path, **knobs).splits()
