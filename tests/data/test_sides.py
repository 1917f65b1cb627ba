"""Objects with sides: which characters they have, in which style, and who knows which side an image shows."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from divconq_pl.data import Sides
from divconq_pl.data.characters import FACES, draw, load_font
from divconq_pl.data.dataset import RetrievalDataset
from divconq_pl.data.styles import STYLES
from divconq_pl.errors import InputError


def pixels(data: RetrievalDataset) -> np.ndarray:
    return np.stack([np.asarray(data.image(i)) for i in range(len(data))])


def parts(sides: Sides) -> list[RetrievalDataset]:
    splits = sides.splits()
    assert splits.val is not None
    assert not isinstance(splits.test, tuple)
    return [splits.train, splits.val, splits.test]


def in_a_box(image: Image.Image) -> Image.Image:
    """Cut to its ink."""
    return image.crop(image.getbbox()).resize((24, 24))


def shown(data: RetrievalDataset, index: int) -> tuple[str, int, str]:
    """Style, character and typeface of an image, read from its name."""
    _, style, character, face = data.name_of(index).split(", ")
    return style, int(character.split()[0][2:], 16), face


def groups_of(data: RetrievalDataset) -> torch.Tensor:
    assert data.groups is not None
    return data.groups


def test_an_object_has_a_character_of_its_own_on_each_side(tmp_path: Path) -> None:
    split = parts(Sides(tmp_path, num_classes=20, val_fraction=0.25, test_fraction=0.35))
    assert [len(part.classes) for part in split] == [8, 5, 7]
    characters: list[int] = []
    for part in split:
        groups = groups_of(part)
        for label, name in enumerate(part.classes):
            sides = []
            for side in range(4):
                images = ((part.targets == label) & (groups == side)).nonzero().squeeze(1).tolist()
                styles, codes, faces = zip(*(shown(part, i) for i in images), strict=True)
                assert len(images) == 4 == len(set(faces))
                assert set(styles) == {part.group_names[side]}
                assert len(set(codes)) == 1
                sides.append(codes[0])
            assert name == " ".join(f"U+{code:04X}" for code in sides)
            characters += sides
    assert len(characters) == len(set(characters)) == 20 * 4  # so nothing of a test object was seen in training


def test_no_character_is_used_twice(tmp_path: Path) -> None:
    split = parts(Sides(tmp_path, num_classes=300, images_per_side=1, size=8))
    used = [code for part in split for name in part.classes for code in name.split()]
    assert len(used) == len(set(used)) == 300 * 4


@pytest.mark.parametrize("num_sides", [1, 2, 8])
def test_number_of_sides_and_images(tmp_path: Path, num_sides: int) -> None:
    sides = Sides(tmp_path, num_classes=8, num_sides=num_sides, images_per_side=3, size=16)
    for part in parts(sides):
        assert part.group_names == list(STYLES)[:num_sides]
        counts = torch.bincount(part.targets * num_sides + groups_of(part), minlength=len(part.classes) * num_sides)
        assert counts.tolist() == [3] * len(part.classes) * num_sides
        assert part.image(0).size == (16, 16)


def test_image_shows_the_character_it_is_named_after(tmp_path: Path) -> None:
    train = Sides(tmp_path, num_classes=20, images_per_side=1, rotation=0).splits().train
    white_on_black = (groups_of(train) == 0).nonzero().squeeze(1).tolist()
    looks = np.stack([np.asarray(in_a_box(train.image(i))).ravel() for i in white_on_black])
    inks = []
    for i in white_on_black:
        style, code, face = shown(train, i)
        assert style == "white on black"
        ink = draw(face, load_font(face, 48), code)
        assert ink is not None
        inks.append(np.asarray(in_a_box(ink)).ravel())
    likeness = np.corrcoef(looks, inks)[: len(looks), len(looks) :]
    np.testing.assert_array_equal(likeness.argmax(1), np.arange(len(looks)))


def test_images_of_one_side_look_alike_from_object_to_object(tmp_path: Path) -> None:
    train = Sides(tmp_path, num_classes=30, num_sides=8).splits().train
    images, groups = pixels(train).reshape(len(train), -1).astype(float), groups_of(train).numpy()
    means = np.stack([images[groups == side].mean(0) for side in range(8)])
    nearest = ((images[:, None] - means) ** 2).sum(-1).argmin(1)
    assert (nearest == groups).mean() > 0.95


def test_more_images_than_typefaces_differ_by_their_place(tmp_path: Path) -> None:
    train = Sides(tmp_path, num_classes=4, num_sides=1, images_per_side=40, val_fraction=0).splits().train
    for label in range(len(train.classes)):
        mine = (train.targets == label).nonzero().squeeze(1).tolist()
        faces = [shown(train, i)[2] for i in mine]
        assert set(faces) <= set(FACES)
        assert max(faces.count(face) for face in faces) - min(faces.count(face) for face in faces) <= 1
        assert len(np.unique(pixels(train)[mine], axis=0)) == 40


def test_seed_changes_objects_and_fewer_objects_are_the_first(tmp_path: Path) -> None:
    def names(**knobs: int) -> set[str]:
        return {name for part in parts(Sides(tmp_path, **knobs)) for name in part.classes}

    assert names(num_classes=10).isdisjoint(names(num_classes=10, seed=1))
    assert names(num_classes=10) < names(num_classes=12)


def test_side_stays_with_its_image_in_parts_and_in_other_processes(tmp_path: Path) -> None:
    train = Sides(tmp_path, num_classes=10).splits().train
    some = train.with_classes(train.classes[3:1:-1]).with_transform(None).with_seed(0)
    for data in (some, pickle.loads(pickle.dumps(some))):
        assert len(groups_of(data)) == len(data) == 32
        assert [data.group_names[side] for side in groups_of(data)] == [shown(data, i)[0] for i in range(len(data))]


def test_cache_is_used_and_depends_on_what_is_rendered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = pixels(Sides(tmp_path, num_classes=8).splits().train)
    monkeypatch.setattr(Sides, "_render", lambda self: pytest.fail("rendered again"))
    np.testing.assert_array_equal(first, pixels(Sides(tmp_path, num_classes=8, num_folds=3).splits().train))
    file = Sides(tmp_path).cache_file
    for knobs in ({"num_sides": 2}, {"images_per_side": 1}, {"seed": 1}, {"rotation": 0}, {"size": 16}):
        assert Sides(tmp_path, **knobs).cache_file != file
    monkeypatch.setattr(Sides, "format_version", Sides.format_version + 1)
    assert Sides(tmp_path).cache_file != file


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"num_classes": 2000}, r"num_classes=2000 with num_sides=4.* use at most num_classes=1\d\d\d"),
        ({"num_classes": 3}, "num_classes=3"),
        ({"num_sides": 9}, "num_sides=9 is out of range; use 1 to 8"),
        ({"num_sides": 0}, "num_sides=0"),
        ({"images_per_side": 0}, "images_per_side=0"),
        ({"num_sides": 1, "images_per_side": 1}, "no pair"),
        ({"rotation": 181}, "0 to 180 degrees"),
        ({"size": 4}, "size=4"),
        ({"num_classes": 8, "test_fraction": 0}, "the test part has 0 class"),
    ],
)
def test_arguments_out_of_range(tmp_path: Path, knobs: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Sides(tmp_path, **knobs).splits()
