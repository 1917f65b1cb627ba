"""Images kept on disk: never other pixels than without, never decoded twice, whatever happens to the files."""

from __future__ import annotations

import os
import pickle
import shutil
import warnings
from collections.abc import Callable, Sequence
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


def only_folder(folder: Path) -> Path:
    (inner,) = folder.iterdir()
    return inner


def count_kept(folder: Path) -> int:
    return len(list(only_folder(folder).iterdir()))


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
    assert count_kept(tmp_path / "cache") == len(data)


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


def test_parts_of_a_data_set_and_other_lists_share_what_is_kept(
    data: FileDataset, tmp_path: Path, decoded: list[str]
) -> None:
    for names in (["c", "a"], ["b"], ["a", "b", "c"]):
        part = data.with_classes(names)
        assert_like(cache_pixels(part, tmp_path / "cache"), part)
        assert_like(cache_pixels(data, tmp_path / "cache").with_classes(names), part)
    fewer = FileDataset(data.files[:0:-1], [0, 0, 1, 1, 2], ["a", "b", "c"], data.transform)
    decoded.clear()
    tensors(cache_pixels(data, tmp_path / "cache"))
    assert_like(cache_pixels(fewer, tmp_path / "cache"), fewer)
    assert decoded[:2] == ["0.png", "5.png"]  # whose shapes are looked at
    assert count_kept(tmp_path / "cache") == len(data)


def test_another_geometry_has_another_folder(data: FileDataset, tmp_path: Path) -> None:
    squeezed = CacheableTransform(v2.Compose([v2.PILToTensor(), v2.Resize((SIZE, SIZE))]), image_test(SIZE).finish)
    for transform in (image_test(SIZE), image_test(8), squeezed, image_test(SIZE)):
        changed = data.with_transform(transform)
        assert_like(cache_pixels(changed, tmp_path / "cache"), changed)
    assert len(list((tmp_path / "cache").iterdir())) == 3


def test_what_follows_the_geometry_is_done_anew(data: FileDataset, tmp_path: Path) -> None:
    tensors(cache_pixels(data, tmp_path / "cache"))
    brighter = CacheableTransform(image_test(SIZE).geometry, lambda pixels: pixels + 1.0)
    assert_like(cache_pixels(data.with_transform(brighter), tmp_path / "cache"), data.with_transform(brighter))
    only_folder(tmp_path / "cache")


def test_a_changed_image_is_decoded_again(data: FileDataset, tmp_path: Path, decoded: list[str]) -> None:
    before = tensors(cache_pixels(data, tmp_path / "cache"))
    write_image(tmp_path / "3.png", 5)
    os.utime(tmp_path / "4.png", (0, 0))
    kept = cache_pixels(data, tmp_path / "cache")
    decoded.clear()
    after = tensors(kept)
    assert decoded == ["3.png", "4.png"]
    assert (after != before).flatten(1).any(1).tolist() == [False, False, False, True, False, False]
    assert_like(kept, data)
    assert count_kept(tmp_path / "cache") == len(data)


def flip_last_bit(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


@pytest.mark.parametrize("damage", [flip_last_bit, lambda content: content[:-1], lambda content: content[:5]])
def test_what_is_damaged_or_half_written_is_decoded_again(
    data: FileDataset, tmp_path: Path, decoded: list[str], damage: Callable[[bytes], bytes]
) -> None:
    kept = cache_pixels(data, tmp_path / "cache")
    expected = tensors(kept)
    damaged = sorted(only_folder(tmp_path / "cache").iterdir())[:2]
    for file in damaged:
        file.write_bytes(damage(file.read_bytes()))
    decoded.clear()
    assert torch.equal(tensors(kept), expected)
    assert len(decoded) == 2
    assert torch.equal(tensors(kept), expected)
    assert len(decoded) == 2


def test_what_is_deleted_in_use_is_decoded_again(data: FileDataset, tmp_path: Path) -> None:
    kept = cache_pixels(data, tmp_path / "cache")
    tensors(kept)
    for file in list(only_folder(tmp_path / "cache").iterdir())[:3]:
        file.unlink()
    assert_like(kept, data)
    assert count_kept(tmp_path / "cache") == len(data)


def test_without_room_the_data_stay_as_they_are(
    data: FileDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    some = cache_pixels(data, tmp_path / "cache")
    some[0], some[1]
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10_000, 7000, 3000))
    with pytest.warns(UserWarning, match=r"decoded each time.* 3\.12kB are needed and 3\.00kB are free"):
        assert cache_pixels(data, tmp_path / "cache") is data
    rest = data.with_classes(["b", "c"])
    with pytest.warns(UserWarning, match="decoded each time"):
        assert cache_pixels(rest, tmp_path / "cache") is rest
    assert count_kept(tmp_path / "cache") == 2


def test_a_folder_that_cannot_be_made_is_done_without(data: FileDataset, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.warns(UserWarning, match="decoded each time"):
        assert cache_pixels(data, tmp_path / "file") is data


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no disk that is always full")
def test_a_disk_that_runs_full_is_said_once_and_what_is_kept_is_read(
    data: FileDataset, tmp_path: Path, decoded: list[str]
) -> None:
    kept = cache_pixels(data, tmp_path / "cache")
    tensors(kept)
    lost, also_lost, *_ = only_folder(tmp_path / "cache").iterdir()
    for file in (lost, also_lost):
        file.unlink()
        file.symlink_to("/dev/full")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        decoded.clear()
        tensors(kept)
        assert len(decoded) == 2
        assert_like(kept, data)
    assert len(said) == 1
    assert "cannot be filled: [Errno 28]" in str(said[0].message)


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
    only_folder(tmp_path / "cache")
    kept = keeping.cluster_dataset()
    decoded.clear()
    tensors(kept)
    assert decoded == []
    next(iter(keeping.train_dataloader()))
    assert len(decoded) == 4
