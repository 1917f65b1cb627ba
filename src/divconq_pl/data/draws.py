"""Random numbers that depend on a seed alone, for transforms."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@contextmanager
def random_numbers(seed: str) -> Iterator[int]:
    """Let ``random``, NumPy and torch (on the CPU) begin at a seed, and go on afterwards as if nothing had happened.

    These are what transforms draw from. It gives a number to those that have a generator of their own.
    """
    number = _digest(seed)
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(number)
    np.random.seed(number % 2**32)
    torch.default_generator.manual_seed(number % 2**63)  # torch.manual_seed would reach for the GPUs as well
    try:
        yield number
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])


def uniform_numbers(seed: str, indices: NDArray[np.int64], count: int) -> Tensor:
    """Draw numbers in [0, 1) for many images at once, those of each from the seed and its index alone.

    They are those of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014), at the places that belong to the image.

    Args:
        seed: any text.
        indices: of the images, shape (B,).
        count: how many numbers an image takes.

    Returns:
        Shape (B, count), float64.
    """
    places = indices.astype(np.uint64)[:, None] * np.uint64(count) + np.arange(1, count + 1, dtype=np.uint64)
    bits = places * np.uint64(0x9E3779B97F4A7C15) + np.uint64(_digest(seed))
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
        bits = (bits ^ np.right_shift(bits, np.uint64(shift))) * np.uint64(factor)
    return torch.from_numpy(np.right_shift(bits, np.uint64(11)) * 2.0**-53)


def _digest(seed: str) -> int:
    return int.from_bytes(hashlib.blake2b(seed.encode(), digest_size=8).digest(), "little")
