"""From any image to what a network sees, as in the evaluation of its training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from divconq_pl.data.decoding import MAX_MEGAPIXELS, check_limits
from divconq_pl.errors import InputError
from divconq_pl.inference.images import as_rgb


class Preprocess:
    """Decode, resize and normalise one image.

    Where the transform of the training changes no size, as that of rendered glyphs, images of another size than those
    are resized to it.

    Args:
        transform: Pillow image to tensor, without random numbers; None is float32 in [0, 1].
        channels: of what the network sees; of 1, images are turned gray.
        image_size: height and width of what the network sees, where the transform does not say; None for images of
            any size, which then have to be alike within a batch.
        white_level: the value that is white in gray images of more than 8 bits; by default as their format says.
        max_megapixels: the largest file that is read.

    Attributes:
        image_size: (height, width) of what the network sees.
        channels: as given, like the arguments that follow.
        transform: as given.
        resizes: whether the transform gives images of one size, whatever it is given.

    Raises:
        InputError: if the transform gives another number of channels.
    """

    def __init__(
        self,
        transform: Callable[[Image.Image], Tensor] | None,
        channels: int,
        image_size: tuple[int, int] | None = None,
        *,
        white_level: float | None = None,
        max_megapixels: float = MAX_MEGAPIXELS,
    ) -> None:
        check_limits(white_level, max_megapixels)
        self.channels = channels
        self.white_level = white_level
        self.max_megapixels = max_megapixels
        self.transform = transform
        self._to_tensor: Callable[[Image.Image], Tensor] = transform or _scale
        self._mode = "L" if channels == 1 else "RGB"
        shapes = {tuple(self._to_tensor(Image.new(self._mode, size)).shape) for size in ((40, 56), (56, 40))}
        if found := {shape[0] for shape in shapes} - {channels}:
            raise InputError(f"the transform gives {found.pop()} channels, but the network takes {channels}")
        self.resizes = len(shapes) == 1
        _, height, width = next(iter(shapes))
        self.image_size = (height, width) if self.resizes else image_size

    def __call__(self, image: Any, name: str = "the image") -> Tensor:
        """Return what the network sees of an image, float32, shape (channels, height, width).

        Args:
            image: of any kind that :func:`~divconq_pl.inference.images.as_rgb` takes.
            name: how to name it in an error, unless it is a file.

        Raises:
            InputError: if it cannot be read; it names the image.
        """
        decoded = as_rgb(image, name, self.white_level, self.max_megapixels).convert(self._mode)
        if not self.resizes and self.image_size is not None:
            height, width = self.image_size
            if decoded.size != (width, height):
                decoded = decoded.resize((width, height), Image.Resampling.BILINEAR)
        return self._to_tensor(decoded)


def _scale(image: Image.Image) -> Tensor:
    scaled: Tensor = F.to_dtype(F.pil_to_tensor(image), torch.float32, scale=True)
    return scaled
