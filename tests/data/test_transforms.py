"""Transforms of a batch at a time beside the per-image ones of torchvision and Pillow."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from divconq_pl.data import ArrayDataset, Glyphs, glyph_test, glyph_train
from divconq_pl.data.transforms import GLYPH_MEAN, GLYPH_STD


@pytest.fixture(scope="module")
def glyphs(tmp_path_factory: pytest.TempPathFactory) -> ArrayDataset:
    train = Glyphs(tmp_path_factory.mktemp("glyphs"), num_classes=20).splits().train
    pixels = np.stack([np.asarray(train.image(i)) for i in range(len(train))])
    pixels[::2] = 255 - pixels[::2]  # some whose edge is seen against the black from outside
    return ArrayDataset(pixels, train.targets, train.classes, [""] * len(train))


def one_by_one(image: Image.Image, uniform: list[float], channels: int) -> Tensor:
    """Do what RandomAffine(10, translate=(0.05, 0.05), scale=(0.9, 1.1)) does where it has drawn these numbers."""
    angle, x, y, scale = (low + (high - low) * u for u, (low, high) in zip(uniform, RANGES, strict=True))
    options = {"angle": angle, "translate": [round(x * image.width), round(y * image.height)], "scale": scale}
    turned = F.affine(image, **options, shear=[0.0, 0.0], interpolation=v2.InterpolationMode.BILINEAR)
    return F.pil_to_tensor(v2.Grayscale(channels)(turned))


RANGES = [(-10, 10), (-0.05, 0.05), (-0.05, 0.05), (0.9, 1.1)]


def levels(seen: Tensor) -> Tensor:
    """Undo the normalising."""
    values = (seen * GLYPH_STD + GLYPH_MEAN) * 255
    torch.testing.assert_close(values, values.round(), atol=1e-3, rtol=0)
    return values.round()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("shape", [(32, 32), (32, 20)])
def test_a_batch_is_augmented_as_torchvision_does_each_image(
    glyphs: ArrayDataset, channels: int, shape: tuple[int, int]
) -> None:
    pixels = glyphs._images[:, : shape[0], : shape[1]]
    uniform = torch.rand(len(pixels), 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    seen = levels(glyph_train(channels=channels).batch(torch.from_numpy(pixels)[:, None], uniform))
    pairs = zip(pixels, uniform.tolist(), strict=True)
    expected = torch.stack([one_by_one(Image.fromarray(image), numbers, channels) for image, numbers in pairs])
    assert float((seen - expected).abs().max()) <= 1
    assert float((seen - expected).abs().mean()) < 0.01


def test_evaluated_images_are_those_of_torchvision_bit_for_bit(glyphs: ArrayDataset) -> None:
    steps = [v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True), v2.Normalize([GLYPH_MEAN], [GLYPH_STD])]
    images, _ = next(iter(DataLoader(glyphs.with_transform(glyph_test()), len(glyphs))))
    assert torch.equal(images, torch.stack([v2.Compose(steps)(glyphs.image(i)) for i in range(len(glyphs))]))


def test_an_image_is_the_same_in_whatever_batch_it_is(glyphs: ArrayDataset) -> None:
    data = glyphs.with_transform(glyph_train()).with_seed(1)
    alone = [data[i] for i in range(len(data))]
    for size in (2, 7, 64, len(data)):
        for part in torch.randperm(len(data)).split(size):
            for i, (image, label) in zip(part.tolist(), data.__getitems__(part.tolist()), strict=True):
                assert torch.equal(image, alone[i][0])
                assert label == alone[i][1] == int(glyphs.targets[i])


def test_colour_images_in_memory_keep_their_colours() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 5, 3), dtype=np.uint8)
    data = ArrayDataset(pixels, [0, 0, 1, 1], "ab", "1234", glyph_test(channels=3))
    seen = torch.stack([image for image, _ in data.__getitems__([2, 0])])
    assert torch.equal(levels(seen), torch.from_numpy(pixels[[2, 0]]).permute(0, 3, 1, 2).float())
    with pytest.raises(IndexError):
        data[4]
