"""The glyph data set: what it draws and how it splits."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch

from divconq_pl.data import Glyphs
from divconq_pl.data.characters import draw, load_font
from divconq_pl.data.dataset import RetrievalDataset
from divconq_pl.errors import InputError


def pixels(data: RetrievalDataset) -> np.ndarray:
    return np.stack([np.asarray(data.image(i)) for i in range(len(data))])


def parts(glyphs: Glyphs) -> list[RetrievalDataset]:
    splits = glyphs.splits()
    assert splits.val is not None
    assert not isinstance(splits.test, tuple)
    return [splits.train, splits.val, splits.test]


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
    ink = draw(face, load_font(face, 48), code)
    assert ink is not None
    box = train.image(5).getbbox()
    assert box is not None
    drawn = train.image(5).crop(box).resize(ink.size)
    assert np.corrcoef(np.asarray(ink).ravel(), np.asarray(drawn).ravel())[0, 1] > 0.8
    assert image.shape == (1, 32, 32)
    assert 0 <= float(image.min()) <= float(image.max()) <= 1


def test_seed_changes_classes_and_fewer_classes_are_drawn_from_the_same(tmp_path: Path) -> None:
    def names(**knobs: int) -> set[str]:
        return {name for part in parts(Glyphs(tmp_path, **knobs)) for name in part.classes}

    assert names(num_classes=10) != names(num_classes=10, seed=1)
    assert names(num_classes=10) < names(num_classes=12)


def test_rotation_turns_the_same_images(tmp_path: Path) -> None:
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


def test_another_format_version_has_another_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = Glyphs(tmp_path).cache_file
    monkeypatch.setattr(Glyphs, "format_version", Glyphs.format_version + 1)
    assert Glyphs(tmp_path).cache_file != before


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
