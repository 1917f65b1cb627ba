"""From an image to the tensor that a network sees, in training and in the test."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import grid_sample
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from divconq_pl.backbones.preprocessing import Preprocessing
from divconq_pl.errors import InputError

GLYPH_MEAN, GLYPH_STD = 0.12, 0.29


@dataclass(frozen=True)
class BatchTransform:
    """Transform many images at a time, each of them as if it were alone.

    Args:
        batch: images, uint8, shape (B, channels, height, width), and random numbers in [0, 1), float64, shape
            (B, ``draws``), to what the network sees, the first dimension being B. What an image becomes must depend on
            itself and its own numbers alone.
        draws: how many random numbers an image takes.
    """

    batch: Callable[[Tensor, Tensor], Tensor]
    draws: int = 0

    def __call__(self, image: Image.Image) -> Tensor:
        """Transform one image, with numbers from torch's generator."""
        return self.batch(F.pil_to_tensor(image)[None], torch.rand(1, self.draws, dtype=torch.float64))[0]


def glyph_train(*, augment: bool = True, channels: int = 1) -> BatchTransform:
    """Rotate, scale and shift a glyph a little, anew each time, and normalise it.

    Args:
        augment: False to normalise it only.
        channels: 1, or 3 for a network made for colour images.

    Returns:
        The transform: a gray image to float32, shape (channels, height, width).

    Raises:
        InputError: for another number of channels.
    """
    if channels not in (1, 3):
        raise InputError(f"channels={channels} cannot be drawn; use 1 or 3")
    return BatchTransform(partial(_see_glyphs, channels=channels), draws=4 if augment else 0)


def glyph_test(*, channels: int = 1) -> BatchTransform:
    """Normalise a glyph, as :func:`glyph_train` does without augmentation."""
    return glyph_train(augment=False, channels=channels)


def _see_glyphs(images: Tensor, uniform: Tensor, *, channels: int) -> Tensor:
    if uniform.shape[1]:
        between = 2 * uniform - 1
        sides = torch.tensor(images.shape[:1:-1])
        shifts = (0.05 * sides * between[:, 1:3]).round()  # by whole pixels, as torchvision does
        images = turn(images, 10 * between[:, 0], shifts, 1 + 0.1 * between[:, 3])
    if images.shape[1] != channels:
        images = F.rgb_to_grayscale(images, channels)
    values = F.to_dtype(images, torch.float32, scale=True)
    normalised: Tensor = F.normalize(values, [GLYPH_MEAN] * channels, [GLYPH_STD] * channels)
    return normalised


def turn(images: Tensor, degrees: Tensor, shifts: Tensor, scales: Tensor) -> Tensor:
    """Rotate, scale and shift images about their middle, each in its own way; what comes in from outside is black.

    They are resampled bilinearly, as Pillow and torchvision's ``RandomAffine`` do, but many at once; a level of 256 may
    be rounded to its neighbour.

    Args:
        images: uint8, shape (B, channels, height, width).
        degrees: clockwise, shape (B,).
        shifts: to the right and down in pixels, shape (B, 2).
        scales: factors, shape (B,).
    """
    height, width = images.shape[-2:]
    # math's cosine, since torch's may differ in the last bit with an image's place in the batch
    angles = torch.tensor([[math.cos(a), math.sin(a)] for a in torch.deg2rad(degrees).tolist()], dtype=torch.float64)
    cos, sin = (angles / scales[:, None]).float().unbind(1)
    x = torch.arange(width) + 0.5 - width / 2 - shifts[:, :1].float()
    y = torch.arange(height) + 0.5 - height / 2 - shifts[:, 1:].float()
    # where each pixel comes from, from -1 to 1 over the image
    from_x = ((cos[:, None] * x)[:, None, :] + (sin[:, None] * y)[:, :, None]) * (2 / width)
    from_y = ((cos[:, None] * y)[:, :, None] - (sin[:, None] * x)[:, None, :]) * (2 / height)
    grid = torch.stack([from_x, from_y], dim=-1)
    turned = grid_sample(images.float(), grid, padding_mode="border", align_corners=False)
    is_inside = ((from_x.abs() < 1) & (from_y.abs() < 1))[:, None]
    return (turned + 1e-3).mul_(is_inside).to(torch.uint8)  # rounded down, as Pillow does, but not for float32's errors


def image_train(
    size: int | Sequence[int] | None = None, *, color: bool = False, preprocessing: Preprocessing | None = None
) -> v2.Compose:
    """Crop at random, flip at random, and normalise as the network's weights expect it.

    Args:
        size: height and width of the result in pixels, one number or two; by default those of ``preprocessing``.
        color: also change colours, the stronger variant of the paper's authors.
        preprocessing: what the weights expect; by default ImageNet's usual values and 224 pixels, as in the papers.

    Returns:
        The transform: an RGB image to float32, shape (3, size, size) or (3, height, width).

    Raises:
        InputError: if size is neither one positive number nor two.
    """
    expected = preprocessing or Preprocessing()
    height, width = _check_size(size or expected.size)
    shape = width / height  # that of the images which such a size is meant for
    crop = v2.RandomResizedCrop(
        (height, width),
        ratio=(3 / 4 * shape, 4 / 3 * shape),
        interpolation=v2.InterpolationMode(expected.interpolation),
    )
    jitter = [v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8), v2.RandomGrayscale(0.2)]
    geometry = _make_geometry([crop, v2.RandomHorizontalFlip()], expected)
    return v2.Compose([*geometry, *(jitter if color else []), *_make_normalise(expected)])


def image_test(
    size: int | Sequence[int] | None = None, *, preprocessing: Preprocessing | None = None
) -> CacheableTransform:
    """Resize, take the middle, and normalise as :func:`image_train` does.

    Args:
        size: height and width of the result in pixels; by default those of ``preprocessing``. Two numbers that differ
            squeeze the whole image into them, as is usual in re-identification.
        preprocessing: what the weights expect; by default a shorter side of 256/224 of ``size``, as in the papers.
    """
    expected = preprocessing or Preprocessing()
    height, width = _check_size(size or expected.size)
    mode = v2.InterpolationMode(expected.interpolation)
    if height == width:
        side = round(height * expected.resize / expected.size)
        steps = [v2.Resize([side, side] if expected.squash else side, mode), v2.CenterCrop(height)]
    else:
        steps = [v2.Resize([height, width], mode)]
    geometry = _make_geometry(steps, expected)
    return CacheableTransform(v2.Compose(geometry), v2.Compose(_make_normalise(expected)))


@dataclass(frozen=True)
class CacheableTransform:
    """Separate the costly part that never changes from the rest, so that its result can be kept on disk.

    Args:
        geometry: image to pixels: uint8, of one shape for all images, nothing random. Two that print alike must do the
            same, since :func:`.cache_pixels` tells them apart by that.
        finish: pixels to what the network sees.
    """

    geometry: Callable[[Image.Image], Tensor]
    finish: Callable[[Tensor], Tensor]

    def __call__(self, image: Image.Image) -> Tensor:
        """Apply both."""
        return self.finish(self.geometry(image))


def _check_size(size: int | Sequence[int]) -> tuple[int, int]:
    sides = [size, size] if isinstance(size, int) else list(size)
    if len(sides) != 2 or min(sides) < 1:
        raise InputError(f"image_size={size} is no size; give one number, or [height,width], of 1 or more pixels")
    return sides[0], sides[1]


def _make_geometry(geometry: Sequence[v2.Transform], expected: Preprocessing) -> list[v2.Transform]:
    """Let torch resample bytes, in a third of Pillow's time and with differences of 1 at most.

    Pillow does it for the other interpolations, which torch lacks or does differently.
    """
    contiguous = v2.Lambda(torch.Tensor.contiguous)  # channel by channel, or normalising would take twice as long
    if expected.interpolation in ("bilinear", "bicubic"):
        return [v2.PILToTensor(), *geometry, contiguous]
    return [*geometry, v2.PILToTensor(), contiguous]


def _make_normalise(expected: Preprocessing) -> list[v2.Transform]:
    return [
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize(list(expected.mean), list(expected.std), inplace=True),
    ]
