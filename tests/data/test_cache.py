"""Images kept on disk: never other pixels than without, never decoded twice, whatever happens to the file."""

from __future__ import annotations

import errno
import os
import pickle
import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from divconq_pl.data import (
    CacheableTransform,
    FileDataset,
    Glyphs,
    ImageFolder,
    RetrievalDataModule,
    RetrievalDataset,
    cache_pixels,
    image_test,
    image_train,
)
from divconq_pl.data import parquet as parquet_module
from divconq_pl.data.parquet import name_parquet_image, read_parquet_rgb
from divconq_pl.errors import InputError

SIZE = 16


def write_image(file: Path, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (24, 30 + seed, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file)


@pytest.fixture
def data(tmp_path: Path) -> FileDataset:
    """Six images of three classes under the test transform."""
    files = [tmp_path / f"{i}.png" for i in range(6)]
    for i, file in enumerate(files):
        write_image(file, i)
    return FileDataset(files, [0, 0, 1, 1, 2, 2], ["a", "b", "c"], image_test(SIZE))


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the images that are decoded in this process."""
    names: list[str] = []
    open_image = Image.open

    def open_and_note(file: str | BinaryIO) -> Image.Image:
        names.append(Path(file).name if isinstance(file, str) else "")
        return open_image(file)

    monkeypatch.setattr(Image, "open", open_and_note)
    return names


def tensors(data: RetrievalDataset) -> Tensor:
    return torch.stack([data[i][0] for i in range(len(data))])


def assert_like(kept: RetrievalDataset, data: RetrievalDataset) -> None:
    """Let all tensors be the same in every bit, and all labels."""
    assert torch.equal(tensors(kept), tensors(data))
    assert [label for _, label in kept] == data.targets.tolist()


def only_file(folder: Path) -> Path:
    (file,) = folder.glob("*.cache")
    return file


def test_images_are_decoded_once(data: FileDataset, tmp_path: Path, decoded: list[str]) -> None:
    expected = tensors(data)
    for _ in range(2):
        kept = cache_pixels(data, tmp_path / "cache")
        decoded.clear()
        assert torch.equal(tensors(kept), expected)
        first_round, decoded[:] = list(decoded), []
        assert torch.equal(tensors(kept), expected)
        assert decoded == []
    assert first_round == []
    assert_like(kept, data)
    assert {path.suffix for path in (tmp_path / "cache").iterdir()} <= {".cache", ".lock"}


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_workers_fill_it_together(data: FileDataset, tmp_path: Path, decoded: list[str], context: str) -> None:
    if context == "spawn":  # what a worker gets, in this process
        copy = pickle.loads(pickle.dumps(cache_pixels(data, tmp_path / "cache")))
        assert_like(copy, data)
    else:
        loader = DataLoader(cache_pixels(data, tmp_path / "cache"), batch_size=1, num_workers=2)
        assert torch.equal(torch.cat([images for images, _ in loader]), tensors(data))
    kept = cache_pixels(data, tmp_path / "cache")
    decoded.clear()
    tensors(kept)
    assert decoded == []


def test_parts_of_a_data_set_share_a_file(data: FileDataset, tmp_path: Path, decoded: list[str]) -> None:
    for names in (["c", "a"], ["b"], ["a", "b", "c"]):
        part = data.with_classes(names)
        assert_like(cache_pixels(part, tmp_path / "cache"), part)
        assert_like(cache_pixels(data, tmp_path / "cache").with_classes(names), part)
    decoded.clear()
    tensors(cache_pixels(data, tmp_path / "cache"))
    assert set(decoded) <= {"0.png"}  # whose shape is looked at
    only_file(tmp_path / "cache")


def test_another_geometry_has_another_file(data: FileDataset, tmp_path: Path) -> None:
    squeezed = CacheableTransform(v2.Compose([v2.PILToTensor(), v2.Resize((SIZE, SIZE))]), image_test(SIZE).finish)
    for transform in (image_test(SIZE), image_test(8), squeezed, image_test(SIZE)):
        changed = data.with_transform(transform)
        assert_like(cache_pixels(changed, tmp_path / "cache"), changed)
    assert len(list((tmp_path / "cache").glob("*.cache"))) == 3


def test_what_follows_the_geometry_is_done_anew(data: FileDataset, tmp_path: Path) -> None:
    tensors(cache_pixels(data, tmp_path / "cache"))
    brighter = CacheableTransform(image_test(SIZE).geometry, lambda pixels: pixels + 1.0)
    assert_like(cache_pixels(data.with_transform(brighter), tmp_path / "cache"), data.with_transform(brighter))
    only_file(tmp_path / "cache")


def test_a_changed_image_is_decoded_again(
    data: FileDataset, tmp_path: Path, decoded: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    before = tensors(cache_pixels(data, tmp_path / "cache"))
    assert caplog.text == ""
    write_image(tmp_path / "3.png", 5)
    os.utime(tmp_path / "4.png", (0, 0))
    kept = cache_pixels(data, tmp_path / "cache")
    assert "2 images changed since they came into" in caplog.text
    decoded.clear()
    after = tensors(kept)
    assert decoded == ["3.png", "4.png"]
    assert (after != before).flatten(1).any(1).tolist() == [False, False, False, True, False, False]
    assert_like(kept, data)
    caplog.clear()
    cache_pixels(data, tmp_path / "cache")
    assert caplog.text == ""


def test_damaged_pixels_are_decoded_again(
    data: FileDataset, tmp_path: Path, decoded: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    expected = tensors(cache_pixels(data, tmp_path / "cache"))
    file = only_file(tmp_path / "cache")
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    content[-1 - 2 * 3 * SIZE**2] ^= 1
    file.write_bytes(content)
    kept = cache_pixels(data, tmp_path / "cache")
    decoded.clear()
    assert torch.equal(tensors(kept), expected)
    assert decoded == ["3.png", "5.png"]
    assert caplog.text.count("has damaged pixels") == 1
    assert torch.equal(tensors(kept), expected)
    assert decoded == ["3.png", "5.png"]


@pytest.mark.parametrize("damage", [lambda content: content[:-1], lambda content: b"x" + content[1:], lambda _: b""])
def test_a_damaged_file_is_made_anew(
    data: FileDataset, tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: object
) -> None:
    tensors(cache_pixels(data, tmp_path / "cache"))
    file = only_file(tmp_path / "cache")
    file.write_bytes(damage(file.read_bytes()))
    assert_like(cache_pixels(data, tmp_path / "cache"), data)
    assert "is damaged and made anew" in caplog.text


def test_a_file_that_is_cut_off_in_use_is_done_without(data: FileDataset, tmp_path: Path) -> None:
    kept = cache_pixels(data, tmp_path / "cache")
    tensors(kept)
    os.truncate(only_file(tmp_path / "cache"), 1000)
    assert_like(kept, data)


def test_an_image_that_was_interrupted_is_not_used(
    data: FileDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = cache_pixels(data, tmp_path / "cache")
    pwrite = os.pwrite

    def write_half(descriptor: int, content: bytes, at: int) -> int:
        pwrite(descriptor, content[: len(content) // 2], at)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", write_half)
        with pytest.raises(KeyboardInterrupt):
            kept[0]
    assert_like(cache_pixels(data, tmp_path / "cache"), data)


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def no_room(_: object) -> object:
    return shutil._ntuple_diskusage(1000, 999, 1)


@pytest.mark.parametrize(
    ("module", "function", "failing", "message"),
    [
        (shutil, "disk_usage", no_room, r"4\.94kB are needed and 1\.00B are free"),
        pytest.param(
            *(os, "posix_fallocate", full, "No space left"),
            marks=pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="this system has none"),
        ),
    ],
)
def test_without_room_the_data_stay_as_they_are(
    data: FileDataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    module: object,
    function: str,
    failing: object,
    message: str,
) -> None:
    monkeypatch.setattr(module, function, failing)
    with pytest.warns(UserWarning, match=f"decoded each time.*{message}"):
        assert cache_pixels(data, tmp_path / "cache") is data
    assert {path.suffix for path in (tmp_path / "cache").iterdir()} == {".lock"}


def test_a_folder_that_cannot_be_made_is_done_without(data: FileDataset, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.warns(UserWarning, match="decoded each time"):
        assert cache_pixels(data, tmp_path / "file") is data


def test_a_disk_that_runs_full_is_said_once(
    data: FileDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decoded: list[str]
) -> None:
    kept = cache_pixels(data, tmp_path / "cache")
    kept[0]
    monkeypatch.setattr(os, "pwrite", full)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert_like(kept, data)
    assert len(said) == 1
    assert "cannot be filled: [Errno 28]" in str(said[0].message)
    decoded.clear()
    kept[0]
    assert decoded == []


def test_a_file_that_may_not_be_written_is_read(
    data: FileDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decoded: list[str]
) -> None:
    cache_pixels(data, tmp_path / "cache")[0]
    monkeypatch.setattr(os, "access", lambda *_: False)
    kept = cache_pixels(data, tmp_path / "cache")
    decoded.clear()
    tensors(kept)
    assert decoded == [f"{i}.png" for i in range(1, 6)]


def test_pictures_and_other_transforms_see_the_image_itself(data: FileDataset, tmp_path: Path) -> None:
    kept = cache_pixels(data, tmp_path / "cache")
    tensors(kept)
    assert kept.image(2).size == (32, 24)
    assert kept.name_of(2) == data.name_of(2)
    assert kept.with_transform(None)[2][0].shape == (3, 24, 32)


def test_what_cannot_be_cached_is_refused(data: FileDataset, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"images in files .* got FileDataset and Compose; leave cache_dir at None"):
        cache_pixels(data.with_transform(image_train(SIZE)), tmp_path)
    glyphs = Glyphs(num_classes=8).splits().train
    with pytest.raises(InputError, match="got ArrayDataset and"):
        cache_pixels(glyphs.with_transform(image_test(SIZE)), tmp_path)
    floats = CacheableTransform(image_test(SIZE), lambda pixels: pixels)
    with pytest.raises(InputError, match=r"gives torch\.float32, and only torch\.uint8"):
        cache_pixels(data.with_transform(floats), tmp_path)
    varying = cache_pixels(data.with_transform(CacheableTransform(v2.PILToTensor(), lambda pixels: pixels)), tmp_path)
    with pytest.raises(InputError, match=r"'.*1\.png' the shape \(3, 24, 31\) and others \(3, 24, 30\)"):
        varying[1]
    (tmp_path / "1.png").unlink()
    with pytest.raises(InputError, match=r"cannot read '.*1\.png'"):
        cache_pixels(data, tmp_path)


def test_images_in_parquet_files_are_kept_as_well(data: FileDataset, tmp_path: Path, decoded: list[str]) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    file = tmp_path / "images.parquet"

    def write(order: Sequence[int]) -> None:
        images = [{"bytes": (tmp_path / f"{i}.png").read_bytes()} for i in order]
        parquet.write_table(pyarrow.table({"image": images, "label": [0] * 6}), file, row_group_size=4)

    write(range(6))
    names = [name_parquet_image(file, row) for row in range(6)]
    packed = FileDataset(names, data.targets, data.classes, data.transform, read=read_parquet_rgb)
    assert torch.equal(tensors(cache_pixels(packed, tmp_path / "cache")), tensors(data))
    kept = cache_pixels(packed, tmp_path / "cache")
    decoded.clear()
    tensors(kept)
    assert decoded == []
    write([5, 4, 3, 2, 1, 0])
    os.utime(file, (0, 0))
    parquet_module._open.cache_clear()
    parquet_module._read_row_group.cache_clear()
    assert torch.equal(tensors(cache_pixels(packed, tmp_path / "cache")), tensors(data).flip(0))


def folder_of_classes(root: Path, classes: Sequence[str]) -> Path:
    for i, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for j in range(2):
            write_image(root / name / f"{j}.png", 2 * i + j)
    return root


def test_the_data_module_keeps_what_it_divides_and_evaluates(tmp_path: Path, decoded: list[str]) -> None:
    source = ImageFolder(folder_of_classes(tmp_path / "images", "abcdefgh"))
    arguments = {"batch_size": 4, "images_per_class": 2, "eval_batch_size": 3}
    plain = RetrievalDataModule(source, image_train(SIZE), image_test(SIZE), **arguments)
    keeping = RetrievalDataModule(
        source, image_train(SIZE), image_test(SIZE), cache_dir=tmp_path / "cache", **arguments
    )
    for _ in range(2):
        assert_like(keeping.cluster_dataset(), plain.cluster_dataset())
        for loader, other in (
            (keeping.val_dataloader(), plain.val_dataloader()),
            (keeping.test_dataloader(), plain.test_dataloader()),
        ):
            assert_like(loader.dataset, other.dataset)
    only_file(tmp_path / "cache")
    kept = keeping.cluster_dataset()
    decoded.clear()
    tensors(kept)
    assert decoded == []
    next(iter(keeping.train_dataloader()))
    assert len(decoded) == 4
