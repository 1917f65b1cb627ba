"""What may be different when a training goes on, and what may not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from zlib import crc32

import torch
from torch import Tensor

from divconq_pl.errors import InputError

LASTING = ("subspaces", "width")
"""Settings that a training keeps for good: what is trained hangs on them."""

BATCHES = ("batch_size", "batches", "processes", "images_per_class", "allotment", "seed")
"""Settings that decide which batches an epoch has: they may change between two epochs only."""

_NAMED = 3


def compare_settings(before: dict[str, Any], now: dict[str, Any], *, mid_epoch: bool) -> str | None:
    """Refuse settings that a training cannot go on with.

    Args:
        before: the settings of the checkpoint.
        now: those of the training that goes on.
        mid_epoch: whether it goes on in the middle of an epoch.

    Returns:
        What else is different, for the user to know, or None.

    Raises:
        InputError: for a change of what :data:`LASTING` names, or, in the middle of an epoch, of :data:`BATCHES`.

    Example:
        >>> compare_settings({"conquer_at": 9}, {"conquer_at": 18}, mid_epoch=True)
        'the training goes on with other settings than before: conquer_at=18 instead of 9'
    """
    changed = [name for name in now if name in before and before[name] != now[name]]
    told = {name: f"{name}={now[name]!r} instead of {before[name]!r}" for name in changed}
    if lasting := [told[name] for name in LASTING if name in told]:
        raise InputError(f"the checkpoint cannot be gone on from with {', '.join(lasting)}; use its own")
    if mid_epoch and (batches := [told[name] for name in BATCHES if name in told]):
        raise InputError(
            f"the checkpoint is from the middle of an epoch, whose remaining batches are not to be had with "
            f"{', '.join(batches)}; use its own, or go on from a checkpoint of an epoch's end"
        )
    return f"the training goes on with other settings than before: {', '.join(told.values())}" if told else None


def fingerprint(labels: Tensor | None, name_of: Callable[[int], str | None], num_images: int) -> Tensor:
    """Return a number for each image, by which it is known again: of its class and the end of its path.

    Only the last folder and the file name count, so that a data set may be moved.

    Args:
        labels: classes of the images, shape (N,), where they are known.
        name_of: gives the name of an image, where it has one.
        num_images: N.

    Returns:
        int64, shape (N,).
    """
    classes = [0] * num_images if labels is None else labels.tolist()
    names = (_end_of(name_of(i) or "") for i in range(num_images))
    return torch.tensor([crc32(f"{c} {name}".encode()) for c, name in zip(classes, names, strict=True)])


def check_images(before: Tensor, now: Tensor, name_of: Callable[[int], str | None]) -> None:
    """Refuse to go on with other images than the training began with.

    Args:
        before: the fingerprint of the images in the checkpoint.
        now: that of the present ones.
        name_of: gives the name of a present image, where it has one.

    Raises:
        InputError: it says which images are different.
    """
    shared = min(len(before), len(now))
    different = torch.nonzero(before[:shared] != now[:shared]).flatten().tolist()
    if not different and len(before) == len(now):
        return
    images = different or list(range(shared, len(now)))
    named = ", ".join(f"{i}" + (f" ({name})" if (name := name_of(i)) else "") for i in images[:_NAMED])
    which = f"; the first that differ are {named}" if images else ""
    raise InputError(
        f"the training data set has changed since the checkpoint was written: {len(before)} images then, {len(now)} "
        f"now, {len(different)} of them another image or of another class{which}. Go on with the data set that the "
        "training began with"
    )


def _end_of(name: str) -> str:
    return "/".join(name.replace("\\", "/").rsplit("/", 2)[-2:])
