"""The look at every image before a training or an evaluation."""

import re
import struct
import warnings
from zlib import compress, crc32

import numpy as np
import pytest
from PIL import Image

from divconq_pl.app.checks.images import check_findable, check_images, check_queries, check_tested
from divconq_pl.data import ArrayDataset, CsvFile, ImageFolder
from divconq_pl.errors import InputError

BOXES = {"query": "0,0,20,20", "gallery": "20,20,40,40"}
RNG = np.random.default_rng(0)


def noise(size=(40, 50, 3), high=256, kind=np.uint8):
    return RNG.integers(0, high, size).astype(kind)


def save(file, pixels, **options):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file, **options)
    return file


def fill(folder, make=noise, ending="png", classes=4, images=3, **options):
    """Write a folder of classes, whose images are made one by one."""
    for c in range(classes):
        for i in range(images):
            save(folder / f"class {c}" / f"{i}.{ending}", make(), **options)
    return folder


def look(folder, **arguments):
    """Look at all images of a folder, and return what was warned of."""
    data = ImageFolder(folder, **arguments).evaluated()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_images([data])
    return [str(warning.message) for warning in caught]


@pytest.mark.parametrize("ending", ["png", "jpg", "webp", "gif", "bmp", "tif"])
def test_images_that_can_be_read_are_not_warned_of(tmp_path, ending):
    assert look(fill(tmp_path, ending=ending)) == []


def test_headers_are_enough_for_whole_photographs(tmp_path, monkeypatch):
    fill(tmp_path, lambda: noise((100, 100, 3)), ending="jpg", quality=95)
    fill(tmp_path, lambda: noise((100, 100, 3)), images=2)

    def decode(self, *arguments):
        raise AssertionError("decoded")

    monkeypatch.setattr("PIL.JpegImagePlugin.JpegImageFile.load", decode)
    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", decode)
    assert look(tmp_path) == []


@pytest.mark.parametrize("ending", ["jpg", "png"])
def test_files_that_end_early_are_named_in_one_line_with_what_to_type(tmp_path, ending):
    fill(tmp_path, lambda: noise((100, 100, 3)), ending=ending)
    cut = tmp_path / "class 1" / f"2.{ending}"
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    with pytest.raises(InputError) as refused:
        look(tmp_path)
    pattern = rf"cannot read the image '{cut}': .*; dataset\.on_bad_image=skip leaves out what cannot be read"
    assert re.fullmatch(pattern, str(refused.value))
    (tmp_path / "class 0" / f"0.{ending}").write_text("no image")
    (tmp_path / "class 0" / f"1.{ending}").write_bytes(b"")
    with pytest.raises(
        InputError, match=r"^3 of 12 images cannot be read; the first: cannot read the image .*class 0/0"
    ):
        look(tmp_path)
    with pytest.warns(UserWarning, match="3 images of .* are left out"):
        assert look(tmp_path, on_bad_image="skip") == []


@pytest.mark.parametrize(
    ("ending", "options"),
    [
        ("jpg", {"quality": 100, "subsampling": 0}),
        ("jpg", {"quality": 30}),
        ("png", {}),
        ("webp", {}),
        ("gif", {}),
        ("bmp", {}),
        ("tif", {}),
    ],
)
@pytest.mark.parametrize("side", [16, 1200])
def test_images_of_a_single_colour_are_counted_and_named(tmp_path, ending, options, side):
    fill(tmp_path, ending=ending)
    for i in range(2):
        save(tmp_path / "class 3" / f"{i}.{ending}", np.full((side, side, 3), (9, 90, 200), np.uint8), **options)
    (line,) = look(tmp_path)
    assert line.startswith("2 of 12 images have a single colour")
    assert "class 3/0." in line


def twelve_bits():
    return noise((40, 50), 4096, np.uint16)


def test_twelve_bits_in_sixteen_are_refused_with_what_to_type(tmp_path):
    fill(tmp_path, twelve_bits)
    with pytest.raises(
        InputError, match=r"12 images of 16 bits, such as '.*png', are almost black: their values reach"
    ) as e:
        look(tmp_path)
    assert "give dataset.white_level=4095, or, if they are to be as dark as that, dataset.white_level=65535" in str(
        e.value
    )
    for white in (4095, 65535):
        assert look(tmp_path, white_level=white) == []
    save(tmp_path / "class 0" / "0.png", noise((40, 50), 65536, np.uint16))  # now the range is seen to be used
    assert look(tmp_path) == []


def test_dark_colours_of_sixteen_bits_are_refused(tmp_path):
    """Pillow does not write such files, so this one is put together by hand."""
    rows = b"".join(b"\0" + noise((40 * 3,), 4096, ">u2").tobytes() for _ in range(40))
    content = b"\x89PNG\r\n\x1a\n"
    header = struct.pack(">IIBBBBB", 40, 40, 16, 2, 0, 0, 0)
    for name, data in ((b"IHDR", header), (b"IDAT", compress(rows)), (b"IEND", b"")):
        content += struct.pack(">I", len(data)) + name + data + struct.pack(">I", crc32(name + data))
    fill(tmp_path)
    for i in range(2):
        (tmp_path / "class 0" / f"{i}.png").write_bytes(content)
    with pytest.raises(InputError, match=r"2 images of 16 bits, .*class 0/.* convert them to 8 bits, or, if"):
        look(tmp_path)
    with pytest.raises(InputError, match=r"several channels of 16 bits, and white_level=4095 is for gray"):
        look(tmp_path, white_level=4095)
    assert look(tmp_path, white_level=65535) == []


def test_eight_bits_in_sixteen_are_refused(tmp_path):
    fill(tmp_path, lambda: noise((40, 50), 256, np.uint16), ending="tif")
    with pytest.raises(InputError, match=r"values reach 25\d of 65535; give dataset\.white_level=255"):
        look(tmp_path)


@pytest.mark.parametrize(("kind", "white"), [(np.int32, 255), (np.float32, 1)])
def test_whole_numbers_and_fractions_are_refused_with_what_to_type(tmp_path, kind, white):
    fill(tmp_path, lambda: (RNG.random((40, 50)) * white).astype(kind), ending="tif")
    with pytest.raises(InputError, match=rf"12 of 12 images cannot be read; .* such as dataset\.white_level={white};"):
        look(tmp_path)
    assert look(tmp_path, white_level=white) == []


def query_and_gallery(folder, repeated):
    """Write queries of which one is also in the gallery, and return both."""
    for part in ("query", "gallery"):
        fill(folder / part)
    source, copy = folder / "query" / "class 1" / "2.png", folder / "gallery" / "class 1" / "other name.png"
    if repeated == "bytes":
        copy.write_bytes(source.read_bytes())
    elif repeated == "file":
        copy.symlink_to(source)
    return ImageFolder(folder).evaluated()


@pytest.mark.parametrize("repeated", ["bytes", "file", None])
def test_queries_that_are_also_in_the_gallery_are_counted_and_named(tmp_path, repeated):
    tested = query_and_gallery(tmp_path, repeated)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_queries(tested)
    said = [str(warning.message) for warning in caught]
    assert len(said) == (repeated is not None)
    if said:
        assert said[0].startswith("1 of 12 queries are also in the gallery, where each finds itself")
        assert "query/class 1/2.png" in said[0]


def test_images_of_which_none_can_be_found_are_refused():
    alone = ArrayDataset(noise((3, 4, 4)), [0, 1, 2], "abc", "123")
    with pytest.raises(InputError, match=r"each of the 3 images to validate on is .*; use last"):
        check_findable([alone], "to validate on", "use last")
    check_findable([ArrayDataset(noise((3, 4, 4)), [0, 1, 1], "ab", "123")], "to validate on", "use last")
    check_findable([alone, alone], "to test on", "")


def test_a_single_class_can_be_embedded_only():
    alone = ArrayDataset(noise((3, 4, 4)), [0, 0, 0], "a", "123")
    with pytest.raises(
        InputError, match=r"all images are of one class, 'a', so there is nothing to measure: .* export="
    ):
        check_tested([alone])
    check_tested([alone], exported=True)
    check_tested([ArrayDataset(noise((1, 4, 4)), [0], "a", "1")], exported=True)


def look_at_list(folder, *lines, **arguments):
    """Look at the images that a CSV file lists."""
    (folder / "list.csv").write_text("\n".join(lines))
    check_tested(as_parts(CsvFile(folder / "list.csv", **arguments).evaluated()))


def as_parts(tested):
    return tested if isinstance(tested, tuple) else (tested,)


def test_images_of_a_list_and_their_boxes_are_looked_at(tmp_path):
    fill(tmp_path)
    boxes = [f"class {c}/{i}.png,{c},0,0,50,{40 - c}" for c in range(4) for i in range(3)]
    look_at_list(tmp_path, "path,label,x1,y1,x2,y2", *boxes)
    with pytest.raises(InputError, match=r"0\.png\[0,0,51,40\]' does not lie in the image of 50 x 40 pixels"):
        look_at_list(tmp_path, "path,label,x1,y1,x2,y2", *boxes[1:], "class 0/0.png,0,0,0,51,40")
    lines = ["path,label", *(f"class {c}/{i}.png,{c}" for c in range(4) for i in range(3))]
    (tmp_path / "class 1" / "2.png").write_bytes(b"")
    for header, listed in (("path,label,x1,y1,x2,y2", boxes), (lines[0], lines[1:])):
        with pytest.raises(InputError, match=r"cannot read the image '.*class 1/2\.png'.*on_bad_image=skip"):
            look_at_list(tmp_path, header, *listed)
        with pytest.warns(UserWarning, match="1 images of .* are left out"):
            look_at_list(tmp_path, header, *listed, on_bad_image="skip")


def test_what_is_white_in_the_images_of_a_list_is_asked_for(tmp_path):
    fill(tmp_path, twelve_bits)
    for box in ("", ",0,0,20,20"):
        lines = ["path,label,x1,y1,x2,y2" if box else "path,label"]
        lines += [f"class {c}/{i}.png,{c}{box}" for c in range(4) for i in range(3)]
        with pytest.raises(InputError, match=r"give dataset\.white_level=4095, or"):
            look_at_list(tmp_path, *lines)
        look_at_list(tmp_path, *lines, white_level=4095)
        with pytest.raises(InputError, match=r"it has 0\.0 megapixels; use max_megapixels=1 to read more than 0\.001"):
            look_at_list(tmp_path, *lines, white_level=4095, max_megapixels=0.001)


def test_another_box_of_the_same_image_is_no_repetition(tmp_path):
    fill(tmp_path, classes=2)
    lines = [f"class {c}/{i}.png,{c},{part},{box}" for c in range(2) for i in range(3) for part, box in BOXES.items()]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        look_at_list(tmp_path, "path,label,split,x1,y1,x2,y2", *lines)
    (tmp_path / "copy.png").write_bytes((tmp_path / "class 0" / "0.png").read_bytes())
    with pytest.warns(UserWarning, match="1 of 6 queries are also in the gallery"):
        look_at_list(tmp_path, "path,label,split,x1,y1,x2,y2", *lines, f"copy.png,0,gallery,{BOXES['query']}")
