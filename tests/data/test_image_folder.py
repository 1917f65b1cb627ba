"""Folders of images: the three layouts, what is ignored, what is refused."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from divconq_pl.data import ImageFolder, Splits, samples
from divconq_pl.data.dataset import FileDataset, RetrievalDataset
from divconq_pl.data.decoding import image_extensions
from divconq_pl.errors import InputError

LETTERS = list("abcdefghij")


def fill(folder: Path, classes: Sequence[str], images: int = 2) -> Path:
    """Make a folder of classes in which class i has the gray value 20 i."""
    for i, name in enumerate(classes):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for j in range(images):
            Image.new("L", (6, 4), 20 * i).save(folder / name / f"{j}.png")
    return folder


def read(root: Path, **arguments: object) -> Splits:
    """Read a folder and let no warning pass."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return ImageFolder(root, **arguments).splits()


def single(part: RetrievalDataset | tuple[RetrievalDataset, RetrievalDataset] | None) -> RetrievalDataset:
    assert isinstance(part, RetrievalDataset)
    return part


def test_classes_are_split_without_overlap_and_alike_each_time(tmp_path: Path) -> None:
    fill(tmp_path, LETTERS)
    splits = read(tmp_path)
    parts = [splits.train, single(splits.val), single(splits.test)]
    assert [len(part.classes) for part in parts] == [5, 2, 3]
    assert sorted(name for part in parts for name in part.classes) == LETTERS
    again = read(tmp_path)
    assert again.train.classes == splits.train.classes
    assert read(tmp_path, seed=1).train.classes != splits.train.classes
    for part in parts:
        for i in range(len(part)):
            image, label = part[i]
            assert Path(part.name_of(i)).parent.name == part.classes[label]
            assert image.shape == (3, 4, 6)
            assert image.unique().tolist() == pytest.approx([20 * LETTERS.index(part.classes[label]) / 255])


def test_folds_take_the_place_of_the_validation_fraction(tmp_path: Path) -> None:
    root = fill(tmp_path / "classes", LETTERS)
    listed = fill(tmp_path / "parts" / "train", LETTERS[:6])
    fill(tmp_path / "parts" / "test", LETTERS[6:])
    for folder, lists, rest, test in (
        (root, {}, None, read(root).test.classes),
        (root, {"test_classes": LETTERS[6:]}, LETTERS[:6], LETTERS[6:]),
        (listed.parent, {}, LETTERS[:6], LETTERS[6:]),
    ):
        rest = rest or [name for name in LETTERS if name not in test]
        folds = [read(folder, fold=fold, num_folds=3, **lists) for fold in range(3)]
        assert [name for splits in folds for name in single(splits.val).classes] == rest
        for splits in folds:
            assert single(splits.test).classes == test
            assert sorted(splits.train.classes + single(splits.val).classes) == rest


def test_folds_beside_given_validation_classes_are_refused(tmp_path: Path) -> None:
    for part, names in (("train", LETTERS[:4]), ("val", LETTERS[4:6]), ("test", LETTERS[6:])):
        fill(tmp_path / part, names)
    with pytest.raises(InputError, match="has its own images for validation; leave out fold"):
        read(tmp_path, fold=0)
    with pytest.raises(InputError, match=r"fold=0 holds classes out .* val_classes lists some"):
        read(tmp_path, fold=0, val_classes=LETTERS[:2], train_classes=LETTERS[2:4])


def test_no_validation_part(tmp_path: Path) -> None:
    splits = read(fill(tmp_path, LETTERS), val_fraction=0, test_fraction=0.5)
    assert splits.val is None
    assert len(splits.train.classes) == 5


def test_listed_classes(tmp_path: Path) -> None:
    fill(tmp_path, LETTERS)
    splits = read(tmp_path, train_classes=["b", "a"], val_classes=["d", "e"], test_classes=["j", "c"])
    assert splits.train.classes == ["b", "a"]
    assert single(splits.val).classes == ["d", "e"]
    assert single(splits.test).classes == ["j", "c"]
    # In the order of the files, labelled in the order of the list.
    assert splits.train.targets.tolist() == [1, 1, 0, 0]

    rest = read(tmp_path, test_classes=["a", "b"], val_classes=[])
    assert rest.val is None
    assert rest.train.classes == LETTERS[2:]
    some = read(tmp_path, train_classes=LETTERS[:5], val_fraction=0.4)
    assert len(some.train.classes) == 3
    assert len(single(some.val).classes) == 2
    assert single(some.test).classes == LETTERS[5:]


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        ({"train_classes": ["a", "z"]}, r"listed class 'z' is not in .* \['a', 'b', 'bird'\]"),
        ({"train_classes": ["bird.1"]}, "did you mean 'bird'"),
        ({"train_classes": ["a", "b"], "test_classes": ["b", "c"]}, "class 'b' is listed 2 times"),
        ({"train_classes": ["a"], "test_classes": ["b", "c"], "val_classes": []}, "training part has 1 class"),
        ({"val_classes": ["a", "b"]}, "val_classes are listed without"),
    ],
)
def test_lists_that_cannot_work(tmp_path: Path, lists: dict[str, list[str]], message: str) -> None:
    fill(tmp_path, [*LETTERS, "bird"])
    with pytest.raises(InputError, match=message):
        read(tmp_path, **lists)


def test_train_and_test_folders(tmp_path: Path) -> None:
    fill(tmp_path / "train", LETTERS[:5])
    fill(tmp_path / "test", LETTERS[5:])
    splits = read(tmp_path, val_fraction=0.4)
    val = single(splits.val)
    assert len(val.classes) == 2
    assert sorted(splits.train.classes + val.classes) == LETTERS[:5]
    assert single(splits.test).classes == LETTERS[5:]
    fill(tmp_path / "val", ["x", "y"])
    splits = read(tmp_path)
    assert splits.train.classes == LETTERS[:5]
    assert single(splits.val).classes == ["x", "y"]
    with pytest.raises(InputError, match="has its own train folder"):
        read(tmp_path, test_classes=["a", "b"])


def test_query_and_gallery_share_their_labels(tmp_path: Path) -> None:
    fill(tmp_path / "train", LETTERS[:5])
    fill(tmp_path / "query", ["g", "i"], images=1)
    fill(tmp_path / "gallery", ["f", "g", "h", "i"], images=1)
    test = read(tmp_path).test
    assert isinstance(test, tuple)
    query, gallery = test
    assert query.classes == gallery.classes == ["f", "g", "h", "i"]
    assert query.targets.tolist() == [1, 3]
    assert gallery.targets.tolist() == [0, 1, 2, 3]
    fill(tmp_path / "query", ["nowhere"], images=3)
    with pytest.warns(UserWarning, match="3 query images belong to 1 classes that are not in the gallery"):
        ImageFolder(tmp_path).splits()


def test_query_without_any_answer(tmp_path: Path) -> None:
    fill(tmp_path / "train", LETTERS)
    fill(tmp_path / "query", ["k", "l"])
    fill(tmp_path / "gallery", ["m", "n"])
    with pytest.raises(InputError, match=r"no class of .* is both in query and in gallery"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("parts", "named"),
    [(("train", "test"), "test"), (("train", "val", "test"), "val"), (("train", "query", "gallery"), "gallery")],
)
def test_training_classes_in_a_part_to_evaluate_on_are_refused(
    tmp_path: Path, parts: tuple[str, ...], named: str
) -> None:
    fill(tmp_path / "train", LETTERS)
    for part in parts[1:]:
        fill(tmp_path / part, ["v", "w"] if part == "val" else ["x", "y"])
    read(tmp_path)
    # A gallery may hold more than is asked for, but nothing that was trained on.
    fill(tmp_path / named, ["i", "j"])
    with pytest.raises(InputError, match=f"2 classes .* in (train and in|the) {named}(idation part)?, which .* i, j;"):
        read(tmp_path, val_fraction=0)


def test_validation_by_test_classes_is_pointed_out(tmp_path: Path) -> None:
    fill(tmp_path / "train", LETTERS)
    fill(tmp_path / "val", ["x", "y"])
    fill(tmp_path / "test", ["y", "z"])
    with pytest.warns(UserWarning, match="1 classes of 'val' are also in the test.*: y"):
        ImageFolder(tmp_path).splits()


def test_other_folders_beside_train_and_test_are_named(tmp_path: Path) -> None:
    for part, classes in {"train": LETTERS[:5], "test": ["k", "l"], "extra": ["m", "n"]}.items():
        fill(tmp_path / part, classes)
    with pytest.warns(UserWarning, match=r"\['extra'\] are ignored"):
        ImageFolder(tmp_path).splits()


def test_hidden_files_are_passed_over(tmp_path: Path) -> None:
    fill(tmp_path, LETTERS)
    for clutter in ("a/._0.png", "a/.hidden.jpg", "a/Thumbs.db", ".cache/x.png", "__MACOSX/._a.png", "list.txt"):
        (tmp_path / clutter).parent.mkdir(exist_ok=True)
        (tmp_path / clutter).write_text("no image")
    splits = read(tmp_path, val_fraction=0)
    assert sorted(splits.train.classes + single(splits.test).classes) == LETTERS
    assert len(splits.train) + len(single(splits.test)) == 20


def test_root_one_level_too_high(tmp_path: Path) -> None:
    fill(tmp_path / "download" / "birds", LETTERS)
    with pytest.warns(UserWarning, match="birds' is used as root"):
        splits = ImageFolder(tmp_path).splits()
    assert len(splits.train.classes) == 5


def test_deeper_classes_are_refused(tmp_path: Path) -> None:
    fill(tmp_path / "birds", LETTERS)
    fill(tmp_path / "cars", LETTERS)
    with pytest.raises(
        InputError, match=r"birds' holds folders where images are expected; .* otherwise use <root>/<class>"
    ):
        read(tmp_path)


def test_train_without_test_is_refused(tmp_path: Path) -> None:
    fill(tmp_path / "train", LETTERS)
    fill(tmp_path / "val", ["x", "y"])
    with pytest.raises(InputError, match=r"has train and val but neither test .* dataset.root='.*/train'"):
        read(tmp_path)


@pytest.mark.parametrize("parts", [("test",), ("query", "gallery"), ("val", "test")])
def test_what_can_only_be_evaluated_on_is_refused_in_a_training(tmp_path: Path, parts: tuple[str, ...]) -> None:
    for part in parts:
        fill(tmp_path / part, LETTERS)
    if parts == ("test",):  # a folder within a folder, of whatever name
        with pytest.warns(UserWarning, match="test' is used as root"):
            ImageFolder(tmp_path).splits()
        return
    with pytest.raises(InputError, match=rf"has {' and '.join(parts)} but no train .* evaluate\.py"):
        read(tmp_path)


@pytest.mark.parametrize(
    "parts", [("bounding_box_train", "bounding_box_test", "query"), ("image_train", "image_test"), ("train", "test")]
)
def test_parts_without_classes_are_not_taken_for_classes(tmp_path: Path, parts: tuple[str, ...]) -> None:
    fill(tmp_path, parts, images=4)
    for ask in (read, evaluated):
        with pytest.raises(InputError, match=r"are parts of a data set and not its classes, as re-identification"):
            ask(tmp_path)


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    splits = read(fill(tmp_path, ["car", "bus", "train", "test", "val", "boat", "plane"]), val_fraction=0)
    assert len(splits.train.classes) == 5


def evaluated(root: Path, **arguments: object) -> FileDataset | tuple[FileDataset, FileDataset]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return ImageFolder(root, **arguments).evaluated()


def test_an_evaluation_takes_all_images(tmp_path: Path) -> None:
    fill(tmp_path, LETTERS, images=3)
    whole = single(evaluated(tmp_path))
    assert (whole.classes, len(whole)) == (LETTERS, 30)
    assert len(single(evaluated(tmp_path, test_fraction=1.0))) == 30


def test_an_evaluation_takes_the_classes_that_are_asked_for(tmp_path: Path) -> None:
    fill(tmp_path, LETTERS)
    assert single(evaluated(tmp_path, test_classes=["c", "a"])).classes == ["c", "a"]
    assert single(evaluated(tmp_path, train_classes=LETTERS[:6], val_classes=["g", "h"])).classes == ["i", "j"]
    assert single(evaluated(tmp_path, test_fraction=0.3)).classes == single(read(tmp_path).test).classes


@pytest.mark.parametrize("parts", [["test"], ["train", "test"], ["train", "val", "test", "more"]])
def test_an_evaluation_takes_the_whole_test_folder(tmp_path: Path, parts: list[str]) -> None:
    for i, part in enumerate(parts):
        fill(tmp_path / part, LETTERS[2 * i : 2 * i + 3] if part != "test" else LETTERS)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*test' is used as root")
        assert len(single(ImageFolder(tmp_path).evaluated())) == 20


def test_an_evaluation_needs_no_train_beside_query_and_gallery(tmp_path: Path) -> None:
    fill(tmp_path / "query", ["b"])
    fill(tmp_path / "gallery", ["a", "b", "c"])
    query, gallery = evaluated(tmp_path)
    assert query.classes == gallery.classes == ["a", "b", "c"]
    assert (query.targets.tolist(), gallery.targets.tolist()) == ([1, 1], [0, 0, 1, 1, 2, 2])


def test_an_evaluation_takes_a_single_class_and_a_flat_folder(tmp_path: Path) -> None:
    flat = fill(tmp_path / "classes", ["birds"], images=4) / "birds"
    for root in (flat.parent, flat):
        data = single(evaluated(root))
        assert (data.classes, len(data)) == (["birds"], 4)


@pytest.mark.parametrize("parts", [("train", "val"), ("query", "val")])
def test_an_evaluation_without_images_for_it_says_what_to_give(tmp_path: Path, parts: tuple[str, ...]) -> None:
    for part in parts:
        fill(tmp_path / part, LETTERS)
    with pytest.raises(InputError, match=r"neither test nor both query and gallery; .* dataset.root='"):
        evaluated(tmp_path)


@pytest.mark.skipif(find_spec("pillow_heif") is not None, reason="HEIC is read here")
def test_what_is_passed_over_is_said_by_extension_and_number(tmp_path: Path) -> None:
    fill(tmp_path, LETTERS)
    for name in ("a/1.heic", "a/2.HEIC", "b/3.mp4", "c/noextension", "loose.png"):
        (tmp_path / name).write_bytes(b"")
    fill(tmp_path / "d" / "more", ["x"])
    for read_part in (ImageFolder(tmp_path).splits, ImageFolder(tmp_path).evaluated):
        with pytest.warns(UserWarning, match="passed over in") as caught:
            read_part()
        (message,) = (str(warning.message) for warning in caught)
        assert 'pip install "divconq-pl[heic]" to read .heic' in message
        for said in ("2 .heic", "1 .mp4", "1 without an extension", "1 folder", "1 images outside", "end in .* .png"):
            assert re.search(said, message), message


def test_every_kind_of_image_that_the_decoder_reads_is_seen(tmp_path: Path) -> None:
    endings = [".jpg", ".JPEG", ".jfif", ".jpe", ".png", ".gif", ".bmp", ".tif", ".TIFF", ".webp", ".ppm", ".jp2"]
    endings += [".avif"] if ".avif" in image_extensions() else []
    for name in LETTERS:
        (tmp_path / name).mkdir()
        for ending in endings:
            kind = {".jfif": "JPEG", ".jpe": "JPEG"}.get(ending)
            Image.new("RGB", (16, 16), (200, 100, 50)).save(tmp_path / name / f"image{ending}", kind)
    data = single(evaluated(tmp_path))
    assert len(data) == len(LETTERS) * len(endings)
    for i in range(len(endings)):
        pixel = np.asarray(data.image(i))[8, 8].astype(int)
        assert np.abs(pixel - (200, 100, 50)).max() < 70, data.name_of(i)  # a palette of few colours is coarse


def test_photographs_of_phones_are_read_by_an_extra(tmp_path: Path) -> None:
    heif = pytest.importorskip("pillow_heif")
    for name in LETTERS:
        (tmp_path / name).mkdir()
        for ending in ("HEIC", "heif"):
            heif.from_pillow(Image.new("RGB", (32, 16), (200, 100, 50))).save(tmp_path / name / f"1.{ending}")
    data = single(evaluated(tmp_path))
    assert len(data) == 2 * len(LETTERS)
    assert np.abs(np.asarray(data.image(0)).astype(int) - (200, 100, 50)).max() < 10


def test_what_the_decoder_at_hand_cannot_read_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, LETTERS)
    (tmp_path / "a" / "1.avif").write_bytes(b"")
    known = {end: kind for end, kind in Image.registered_extensions().items() if kind != "AVIF"}
    monkeypatch.setattr(Image, "registered_extensions", lambda: known)
    samples._known_extensions.cache_clear()
    with pytest.warns(UserWarning, match=r"passed over in .*: 1 \.avif; "):
        ImageFolder(tmp_path).splits()
    samples._known_extensions.cache_clear()


def test_names_that_are_not_utf_8_are_read_and_can_be_written(tmp_path: Path) -> None:
    fill(tmp_path, LETTERS)
    odd = os.fsencode(tmp_path) + b"/caf\xe9"
    os.mkdir(odd)
    for i in range(2):
        Image.new("L", (6, 4), 7).save(os.fsdecode(odd + b"/\xff%d.png" % i))
    data = single(evaluated(tmp_path, test_classes=["a", "caf\\xe9"]))
    assert data.classes == ["a", "caf\\xe9"]
    assert data.name_of(2).encode().endswith(b"/caf\\xe9/\\xff0.png")
    assert float(data[2][0].max()) == pytest.approx(7 / 255)


def test_single_images_are_kept_and_counted(tmp_path: Path) -> None:
    fill(tmp_path, LETTERS)
    fill(tmp_path, ["k", "l"], images=1)
    with pytest.warns(UserWarning, match="2 classes of .* a single image.*k, l") as caught:
        splits = ImageFolder(tmp_path, val_fraction=0).splits()
    assert len(caught) == 1
    assert {"k", "l"} <= set(splits.train.classes + single(splits.test).classes)


def test_class_without_images_is_left_out(tmp_path: Path) -> None:
    fill(tmp_path, LETTERS)
    (tmp_path / "void").mkdir()
    with pytest.warns(UserWarning, match="1 folders of .* hold no image: void"):
        splits = ImageFolder(tmp_path, val_fraction=0).splits()
    assert "void" not in splits.train.classes + single(splits.test).classes


def test_folders_without_images(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        ImageFolder(tmp_path / "nowhere")
    (tmp_path / "archive.tgz").write_text("")
    with pytest.raises(InputError, match="is a file"):
        ImageFolder(tmp_path / "archive.tgz")
    (tmp_path / "archive.tgz").unlink()
    with pytest.raises(InputError, match="no folder per class"):
        read(tmp_path)
    Image.new("L", (4, 4)).save(tmp_path / "loose.png")
    with pytest.raises(InputError, match="no folder per class"):
        read(tmp_path)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "0.mp4").write_text("")
    with pytest.raises(InputError, match=r"1 folders but no image in them.*\.png"):
        read(tmp_path)


def test_too_few_classes(tmp_path: Path) -> None:
    fill(tmp_path, LETTERS[:5])
    with pytest.raises(InputError, match="5 classes cannot be split"):
        read(tmp_path)
    assert len(read(tmp_path, val_fraction=0).train.classes) == 3


def spoil(root: Path) -> tuple[Path, Path]:
    """Cut an image short and make another one of text."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(root / "a" / "cut.jpg")
    content = (root / "a" / "cut.jpg").read_bytes()
    (root / "a" / "cut.jpg").write_bytes(content[: len(content) // 2])
    (root / "b" / "text.png").write_text("no image")
    return root / "a" / "cut.jpg", root / "b" / "text.png"


def test_bad_image_stops_with_its_name(tmp_path: Path) -> None:
    bad = spoil(fill(tmp_path, LETTERS))
    data = read(tmp_path, train_classes=LETTERS[:5], val_fraction=0).train
    names = [data.name_of(i) for i in range(len(data))]
    for file in bad:
        with pytest.raises(InputError, match=f"cannot read the image .*{file.name}"):
            data[names.index(str(file))]


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.jpg"):
        FileDataset([tmp_path / "gone.jpg"], [0], ["a"])[0]


def test_bad_images_are_skipped_and_counted(tmp_path: Path) -> None:
    spoil(fill(tmp_path, LETTERS))
    with pytest.warns(UserWarning, match=r"2 images of .* cannot be read and are left out: .*cut\.jpg, .*text\.png"):
        splits = ImageFolder(tmp_path, on_bad_image="skip", val_fraction=0).splits()
    test = single(splits.test)
    assert len(splits.train) + len(test) == 20
    for part in (splits.train, test):
        assert all(part[i][0].shape == (3, 4, 6) for i in range(len(part)))


def test_only_bad_images(tmp_path: Path) -> None:
    for name in LETTERS:
        (tmp_path / name).mkdir()
        (tmp_path / name / "0.png").write_text("no image")
    with pytest.raises(InputError, match="none of the 10 images"):
        ImageFolder(tmp_path, on_bad_image="skip").splits()
    with pytest.raises(InputError, match="on_bad_image='ignore'"):
        ImageFolder(tmp_path, on_bad_image="ignore")  # type: ignore[arg-type]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "P+alpha", "RGB", "RGBA", "CMYK", "I;16"])
def test_every_kind_of_image_becomes_rgb(tmp_path: Path, mode: str) -> None:
    file = tmp_path / ("image.jpg" if mode == "CMYK" else "image.png")
    gray = 255 if mode == "1" else 100
    if mode == "I;16":
        image = Image.fromarray(np.full((4, 4), gray * 256, dtype=np.uint16))
    else:
        image = Image.new("RGB", (4, 4), (gray,) * 3).convert(mode.removesuffix("+alpha"))
    image.save(file, **({"transparency": bytes(range(256))} if mode == "P+alpha" else {}))
    read_back = np.asarray(FileDataset([file], [0], ["a"]).image(0))
    assert read_back.shape == (4, 4, 3)
    assert np.abs(read_back.astype(int) - gray).max() <= 3


@pytest.mark.parametrize(
    "names", [("Train", "Valid", "Test"), ("training", "validation", "testing"), ("train_set", "dev", "TEST_SET")]
)
def test_parts_by_other_names(tmp_path: Path, names: tuple[str, ...]) -> None:
    for name, classes in zip(names, (LETTERS[:5], ["x", "y"], ["u", "v"]), strict=True):
        fill(tmp_path / name, classes)
    splits = read(tmp_path)
    assert splits.train.classes == LETTERS[:5]
    assert (single(splits.val).classes, single(splits.test).classes) == (["x", "y"], ["u", "v"])


@pytest.mark.parametrize(
    ("files", "root", "said"),
    [
        (
            ["images/1.png", "images/2.png", "list.csv"],
            ".",
            "a single class, 'images', .* dataset.root='.*/list.csv'$",
        ),
        (["1.png", "2.png"], ".", "has no folder per class .* dataset=csv dataset.root='FILE.csv'$"),
        (["part-0.parquet"], ".", "parquet files are read by dataset=huggingface dataset.root='.*'$"),
        (["list.csv"], "list.csv", "is a file; dataset=csv reads it$"),
        (["a.zip"], "a.zip", "is a file; unpack it, and give the folder$"),
        (["a.parquet"], "a.parquet", "is a file; dataset=huggingface reads it$"),
        (["birds/a/1.png", "fish/b/1.png"], ".", "if these are the classes, give dataset.root='.*/birds'; otherwise"),
    ],
)
def test_what_else_reads_the_images_is_said(tmp_path: Path, files: list[str], root: str, said: str) -> None:
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4)).save(tmp_path / file, "PNG")
    with pytest.raises(InputError, match=said):
        read(tmp_path / root)
