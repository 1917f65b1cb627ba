"""What is decoded is what a viewer shows."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from divconq_pl.data import ImageFolder
from divconq_pl.data.decoding import UnreadableImageError, read_rgb
from divconq_pl.errors import InputError

# What is seen of a 60 x 40 image whose top is white and whose left half is gray, by its orientation in EXIF.
UPRIGHT = {1: (60, 40), 2: (60, 40), 3: (60, 40), 4: (60, 40), 5: (40, 60), 6: (40, 60), 7: (40, 60), 8: (40, 60)}


def picture() -> np.ndarray:
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[:, :30], pixels[:10] = 100, 255
    return pixels


def as_seen(orientation: int) -> np.ndarray:
    """Return the stored picture as EXIF says that it is to be seen: by where its first row and column are."""
    p = picture()
    turned = [p, p[:, ::-1], p[::-1, ::-1], p[::-1], p.transpose(1, 0, 2), np.rot90(p, -1), None, np.rot90(p)]
    turned[6] = p[::-1, ::-1].transpose(1, 0, 2)
    return np.ascontiguousarray(turned[orientation - 1])


@pytest.mark.parametrize("ending", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photograph_stands_as_exif_says(tmp_path: Path, orientation: int, ending: str) -> None:
    file = tmp_path / f"photograph.{ending}"
    exif = Image.Exif()
    exif[0x0112] = orientation
    lossless = {"lossless": True} if ending == "webp" else {"quality": 95, "subsampling": 0} if ending == "jpg" else {}
    Image.fromarray(picture()).save(file, exif=exif, **lossless)
    seen = read_rgb(file)
    assert seen.size == UPRIGHT[orientation]
    difference = np.abs(np.asarray(seen).astype(int) - as_seen(orientation).astype(int))
    assert difference.mean() < 3


def test_exif_that_is_damaged_turns_nothing(tmp_path: Path) -> None:
    Image.fromarray(picture()).save(tmp_path / "a.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f")
    assert read_rgb(tmp_path / "a.jpg").size == (60, 40)


def gray(file: Path, values: np.ndarray) -> Path:
    Image.fromarray(values).save(file)
    return file


def levels(file: Path, **options: float) -> list[int]:
    image = np.asarray(read_rgb(file, **options))
    assert (image == image[..., :1]).all()
    return image[0, :, 0].tolist()


@pytest.mark.parametrize("ending", ["png", "tif", "jp2"])
def test_sixteen_bits_are_scaled_from_their_whole_range(tmp_path: Path, ending: str) -> None:
    ramp = np.array([[0, 257, 128 * 257, 65535]] * 4, np.uint16)
    assert levels(gray(tmp_path / f"ramp.{ending}", ramp)) == [0, 1, 128, 255]


def test_a_format_that_says_its_maximum_is_scaled_by_it(tmp_path: Path) -> None:
    for most in (4095, 65535):
        values = np.array([0, most // 2 + 1, most], ">u2").tobytes()
        (tmp_path / "a.pgm").write_bytes(f"P5 3 1 {most}\n".encode() + values)
        assert levels(tmp_path / "a.pgm") == [0, 128, 255]


def test_twelve_bits_in_a_tiff_are_scaled_by_twelve(tmp_path: Path) -> None:
    """Pillow does not write such files, so this one is put together by hand: two values in three bytes."""
    values = {256: 2, 257: 1, 258: 12, 259: 1, 262: 1, 273: 8 + 2 + 9 * 12 + 4, 277: 1, 278: 1, 279: 3}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in values.items())
    pixels = bytes([0x80, 0x0F, 0xFF])  # 0x800, 0xfff
    (tmp_path / "a.tif").write_bytes(b"II*\0" + struct.pack("<IH", 8, len(values)) + entries + b"\0" * 4 + pixels)
    assert levels(tmp_path / "a.tif") == [128, 255]


def test_white_may_be_zero_in_a_tiff(tmp_path: Path) -> None:
    values = np.array([[0, 65535]] * 2, np.uint16)
    Image.fromarray(values).save(tmp_path / "a.tif", tiffinfo={262: 0})
    assert levels(tmp_path / "a.tif") == [255, 0]


@pytest.mark.parametrize(
    ("name", "kind", "white"),
    [("a.png", np.uint16, 4095), ("a.png", np.uint16, 255), ("a.tif", np.int32, 255), ("a.tif", np.float32, 1)],
)
def test_a_white_level_that_is_given_scales_twelve_bits_whole_numbers_and_fractions(
    tmp_path: Path, name: str, kind: type, white: float
) -> None:
    ramp = (np.array([[0, 0.2, 0.6, 1]] * 4) * white).astype(kind)
    assert levels(gray(tmp_path / name, ramp), white_level=white) == pytest.approx([0, 51, 153, 255], abs=1)
    assert levels(gray(tmp_path / name, ramp), white_level=white / 2)[2:] == [255, 255]


@pytest.mark.parametrize(
    ("kind", "top", "guess"), [(np.int32, 255, "255"), (np.int32, 3000, "4095"), (np.float32, 1, "1")]
)
def test_values_without_a_known_range_are_refused_by_name(tmp_path: Path, kind: type, top: float, guess: str) -> None:
    file = gray(tmp_path / "a.tif", np.array([[0, top]] * 2, kind))
    with pytest.raises(UnreadableImageError, match=rf"'{file}': .* such as dataset\.white_level={guess}$"):
        read_rgb(file)


@pytest.mark.parametrize("value", [-1, np.nan, np.inf])
def test_values_that_mean_nothing_are_refused_by_name(tmp_path: Path, value: float) -> None:
    file = gray(tmp_path / "a.tif", np.array([[0, value]] * 2, np.float32))
    with pytest.raises(UnreadableImageError, match=rf"'{file}': its values run from"):
        read_rgb(file, white_level=1)


def huge(file: Path) -> Path:
    """Write a small file of 189 megapixels."""
    Image.new("1", (18900, 10000)).save(file)
    return file


def test_the_largest_image_is_a_choice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = huge(tmp_path / "a.png")
    with pytest.raises(UnreadableImageError, match=rf"'{file}': it has 189\.0 megapixels; use max_megapixels=189 "):
        read_rgb(file)
    small = gray(tmp_path / "b.png", np.zeros((9, 9), np.uint8))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40)  # Pillow refuses twice as many
    with small.open("rb") as opened:
        assert read_rgb(opened, max_megapixels=189).size == (9, 9)
    assert Image.MAX_IMAGE_PIXELS == 40
    with pytest.raises(UnreadableImageError, match=r"it has 0\.0 megapixels; use max_megapixels=1 "):
        read_rgb(small, max_megapixels=1e-6)


def test_a_folder_passes_on_how_its_images_are_read(tmp_path: Path) -> None:
    for name in "abcdefg":
        (tmp_path / name).mkdir()
        gray(tmp_path / name / "0.png", np.array([[0, 4095]] * 2, np.uint16))
    data = ImageFolder(tmp_path, white_level=4095).splits().train
    assert np.asarray(data.image(0)).max() == 255
    with pytest.raises(UnreadableImageError, match="max_megapixels=1 "):
        ImageFolder(tmp_path, max_megapixels=1e-6).splits().train.image(0)
    for name in ("white_level", "max_megapixels"):
        with pytest.raises(InputError, match=rf"{name}=0 must be above 0"):
            ImageFolder(tmp_path, **{name: 0})
