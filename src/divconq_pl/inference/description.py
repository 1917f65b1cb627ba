"""What is done with an image before a network sees it, in plain values that another program can follow."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torchvision.transforms import v2

from divconq_pl.data.transforms import BatchTransform, CacheableTransform
from divconq_pl.inference.preprocess import Preprocess


def describe_preprocessing(preprocess: Preprocess) -> dict[str, Any]:
    """Describe preprocessing step by step, read from the transform itself.

    Returns:
        Plain values: ``input`` (what the network takes), ``decoding``, and ``steps`` in their order, each with one
        key: ``resize``, ``center_crop``, ``grayscale``, ``divide_by``, ``normalize``, or ``other`` for a transform
        that is not known here, in its own words.
    """
    height, width = preprocess.image_size or (None, None)
    resize = [] if preprocess.resizes or height is None else [_resize([height, width], "bilinear")]
    return {
        "input": {
            "layout": "NCHW",
            "dtype": "float32",
            "channels": preprocess.channels,
            "height": height,
            "width": width,
        },
        "decoding": {
            "mode": "L (gray, ITU-R 601-2 luma)" if preprocess.channels == 1 else "RGB",
            "exif_orientation": "applied",
            "white_level": preprocess.white_level,
        },
        "steps": [*resize, *_describe(preprocess.transform)],
        "output": {"length": 1.0, "distance": "cosine"},
    }


def _describe(transform: Any) -> Iterator[dict[str, Any]]:
    if isinstance(transform, CacheableTransform):
        yield from _describe(transform.geometry)
        yield from _describe(transform.finish)
    elif isinstance(transform, v2.Compose):
        for step in transform.transforms:
            yield from _describe(step)
    elif isinstance(transform, v2.Resize):
        yield _resize(transform.size, transform.interpolation.value)
    elif isinstance(transform, v2.CenterCrop):
        yield {"center_crop": list(transform.size)}
    elif isinstance(transform, v2.Grayscale):
        yield {"grayscale": {"channels": transform.num_output_channels}}
    elif isinstance(transform, v2.ToDtype):
        yield {"divide_by": 255}
    elif isinstance(transform, v2.Normalize):
        yield {"normalize": {"mean": list(transform.mean), "std": list(transform.std)}}
    elif transform is None:
        yield {"divide_by": 255}
    elif isinstance(transform, BatchTransform) and (found := _find_normalisation(transform)):
        yield {"divide_by": 255}
        yield {"normalize": found}
    elif not isinstance(transform, v2.PILToTensor | v2.Lambda):  # which change no value
        yield {"other": repr(transform)}


def _find_normalisation(transform: BatchTransform) -> dict[str, list[float]] | None:
    """Read mean and deviation off what becomes of black, gray and white; None if that is no line."""
    levels = torch.tensor([0, 51, 255], dtype=torch.uint8)
    seen = transform.batch(levels.view(3, 1, 1, 1).expand(3, 1, 8, 8), torch.zeros(3, transform.draws)).double()
    black, gray, white = seen[:, :, 4, 4]
    if transform.draws or not torch.allclose(gray, black + 0.2 * (white - black), atol=1e-4):
        return None
    std = 1 / (white - black)
    return {"mean": [round(x, 5) for x in (-black * std).tolist()], "std": [round(x, 5) for x in std.tolist()]}


def _resize(size: Any, interpolation: str) -> dict[str, Any]:
    sides = list(size)
    place = {"shorter_side": sides[0]} if len(sides) == 1 else {"height": sides[0], "width": sides[1]}
    return {"resize": {**place, "interpolation": interpolation, "antialias": True}}
