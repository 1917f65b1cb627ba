"""The published data sets: every layout gives the same images, and what is wrong with a copy is named."""

from __future__ import annotations

import pickle
import shutil
import sys
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trees
from torch.utils.data import ConcatDataset, DataLoader

from divconq_pl.data import CUB200, Cars196, InShop, Splits, StanfordOnlineProducts, VehicleID, published
from divconq_pl.data.annotations import parse_whole_number, read_mat_rows
from divconq_pl.data.dataset import RetrievalDataset
from divconq_pl.data.parquet import name_parquet_image, read_parquet_rgb
from divconq_pl.data.published import Benchmark
from divconq_pl.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore:.*is not as published")

Write = Callable[[Path], trees.Tree]
COPIES: dict[str, tuple[type[Benchmark], Write]] = {
    "cub": (CUB200, trees.write_cub),
    "cars A": (Cars196, trees.write_cars_all_in_one),
    "cars A in its folder": (Cars196, lambda root: trees.write_cars_all_in_one(root / "CARS196")),
    "cars B": (Cars196, trees.write_cars_train_and_test),
    "cars B, names": (Cars196, partial(trees.write_cars_train_and_test, meta=True)),
    "cars B, labels at the root": (Cars196, partial(trees.write_cars_train_and_test, labels_in="")),
    "cars B'": (Cars196, partial(trees.write_cars_train_and_test, nested=True)),
    "cars C": (Cars196, trees.write_cars_folders_of_classes),
    "cars D": (Cars196, trees.write_cars_parquet),
    "sop": (StanfordOnlineProducts, trees.write_sop),
    "sop, images apart": (StanfordOnlineProducts, partial(trees.write_sop, images_apart=True)),
    "inshop": (InShop, trees.write_inshop),
    "inshop at the root": (InShop, partial(trees.write_inshop, lists="", images="img")),
    "inshop, list in Anno": (InShop, partial(trees.write_inshop, lists="Anno", images="img")),
    "inshop, large images": (InShop, partial(trees.write_inshop, images="Img/img_highres")),
    "vehicle_id": (VehicleID, trees.write_vehicle_id),
}
EVERY_COPY = pytest.mark.parametrize("name", COPIES)


def read(reader: type[Benchmark], root: Path, **arguments: Any) -> Splits:
    """Read a copy and let no warning pass, except that it is small."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", ".*is not as published")
        return reader(root, **{"val_fraction": 0, **arguments}).splits()


def content(data: RetrievalDataset) -> trees.Part:
    """Return what `trees.part` does: class names, and label and colour of each image, in order."""
    found = []
    for i, label in enumerate(data.targets.tolist()):
        r, g, b = data.image(i).getpixel((20, 18))
        found.append(
            (label, (12 * round((r - 8) / 12) + 8, 12 * round((g - 8) / 12) + 8, 32 * round((b - 8) / 32) + 8))
        )
    return trees.Part(data.classes, sorted(found))


def parts(splits: Splits) -> dict[str, trees.Part]:
    tests = dict(zip(("query", "gallery"), splits.test, strict=True)) if isinstance(splits.test, tuple) else None
    return {part: content(data) for part, data in {"train": splits.train, **(tests or {"test": splits.test})}.items()}


@EVERY_COPY
def test_every_layout_gives_its_images_and_labels(tmp_path: Path, name: str) -> None:
    reader, write = COPIES[name]
    tree = write(tmp_path)
    splits = read(reader, tmp_path)
    assert parts(splits) == tree
    assert splits.val is None
    assert splits.train[0][0].shape == (3, 36, 40)


@EVERY_COPY
def test_a_root_that_is_too_high_or_too_deep_is_found_and_said(tmp_path: Path, name: str) -> None:
    reader, write = COPIES[name]
    root = tmp_path / "downloads" / "here"
    tree = write(root)
    inside = [path for path in root.iterdir() if path.is_dir()]
    for start in (tmp_path, tmp_path / "downloads", *inside):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            splits = reader(start, val_fraction=0).splits()
        said = [str(w.message) for w in caught if "laid out" in str(w.message)]
        assert parts(splits) == tree
        # The folder that an archive unpacks to is as good a root as the one that holds it.
        assert len(said) == (0 if start.name == reader.home else 1)
        assert all(f"{str(start)!r} is not laid out as expected; {root}" in text for text in said)


def test_a_root_two_levels_too_deep(tmp_path: Path) -> None:
    trees.write_cub(tmp_path)
    with pytest.warns(UserWarning, match=r"101\.Bird_101' is not laid out .*CUB_200_2011 is used"):
        splits = CUB200(tmp_path / "CUB_200_2011" / "images" / "101.Bird_101").splits()
    assert len(splits.train.classes) == 6


def test_nothing_is_said_of_a_copy_that_has_the_published_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trees.write_cub(tmp_path)
    with pytest.warns(
        UserWarning, match="not as published: train 24 images of 8 classes in place of 5864 of 100, test"
    ):
        CUB200(tmp_path).splits()
    monkeypatch.setattr(CUB200, "published_counts", lambda self: {"train": (24, 8), "test": (12, 4)})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        CUB200(tmp_path).splits()


@pytest.mark.parametrize(
    ("reader", "numbers"),
    [
        (CUB200, {"train": (5864, 100), "test": (5924, 100)}),
        (Cars196, {"train": (8054, 98), "test": (8131, 98)}),
        (StanfordOnlineProducts, {"train": (59551, 11318), "test": (60502, 11316)}),
        (InShop, {"train": (25882, 3997), "query": (14218, 3985), "gallery": (12612, 3985)}),
        (VehicleID, {"train": (113346, 13164), "test": (19777, 2400)}),
    ],
)
def test_published_numbers(tmp_path: Path, reader: type[Benchmark], numbers: dict[str, tuple[int, int]]) -> None:
    assert reader(tmp_path).published_counts() == numbers


def test_validation_classes_are_held_out_of_the_training_classes(tmp_path: Path) -> None:
    tree = trees.write_sop(tmp_path)
    drawn = read(StanfordOnlineProducts, tmp_path, val_fraction=0.25)
    assert drawn.val is not None
    assert len(drawn.val.classes) == 2
    assert sorted(drawn.train.classes + drawn.val.classes) == sorted(tree["train"].classes)
    assert read(StanfordOnlineProducts, tmp_path, val_fraction=0.25, seed=1).val.classes != drawn.val.classes  # type: ignore[union-attr]
    fold = read(StanfordOnlineProducts, tmp_path, fold=1, num_folds=4)
    assert fold.val is not None
    assert fold.val.classes == tree["train"].classes[2:4]


@pytest.mark.parametrize("test_list", ["small", "medium", "large"])
def test_the_lists_of_vehicle_id(tmp_path: Path, test_list: str) -> None:
    tree = trees.write_vehicle_id(tmp_path, test_list)
    assert parts(read(VehicleID, tmp_path, test_list=test_list)) == tree
    others = [path for path in tmp_path.rglob("test_list_*.txt") if str(trees.SIZES[test_list]) not in path.name]
    for path in others:
        path.unlink()
    assert len(read(VehicleID, tmp_path, test_list=test_list).test) == len(tree["test"].images)


def test_arguments_that_cannot_work(tmp_path: Path) -> None:
    for reader, arguments, message in (
        (VehicleID, {"test_list": "huge"}, "test_list='huge' is unknown"),
        (CUB200, {"on_bad_image": "ignore"}, "on_bad_image='ignore' is unknown"),
        (CUB200, {"root": tmp_path / "nowhere"}, "nowhere' does not exist; .* CUB200-2011, or fetch it"),
        (InShop, {"root": tmp_path / "nowhere"}, "nowhere' does not exist; give the folder that holds In-shop[^,]*$"),
    ):
        with pytest.raises(InputError, match=message):
            reader(**{"root": tmp_path, **arguments})
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file' is not a readable folder"):
        CUB200(tmp_path / "file")


def test_two_layouts_in_one_root(tmp_path: Path) -> None:
    trees.write_cars_all_in_one(tmp_path)
    trees.write_cars_folders_of_classes(tmp_path)
    with pytest.raises(
        InputError, match=r"more than one copy: all in one .* and folders of classes .*one of them only"
    ):
        read(Cars196, tmp_path)


def test_two_lists_in_one_root(tmp_path: Path) -> None:
    tree = trees.write_inshop(tmp_path)
    trees.write_inshop(tmp_path, lists="")
    with pytest.warns(UserWarning, match=r"Eval/list_eval_partition\.txt' is used; .*list_eval_partition\.txt ignored"):
        assert parts(InShop(tmp_path, val_fraction=0).splits()) == tree


def test_what_is_missing_is_said_for_each_layout(tmp_path: Path) -> None:
    with pytest.raises(InputError) as raised:
        read(Cars196, tmp_path)
    for layout in (
        "all in one (car_ims, cars_annos.mat)",
        "train and test (",
        "folders of classes (",
        "parquet (data/",
    ):
        assert f"{layout}" in str(raised.value)
    assert str(raised.value).count("lacks all") == 4
    # The usual copy of B' comes with the annotations of A, whose numbers are others.
    trees.write_cars_train_and_test(tmp_path / "one" / "two", nested=True, labels_in="elsewhere")
    trees.write_cars_all_in_one(tmp_path / "other")
    shutil.move(tmp_path / "other" / "cars_annos.mat", tmp_path / "one" / "two")
    shutil.rmtree(tmp_path / "other")
    with pytest.raises(InputError) as raised:
        read(Cars196, tmp_path)
    assert "cars_annos.mat) lacks car_ims;" in str(raised.value)
    assert "lacks devkit/cars_test_annos_withlabels.mat or cars_test_annos_withlabels.mat or" in str(raised.value)
    assert "cars_test_annos.mat has no classes, and cars_annos.mat names other files" in str(raised.value)
    (tmp_path / "CUB_200_2011.tgz").write_text("")
    with pytest.raises(InputError, match=r"unpack 'CUB_200_2011\.tgz', which is there; download=true fetches it"):
        read(CUB200, tmp_path)


BAD_LINES = [
    ("cub", "images.txt", 2, "2"),
    ("cub", "images.txt", 2, "two 093.Bird_93/Bird_93_0001.jpg"),
    ("cub", "images.txt", 2, "2 093.Bird_93/Bird 93.jpg"),
    ("cub", "images.txt", 2, "777 093.Bird_93/Bird_93_0001.jpg"),
    ("cub", "image_class_labels.txt", 5, "5 -3"),
    ("cub", "image_class_labels.txt", 5, "5 200"),
    ("cub", "classes.txt", 1, "93"),
    ("sop", "Ebay_train.txt", 2, "1 1 bicycle_final/x.JPG"),
    ("sop", "Ebay_test.txt", 3, "26 9.5 1 chair_final/x.JPG"),
    ("inshop", "list_eval_partition.txt", 1, "many"),
    ("inshop", "list_eval_partition.txt", 4, "img/WOMEN/x.jpg id_00000002 val"),
    ("inshop", "list_eval_partition.txt", 4, "img/WOMEN/x.jpg item2 train"),
    ("vehicle_id", "train_list.txt", 3, "0000119"),
    ("vehicle_id", "test_list_2400.txt", 1, "0000119 ?"),
    ("cars C", "anno_train.csv", 2, "00002.jpg,1,2,3"),
    ("cars C", "anno_train.csv", 2, "00002.jpg,1,2,3,4,197"),
    ("cars C", "anno_test.csv", 1, "fname,x1,y1,x2,y2,class"),
]


@pytest.mark.parametrize(("name", "file", "number", "text"), BAD_LINES, ids=lambda value: str(value))
def test_a_line_that_does_not_parse_is_named(tmp_path: Path, name: str, file: str, number: int, text: str) -> None:
    reader, write = COPIES[name]
    write(tmp_path)
    (path,) = tmp_path.rglob(file)
    trees.edit(path, number, text)
    with pytest.raises(InputError) as raised:
        read(reader, tmp_path)
    assert f"{str(path)!r}, line {number}: {text.replace(',', ' ')!r} is not '<" in str(raised.value)


def test_lists_are_read_as_editors_leave_them(tmp_path: Path) -> None:
    tree = trees.write_cub(tmp_path)
    for file in (tmp_path / "CUB_200_2011").glob("*.txt"):
        file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes().replace(b"\n", b"\r\n") + b"\r\n")
    assert parts(read(CUB200, tmp_path)) == tree


def test_what_macos_leaves_beside_is_no_image(tmp_path: Path) -> None:
    tree = trees.write_vehicle_id(tmp_path)
    home = tmp_path / "VehicleID_V1.0"
    file = home / "train_test_split" / "train_list.txt"
    trees.write(file, ["._0000119 17", *file.read_text().splitlines()])  # as of a list that was made from a folder
    (home / "image" / "._0000119.jpg").write_bytes(b"\0\5\26\7")
    assert parts(read(VehicleID, tmp_path)) == tree
    trees.write_sop(tmp_path)
    for folder in (tmp_path / "Stanford_Online_Products").glob("*_final"):
        folder.rename(folder.with_name(f"._{folder.name}"))
    with pytest.raises(InputError, match=r"as published .* lacks \*_final;"):
        read(StanfordOnlineProducts, tmp_path)


def test_a_list_that_is_shorter_than_it_says(tmp_path: Path) -> None:
    trees.write_inshop(tmp_path)
    trees.edit(tmp_path / "Eval" / "list_eval_partition.txt", 1, "40")
    with pytest.warns(UserWarning, match="says that it names 40 images, but names 36"):
        InShop(tmp_path).splits()


ROW = {"bbox_x1": 1, "class": 5, "fname": "00001.jpg"}


def test_a_single_row_of_a_mat_file(tmp_path: Path) -> None:
    trees.save_annotations(tmp_path / "one.mat", [ROW])
    assert list(read_mat_rows(tmp_path / "one.mat", "annotations", {"fname": str, "class": parse_whole_number})) == [
        ("00001.jpg", 5)
    ]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"fname": "00001.jpg"}] * 2, r"'annotations' of .*\.mat' has no field 'class', only \['fname'\]"),
        ([ROW, {**ROW, "class": "five"}], r"\.mat', row 2: '00001\.jpg five' is not '<fname> <class>'"),
        ([ROW, {**ROW, "class": ""}], r"\.mat', row 2: "),
    ],
)
def test_annotations_of_another_kind(tmp_path: Path, rows: list[dict[str, Any]], message: str) -> None:
    trees.write_cars_train_and_test(tmp_path)
    trees.save_annotations(tmp_path / "devkit" / "cars_train_annos.mat", rows)
    with pytest.raises(InputError, match=message):
        read(Cars196, tmp_path)


def test_files_that_are_damaged(tmp_path: Path) -> None:
    trees.write_cars_all_in_one(tmp_path)
    file = tmp_path / "cars_annos.mat"
    whole = file.read_bytes()
    for damaged in (b"", b"no such file", whole[: len(whole) // 2], whole[:200]):
        file.write_bytes(damaged)
        with pytest.raises(InputError, match=r"cars_annos\.mat"):
            read(Cars196, tmp_path)
    trees.savemat(file, {"other": 1})
    with pytest.raises(InputError, match=r"has no variable 'annotations', only \['other'\]"):
        read(Cars196, tmp_path)


PACKED = "cars D"


@pytest.mark.parametrize("name", [name for name in COPIES if name != PACKED])
def test_missing_images_stop_or_are_left_out(tmp_path: Path, name: str) -> None:
    reader, write = COPIES[name]
    tree = write(tmp_path)
    images = sorted(path for path in tmp_path.rglob("*.[jJ][pP][gG]") if not path.name.startswith("._"))
    wanted = {Path(data.name_of(i)) for data in [read(reader, tmp_path).train] for i in range(len(data))}
    gone = [path for path in images if path in wanted][:2]
    for path in gone:
        path.unlink()
    with pytest.raises(
        InputError, match=r"2 of 36 images that .* are missing in .*, the first is .*; complete"
    ) as raised:
        read(reader, tmp_path)
    assert any(str(path) in str(raised.value) for path in gone)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        splits = reader(tmp_path, on_bad_image="skip", val_fraction=0).splits()
    assert any("2 images of" in str(w.message) and "are left out" in str(w.message) for w in caught)
    assert len(splits.train) == len(tree["train"].images) - 2


def test_a_broken_image_stops_when_it_is_read_or_is_left_out(tmp_path: Path) -> None:
    trees.write_cub(tmp_path)
    file = next(iter(tmp_path.rglob("Bird_93_0001.jpg")))
    file.write_bytes(file.read_bytes()[:300])
    data = read(CUB200, tmp_path).train
    with pytest.raises(InputError, match=r"cannot read the image '.*/Bird_93_0001\.jpg'"):
        data[1]
    with pytest.warns(UserWarning, match=r"1 images of .* cannot be read and are left out: .*Bird_93_0001\.jpg"):
        data = CUB200(tmp_path, on_bad_image="skip", val_fraction=0).splits().train
    assert len(data) == 23


def test_classes_with_a_single_image_are_kept_and_named(tmp_path: Path) -> None:
    trees.write_inshop(tmp_path, single=(5, 41))
    message = "2 classes of the train part .* single image, which cannot form a pair: id_00000005, id_00000041"
    with pytest.warns(UserWarning, match=message):
        assert "id_00000005" in InShop(tmp_path, val_fraction=0).splits().train.classes
    trees.write_vehicle_id(tmp_path)
    split = tmp_path / "VehicleID_V1.0" / "train_test_split" / "test_list_2400.txt"
    split.write_text("\n".join(split.read_text().splitlines()[:5]))
    message = "3 classes of the test part .* no other can find: vehicle 230, vehicle 18, vehicle 77"
    with pytest.warns(UserWarning, match=message):
        assert len(VehicleID(tmp_path).splits().test) == 5


def test_repeated_lines(tmp_path: Path) -> None:
    tree = trees.write_vehicle_id(tmp_path)
    file = tmp_path / "VehicleID_V1.0" / "train_test_split" / "train_list.txt"
    lines = file.read_text().splitlines()
    trees.write(file, [*lines, lines[3]])
    with pytest.warns(UserWarning, match=r"1 lines repeat an image and are ignored: .*\.jpg"):
        assert parts(VehicleID(tmp_path, val_fraction=0).splits()) == tree
    trees.write(file, [*lines, f"{lines[3].split()[0]} 17"])
    with pytest.raises(InputError, match=r"is listed as 'vehicle 99' in train and as 'vehicle 17' in train"):
        read(VehicleID, tmp_path)


def test_a_test_class_among_the_training_classes_is_refused(tmp_path: Path) -> None:
    trees.write_sop(tmp_path)
    home = tmp_path / "Stanford_Online_Products"
    trees.save(home / "bicycle_final" / "extra.JPG", (0, 0, 0))
    with (home / "Ebay_test.txt").open("a") as file:
        file.write("99 2 1 bicycle_final/extra.JPG\n")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(InputError, match=r"1 classes of the training part .* test part.*: bicycle_final/2;"):
            StanfordOnlineProducts(tmp_path, val_fraction=0).splits()


def test_queries_without_an_answer(tmp_path: Path) -> None:
    trees.write_inshop(tmp_path)
    file = tmp_path / "Eval" / "list_eval_partition.txt"
    text = file.read_text()
    file.write_text("".join(line for line in text.splitlines(True) if "id_00000010 gallery" not in line))
    with pytest.warns(UserWarning, match="1 query images belong to 1 classes that are not in the gallery"):
        query, gallery = InShop(tmp_path).splits().test  # type: ignore[misc]
    assert query.classes == gallery.classes
    file.write_text("".join(line for line in text.splitlines(True) if "gallery" not in line))
    with pytest.raises(InputError, match="is both in query and in gallery"):
        InShop(tmp_path).splits()


def test_names_that_belong_to_two_classes(tmp_path: Path) -> None:
    trees.write_cub(tmp_path)
    trees.edit(tmp_path / "CUB_200_2011" / "classes.txt", 2, "94 093.Bird_93")
    with pytest.raises(InputError, match=r"1 names belong to more than one class: 093\.Bird_93"):
        read(CUB200, tmp_path)


@pytest.mark.parametrize(("reader", "write"), [COPIES["cub"], COPIES["sop"]], ids=["cub", "sop"])
def test_a_download_happens_once_and_on_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reader: type[Benchmark], write: Write
) -> None:
    fetched = []

    def fetch(archive: published.Archive, root: Path) -> None:
        fetched.append(archive)
        write(root)

    monkeypatch.setattr(published, "fetch", fetch)
    root = tmp_path / "data"
    for _ in range(2):
        assert len(read(reader, root, download=True).train) == 24
    assert fetched == [reader.source]
    assert fetched[0].url.startswith("https://")
    root = tmp_path / "other"
    root.mkdir()
    with pytest.raises(InputError, match="download=true fetches it"):
        read(reader, root)
    assert len(fetched) == 1


@pytest.mark.parametrize(
    ("reader", "page"),
    [(Cars196, "ai.stanford.edu/~jkrause"), (InShop, "mmlab.ie.cuhk.edu.hk"), (VehicleID, "www.pkuml.org")],
)
def test_what_cannot_be_downloaded_says_where_it_is_from(tmp_path: Path, reader: type[Benchmark], page: str) -> None:
    with pytest.raises(InputError, match=rf"{reader.title}: .* lacks all; it cannot be downloaded from here: .*{page}"):
        reader(tmp_path / "nowhere", download=True).splits()


def images_of(loader: DataLoader[Any]) -> list[Any]:
    return [(image.mean((0, 2, 3)).tolist(), label.tolist()) for image, label in loader]


def test_workers_read_parquet_for_themselves(tmp_path: Path) -> None:
    trees.write_cars_parquet(tmp_path)
    data = read(Cars196, tmp_path).train
    expected = images_of(DataLoader(data, batch_size=1))
    forked = DataLoader(data, batch_size=1, num_workers=2, multiprocessing_context="fork")
    assert images_of(forked) == expected
    sent = pickle.dumps(data)  # to a worker that is not forked
    assert images_of(DataLoader(pickle.loads(sent), batch_size=1)) == expected
    assert len(sent) < 8000


def test_a_row_of_parquet_that_is_no_image(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    trees.write_cars_parquet(tmp_path)
    file = tmp_path / "data" / "test-00000-of-00001.parquet"
    table = parquet.read_table(file)
    images = table["image"].to_pylist()
    images[1]["bytes"], images[2]["bytes"], images[5] = None, images[2]["bytes"][:300], None
    parquet.write_table(table.set_column(0, "image", pa.array(images)), file, row_group_size=4)
    splits = read(Cars196, tmp_path)
    whole = ConcatDataset([splits.train, splits.test])  # type: ignore[list-item]
    names = [data.name_of(i) for data in whole.datasets for i in range(len(data))]  # type: ignore[attr-defined, arg-type]
    for row in (1, 2, 5):
        name = name_parquet_image(file, row)
        with pytest.raises(InputError, match="cannot read the image") as raised:
            whole[names.index(name)]
        assert name in str(raised.value)
    assert np.asarray(read_parquet_rgb(name_parquet_image(file, 6))).shape == (36, 40, 3)
    with pytest.warns(UserWarning, match="3 images of .* cannot be read and are left out"):
        splits = Cars196(tmp_path, on_bad_image="skip", val_fraction=0).splits()
    assert len(splits.train) + len(splits.test) == len(whole) - 3


def test_parquet_of_another_kind(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    trees.write_cars_parquet(tmp_path)
    file = tmp_path / "data" / "test-00000-of-00001.parquet"
    table = parquet.read_table(file)
    for other, message in (
        (table.rename_columns(["picture", "label"]), r"has no column 'image\.bytes', only \['picture\.bytes'"),
        (table.set_column(1, "label", pa.array(["a"] * len(table))), "has the label 'a'"),
        (table.set_column(1, "label", pa.array([-1] * len(table))), "has the label -1"),
    ):
        # Under another name, for a file that changes while it is open is not looked for.
        file.unlink()
        file = file.with_name(f"test-{len(message):05}-of-00001.parquet")
        parquet.write_table(other, file)
        with pytest.raises(InputError, match=message):
            read(Cars196, tmp_path)
    file.unlink()
    file.with_name("test-damaged.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(InputError, match=r"cannot read .*test-damaged\.parquet"):
        read(Cars196, tmp_path)


def test_parquet_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trees.write_cars_parquet(tmp_path)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InputError, match=r"\.parquet' needs pyarrow.*: pip install .divconq-pl\[parquet\]"):
        read(Cars196, tmp_path)
