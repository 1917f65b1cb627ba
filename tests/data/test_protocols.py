"""Tests on images of classes that are trained on: which images they are, and that nobody mistakes them for new ones."""

import warnings

import numpy as np
import pytest
from PIL import Image

from divconq_pl.data import ArrayDataset, CsvFile, HuggingFace, ImageFolder
from divconq_pl.data.listed_parts import NOT_SPLIT, Splitting
from divconq_pl.errors import InputError


def make(classes, images):
    """Make a data set in which each image has a value of its own."""
    labels = np.repeat(np.arange(len(classes)), images)
    pixels = np.arange(len(labels), dtype=np.uint8)[:, None, None]
    return ArrayDataset(pixels, labels, list(classes), [str(i) for i in range(len(labels))])


def values(data):
    return [data.image(i).getpixel((0, 0)) for i in range(len(data))]


def names(data):
    return [data.classes[label] for label in data.targets]


def fill(folder, classes, images):
    for i, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for j in range(images):
            Image.new("L", (4, 4), 40 * i + j).save(folder / name / f"{j}.png")


def split(parts, where="here", **options):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return Splitting(**options).split(parts, where)


def test_images_of_every_class_are_held_out_where_nothing_says_which(tmp_path):
    whole = make("abcde", 20)
    splits = split({NOT_SPLIT: whole}, protocol="closed", val_fraction=0.25, test_fraction=0.3)
    parts = [splits.train, splits.val, splits.test]
    assert [(len(part), part.classes) for part in parts] == [(n * 5, list("abcde")) for n in (10, 4, 6)]
    assert sorted(value for part in parts for value in values(part)) == list(range(100))
    for part in parts:  # labels are right
        assert names(part) == ["abcde"[value // 20] for value in values(part)]
    other = split({NOT_SPLIT: whole}, protocol="closed", val_fraction=0.5, test_fraction=0.3)
    assert values(other.test) == values(splits.test)
    assert values(split({NOT_SPLIT: whole}, protocol="closed", seed=1).test) != values(splits.test)


def test_classes_of_three_images_are_trained_on_and_not_tested():
    few, many = make("ab", 3), make("abc", 4)
    with pytest.raises(InputError, match="none of 2 classes has four images, two to train on and two to hold out"):
        split({NOT_SPLIT: few}, protocol="closed")
    rare = many.with_images((many.targets != 2).nonzero().flatten()).with_classes(list("abc"))
    splits = split({NOT_SPLIT: rare}, protocol="closed", val_fraction=0)
    assert (len(splits.train), len(splits.test)) == (4, 4)


def test_training_images_are_the_gallery_with_all_their_classes():
    parts = {"train": make("abcd", 5), "test": make("bcx", 2), "val": make("ab", 2)}
    with pytest.warns(UserWarning, match="2 of 6 test images of 'here' are left out, since their classes are not tr"):
        splits = Splitting(protocol="train_gallery").split(parts, "here")
    query, gallery = splits.test
    assert names(query) == list("bbcc")
    assert query.classes == gallery.classes == list("abcd")
    assert values(gallery) == values(splits.train) == list(range(20))
    with pytest.warns(UserWarning, match="2 of 6 test images"):
        assert names(Splitting(protocol="closed").choose_tested(parts, "here")) == list("bbcc")


def test_what_is_held_out_for_validation_is_not_in_the_gallery():
    splits = split({"train": make("abc", 10), "test": make("abc", 2)}, protocol="train_gallery", val_fraction=0.2)
    assert len(splits.val) == 6
    assert values(splits.test[1]) == values(splits.train)
    assert not set(values(splits.val)) & set(values(splits.train))


@pytest.mark.parametrize(
    ("parts", "options", "message"),
    [
        (
            {"train": "ab", "test": "bc"},
            {},
            "1 classes of 'here' are both in train and in test, .*: b; use",
        ),
        ({"train": "ab", "test": "cd"}, {"protocol": "closed"}, "no class of the test images of 'here' is trained on"),
        ({NOT_SPLIT: "ab"}, {"protocol": "closed", "test_fraction": 0}, "leaves no image to test on"),
        ({NOT_SPLIT: "ab"}, {"protocol": "closed", "val_fraction": 1}, "a share of 1 of the images cannot be held out"),
        ({NOT_SPLIT: "ab"}, {"protocol": "closed", "fold": 0}, "fold=0 holds classes out, but protocol=closed"),
        ({NOT_SPLIT: "ab"}, {"protocol": "close"}, "protocol='close' is unknown; choose open, closed, train_gallery"),
        (
            {"train": "ab", "query": "ab", "gallery": "ab"},
            {"protocol": "train_gallery"},
            "for train, query, gallery only; give train and test",
        ),
    ],
)
def test_what_contradicts_the_protocol_is_refused(parts, options, message):
    with pytest.raises(InputError, match=message):
        split({name: make(classes, 10) for name, classes in parts.items()}, **options)


def write_folder(tmp_path, protocol):
    fill(tmp_path / "train", "abc", 8)
    fill(tmp_path / "test", "abc", 3)
    return ImageFolder(tmp_path, protocol=protocol)


def write_csv(tmp_path, protocol):
    write_folder(tmp_path, protocol)
    lines = [f"{path},{path.parent.name},{path.parent.parent.name}" for path in sorted(tmp_path.glob("*/*/*.png"))]
    (tmp_path / "list.csv").write_text("\n".join(["path,label,split", *lines]))
    return CsvFile(tmp_path / "list.csv", protocol=protocol)


def write_table(tmp_path, protocol):
    datasets = pytest.importorskip("datasets")
    write_folder(tmp_path, protocol)
    parts = {}
    for part in ("train", "test"):
        files = sorted((tmp_path / part).glob("*/*.png"))
        columns = {"image": list(map(str, files)), "label": [file.parent.name for file in files]}
        parts[part] = datasets.Dataset.from_dict(columns).cast_column("image", datasets.Image())
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "saved"))
    return HuggingFace(tmp_path / "saved", protocol=protocol)


@pytest.mark.parametrize("write", [write_folder, write_csv, write_table])
def test_folders_lists_and_tables_know_the_protocols(tmp_path, write):
    closed = write(tmp_path / "closed", "closed")
    splits = closed.splits()
    assert [len(part) for part in (splits.train, splits.val, splits.test)] == [18, 6, 9]
    assert values(closed.evaluated()) == values(splits.test)
    by_gallery = write(tmp_path / "gallery", "train_gallery")
    assert [len(part) for part in by_gallery.splits().test] == [9, 18]
    assert [len(part) for part in by_gallery.evaluated()] == [9, 24]  # of others, all is a gallery
    with pytest.raises(InputError, match=r"3 classes of .* are both in train and in test"):
        write(tmp_path / "open", "open").splits()


def test_an_evaluation_of_a_folder_of_classes_takes_the_users_word(tmp_path):
    fill(tmp_path, "abc", 8)
    assert len(ImageFolder(tmp_path, protocol="closed").evaluated()) == 24
    share = ImageFolder(tmp_path, protocol="closed", test_fraction=0.5)
    assert values(share.evaluated()) == values(share.splits().test)
    with pytest.raises(InputError, match=r"among training images, but .* has images for no part only; give train and"):
        ImageFolder(tmp_path, protocol="train_gallery").evaluated()
    with pytest.raises(InputError, match="protocol=closed tests on classes that are trained on; list no classes"):
        ImageFolder(tmp_path, protocol="closed", test_classes=["a"])
