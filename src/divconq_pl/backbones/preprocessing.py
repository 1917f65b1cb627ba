"""What the weights of a network expect of the images it sees."""

from __future__ import annotations

from dataclasses import dataclass

from torchvision.transforms import v2

from divconq_pl.errors import InputError

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preprocessing:
    """Size, resampling and normalisation of images; by default those of both papers, for ImageNet's weights.

    Args:
        mean: of the three colours, for values from 0 to 1; subtracted.
        std: divides what is left.
        interpolation: ``bilinear``, ``bicubic`` or another of torchvision's names.
        size: height and width of what the network sees, in pixels.
        resize: the shorter side before the middle is cut out, in pixels; it grows and shrinks with another size.
        squash: resize both sides to this length, instead of keeping the aspect ratio.

    Raises:
        InputError: for an unknown interpolation.
    """

    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    interpolation: str = "bilinear"
    size: int = 224
    resize: int = 256
    squash: bool = False

    def __post_init__(self) -> None:
        known = [mode.value for mode in v2.InterpolationMode]
        if self.interpolation not in known:
            raise InputError(f"interpolation={self.interpolation!r} is unknown; use one of {', '.join(known)}")
