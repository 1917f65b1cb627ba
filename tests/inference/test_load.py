"""A checkpoint embeds a user's images as the evaluation of its training does."""

import io
import os
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import GLYPHS, write_checkpoint
from PIL import Image, ImageOps

import divconq_pl
from divconq_pl import DivideConquerModule, InputError
from divconq_pl.backbones import small
from divconq_pl.data.transforms import glyph_test, image_test
from divconq_pl.inference import list_files


def noise(*shape):
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(len(shape)))


@pytest.fixture
def embedder(tmp_path):
    return divconq_pl.load(write_checkpoint(tmp_path / "net.ckpt"), "cpu")


@pytest.fixture
def folder(tmp_path):
    """Images that are easily read in a wrong way: turned by EXIF, gray of 16 bits, transparent, of two channels."""
    root = tmp_path / "images"
    root.mkdir()
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)).resize((90, 60))
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(root / "turned.jpg", exif=exif)
    picture.resize((30, 80)).save(root / "high.png")
    Image.fromarray(rng.integers(0, 65536, (30, 30), dtype=np.uint16)).save(root / "deep.png")
    picture.quantize(16).save(root / "palette.gif")
    picture.convert("RGBA").save(root / "a transparent one.webp")
    picture.convert("LA").save(root / "Gray.png")
    (root / "notes.txt").write_text("no image")
    return root


def test_a_folder_gives_what_evaluate_exports(call, tmp_path, folder):
    path = write_checkpoint(tmp_path / "run" / "checkpoints" / "best.ckpt")
    for flip in ("false", "true"):
        export = tmp_path / f"{flip}.npz"
        arguments = (f"checkpoint={path}", "dataset=image_folder", f"dataset.root={folder}", f"export={export}")
        code, out, err = call("evaluate.py", *arguments, f"flip={flip}", "trainer.enable_progress_bar=false")
        assert code == 0, out + err
        with np.load(export) as file:
            rows = torch.from_numpy(file["embeddings"])
            assert list(file["paths"]) == list_files(folder)
        found = divconq_pl.load(tmp_path / "run", "cpu").embed(folder, batch_size=4, flip=flip == "true")
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, rows, rtol=0, atol=1e-6)
    assert (found.norm(dim=1) - 1).abs().max() < 1e-6


def test_every_kind_of_image_gives_the_same(embedder, tmp_path):
    pixels = noise(30, 40, 3).numpy()
    picture = Image.fromarray(pixels)
    picture.save(tmp_path / "one.png")
    expected = embedder.module(image_test(24)(picture)[None]).detach()
    kinds = [
        tmp_path / "one.png",
        str(tmp_path / "one.png"),
        io.BytesIO((tmp_path / "one.png").read_bytes()),
        Image.open(tmp_path / "one.png"),
        picture,
        pixels,
        torch.from_numpy(pixels).permute(2, 0, 1),
    ]
    for kind in kinds:
        torch.testing.assert_close(embedder.embed(kind), expected, rtol=0, atol=1e-6)
    kinds[2].seek(0)
    rows = embedder.embed((kind for kind in kinds), batch_size=2)
    torch.testing.assert_close(rows, expected.expand(len(kinds), -1), rtol=0, atol=1e-6)
    for batch in (np.stack([pixels] * 3), kinds[-1].expand(3, -1, -1, -1)):
        torch.testing.assert_close(embedder.embed(batch), expected.expand(3, -1), rtol=0, atol=1e-6)
    assert embedder.embed([]).shape == (0, 8)


def test_a_pillow_image_is_decoded_as_its_file(embedder, folder):
    for file in list_files(folder):
        with Image.open(file) as opened:
            assert torch.equal(embedder.embed(opened), embedder.embed(file)), file
    upright = ImageOps.exif_transpose(Image.open(folder / "turned.jpg"))
    assert upright.size == (60, 90)
    assert torch.equal(embedder.embed(upright), embedder.embed(folder / "turned.jpg"))


def test_gray_images_for_a_network_of_one_channel(tmp_path):
    embedder = divconq_pl.load(write_checkpoint(tmp_path / "net.ckpt", None, GLYPHS, 1, 32), "cpu")
    gray = noise(32, 32).numpy()
    expected = embedder.module(glyph_test()(Image.fromarray(gray))[None]).detach()
    for kind in (gray, gray[..., None], np.stack([gray] * 3, 2), torch.from_numpy(gray)[None], Image.fromarray(gray)):
        torch.testing.assert_close(embedder.embed(kind), expected, rtol=0, atol=1e-6)
    assert embedder.image_size == (32, 32)
    larger = Image.fromarray(gray).resize((96, 64))  # rendered images have one size, so their transform changes none
    resized = embedder.module(glyph_test()(larger.resize((32, 32), Image.Resampling.BILINEAR))[None])
    torch.testing.assert_close(embedder.embed([larger, gray])[:1], resized.detach(), rtol=0, atol=1e-6)


def test_the_reading_of_the_trainings_data_set_holds(tmp_path):
    values = np.arange(900, dtype=np.uint16).reshape(30, 30)
    Image.fromarray(values).save(tmp_path / "deep.png")
    plain, white = (
        divconq_pl.load(write_checkpoint(tmp_path / "net.ckpt", white_level=level), "cpu") for level in (None, 1023)
    )
    assert plain.preprocess(tmp_path / "deep.png").mean() < white.preprocess(tmp_path / "deep.png").mean() - 1


def test_what_a_user_may_ask(embedder):
    assert (embedder.embedding_dim, embedder.image_size, embedder.distance) == (8, (24, 24), "cosine")
    assert str(embedder) == "Embedder(3 channel(s), 24 x 24 -> 8 dimensions, on cpu)"
    assert not embedder.module.training
    before = embedder.fingerprint
    assert before == embedder.fingerprint
    with torch.no_grad():
        embedder.module.embedding.bias[0] += 1
    assert embedder.fingerprint != before


def test_few_images_are_in_memory_at_a_time(embedder):
    made, gone, most = [], [], []

    def images():
        for number in range(200):
            image = Image.new("RGB", (30, 30))
            weakref.finalize(image, gone.append, number)
            made.append(number)
            most.append(len(made) - len(gone))
            yield image

    assert embedder.embed(images(), batch_size=8).shape == (200, 8)
    assert max(most) <= 4 * 8


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ("nowhere.jpg", r"cannot read the image 'nowhere\.jpg': .*No such file"),
        ("text.png", r"cannot read the image 'text\.png': cannot identify"),
        ("empty", r"'empty' holds no image, neither itself nor below; images end in .*\.jpg"),
        (["some", "text.png"], r"'some' is a folder; give it alone, not among images"),
        (noise(3, 8, 8).float(), r"image 0 is a tensor of float32, shape \(3, 8, 8\); give .* uint8 tensor"),
        ([noise(3, 8, 8), noise(8, 8, 3)], r"image 1 is a tensor of uint8, shape \(8, 8, 3\)"),
        (noise(8, 8, 4).numpy(), r"image 0 is an array of uint8, shape \(8, 8, 4\)"),
        ([None], r"image 0 is a NoneType, which is no image"),
        (3, r"int is no image; give a path"),
    ],
    ids=[
        "missing",
        "no image",
        "empty folder",
        "folder among images",
        "float",
        "channels last",
        "alpha",
        "None",
        "number",
    ],
)
def test_a_bad_image_is_named(embedder, image, message):
    os.mkdir("empty")
    os.mkdir("some")
    with open("text.png", "w") as file:
        file.write("no image")
    with pytest.raises(InputError, match=message):
        embedder.embed(image)


def test_a_batch_has_an_image(embedder):
    with pytest.raises(InputError, match="batch_size=0 is too small"):
        embedder.embed(noise(3, 8, 8), batch_size=0)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nowhere", r"^path='nowhere' is not a file; a run leaves its checkpoints in its folder"),
        ("sweep", r"^path='sweep' holds several runs; give one of them, such as 'sweep/0'"),
        ("sweep/0/checkpoints", r"holds checkpoints; give one of them, such as 'best\.ckpt'"),
        (".", r"^path='\.' holds no checkpoint; give the folder of a run, or a file"),
    ],
)
def test_a_wrong_path_is_said(path, message):
    write_checkpoint(Path("sweep/0/checkpoints/best.ckpt"))
    with pytest.raises(InputError, match=message):
        divconq_pl.load(path)


def test_a_device_that_is_not_there_is_said(tmp_path):
    path = write_checkpoint(tmp_path / "net.ckpt")
    with pytest.raises(InputError, match=r"device='gpu' cannot be used \(.*\); use 'cpu'"):
        divconq_pl.load(path, "gpu")


def test_parts_of_ones_own_are_given(tmp_path):
    own = {"_target_": "mine.Network"}
    path = write_checkpoint(tmp_path / "net.ckpt")
    content = torch.load(path, weights_only=True)
    content["divconq_pl_config"]["module"]["backbone"] = content["divconq_pl_config"]["data"]["test_transform"] = own
    torch.save(content, path)
    backbone = small(3, 4)
    with pytest.raises(InputError, match=r"names mine\.Network for its backbone, .* yourself with backbone=\.\.\."):
        divconq_pl.load(path)
    with pytest.raises(InputError, match=r"names mine\.Network for its transform, .* yourself with transform=\.\.\."):
        divconq_pl.load(path, backbone=backbone)
    assert divconq_pl.load(path, backbone=backbone, transform=image_test(16)).image_size == (16, 16)


def test_lightnings_own_loading_says_what_to_call(tmp_path):
    path = write_checkpoint(tmp_path / "net.ckpt")
    with pytest.raises(InputError, match=r"no backbone, embedding_dim, loss; give them .* divconq_pl\.load\("):
        DivideConquerModule.load_from_checkpoint(path)
