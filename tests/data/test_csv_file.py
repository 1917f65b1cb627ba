"""A CSV file says which images there are, what they show, and what they are for."""

import pytest
from PIL import Image

from divconq_pl.data import CsvFile, cache_pixels, image_test
from divconq_pl.errors import InputError

COLOURS = {name: (40 * i, 255 - 40 * i, 10) for i, name in enumerate("abcdef")}


@pytest.fixture
def table(tmp_path):
    """Write a CSV file beside a folder of images, three of each class."""
    for name, colour in COLOURS.items():
        for i in range(3):
            (tmp_path / "images").mkdir(exist_ok=True)
            Image.new("RGB", (20, 10), colour).save(tmp_path / "images" / f"{name}{i}.png")

    def write(*lines):
        (tmp_path / "list.csv").write_text("".join(f"{line}\n" for line in lines))
        return tmp_path / "list.csv"

    return write


def rows(*suffixes):
    return [f"images/{name}{i}.png,{name}{suffix}" for name in COLOURS for i, suffix in enumerate(suffixes)]


def test_paths_are_relative_to_the_files_folder_and_classes_are_split(table):
    splits = CsvFile(table("path,label", *rows("", "", ""))).splits()
    parts = [splits.train, splits.val, splits.test]
    assert sorted(name for part in parts for name in part.classes) == list(COLOURS)
    assert splits.test.image(0).getpixel((0, 0)) == COLOURS[splits.test.classes[0]]
    assert len(CsvFile(table("path,label", *rows("", "", ""))).evaluated()) == 18


def test_a_column_says_what_is_trained_and_tested_on(table):
    part = dict(zip(COLOURS, ["train", "train", "val", "val", "test", "test"], strict=True))
    lines = [f"{part[name]};{name};images/{name}{i}.png;ignored" for name in COLOURS for i in range(3)]
    source = CsvFile(table("\ufeffsplit;label;path;remark", *lines))  # as spreadsheets write it
    splits = source.splits()
    assert [data.classes for data in (splits.train, splits.val, splits.test)] == [["a", "b"], ["c", "d"], ["e", "f"]]
    assert source.evaluated().classes == ["e", "f"]


def test_query_gallery_and_camera(table):
    lines = [f"images/{name}{i}.png,{name},train,west" for name in "abcd" for i in range(3)]
    lines += [f"images/{name}0.png,{name},query,west" for name in "ef"]
    lines += [f"images/{name}{i}.png,{name},gallery,{('east', 'west')[i - 1]}" for name in "ef" for i in (1, 2)]
    query, gallery = CsvFile(table("path,label,split,camera", *lines), val_fraction=0).splits().test
    assert query.classes == gallery.classes == ["e", "f"]
    assert [query.group_names[g] for g in query.groups] == ["west", "west"]
    assert [gallery.group_names[g] for g in gallery.groups] == ["east", "west"] * 2


def test_only_what_is_in_the_box_is_seen(table, tmp_path):
    two = Image.new("RGB", (20, 10), "red")
    two.paste("blue", (10, 0, 20, 10))
    two.save(tmp_path / "two [1,2].png")
    data = CsvFile(table("path,label,x1,y1,x2,y2", '"two [1,2].png",r,0,0,10,10', '"two [1,2].png",b,10,0,20,10'))
    seen = data.evaluated()
    assert [seen.image(i).getpixel((5, 5)) for i in range(2)] == [(255, 0, 0), (0, 0, 255)]
    assert seen.image(1).size == (10, 10)
    kept = cache_pixels(seen.with_transform(image_test(8)), tmp_path / "cache")
    assert all((kept[i][0] == seen.with_transform(image_test(8))[i][0]).all() for i in (0, 1, 0, 1))


def test_images_without_labels_can_be_embedded_only(table):
    source = CsvFile(table("path", "images/a0.png", "images/b0.png"))
    assert source.evaluated().classes == ["unlabelled"]
    with pytest.raises(InputError, match=r"has no column label; .* can be embedded, not trained on"):
        source.splits()


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["file,label", "images/a0.png,a"], "no column path, only file, label"),
        (["path,label"], "lists no image"),
        ([], "no column path, only nothing"),
        (
            ["path,label", "images/a0.png,a", "images/a0.png,b"],
            r"line 3: .*a0.png' has the label 'a', too; several labels",
        ),
        (["path,label", "images/a0.png,"], "line 2: label is empty"),
        (["path,label,split", "images/a0.png,a,training"], "split 'training' is unknown; use train, val"),
        (["path,label,split", "images/a0.png,a,train", "images/a0.png,a,test"], "is in train and in test"),
        (["path,label,x1,x2", "images/a0.png,a,1,2"], "the columns x1, x2 of a box, which needs x1, y1, x2, y2"),
        (["path,label,x1,y1,x2,y2", "images/a0.png,a,1,2,x,4"], "the box 1, 2, x, 4 is not four numbers"),
        (["path,label,x1,y1,x2,y2", "images/a0.png,a,5,2,5,4"], r"the box \[5, 2, 5, 4\] is empty"),
        (["path,label", "images/a0.png,a", "gone.png,b"], r"1 of 2 images .* are missing, the first is .*gone\.png'"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_a_line_says_wrong_is_named(table, lines, message):
    with pytest.raises(InputError, match=message):
        CsvFile(table(*lines)).evaluated()


def test_parts_that_are_not_enough_are_named(table):
    source = CsvFile(table("path,label,split", "images/a0.png,a,train", "images/b0.png,b,train"))
    with pytest.raises(InputError, match="images for train only; a training needs train, and test or both"):
        source.splits()
    with pytest.raises(InputError, match="an evaluation needs test, or both query and gallery"):
        source.evaluated()
    with pytest.raises(InputError, match=r"root='nowhere\.csv' does not exist"):
        CsvFile("nowhere.csv")


def test_a_box_outside_of_its_image_is_named(table):
    data = CsvFile(table("path,label,x1,y1,x2,y2", "images/a0.png,a,0,0,99,10")).evaluated()
    with pytest.raises(InputError, match=r"a0\.png\[0,0,99,10\]' does not lie in the image of 20 x 10 pixels"):
        data[0]
