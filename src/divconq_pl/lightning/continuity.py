"""What may be different when a training goes on, and what may not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from zlib import crc32

import torch
from torch import Tensor

from divconq_pl.errors import InputError

LASTING = ("subspaces", "width")
"""Settings that a training keeps for good: what is trained hangs on them."""

BATCHES = ("batch_size", "batches", "processes", "images_per_class", "allotment", "draw", "seed")
"""Settings that decide which batches an epoch has: they may change between two epochs only."""

OF_THE_OPTIMIZER = ("module.optimizer.", "module.lr_scheduler", "module.parameter_groups.")
"""Settings that come from the checkpoint: a change would have no effect. A dot at the end stands for all below."""

_NAMED = 3


def compare_settings(before: Mapping[str, Any], now: Mapping[str, Any], *, mid_epoch: bool = False) -> str | None:
    """Refuse settings with which a training cannot go on. Any others may change, and are told.

    Args:
        before: the settings of the checkpoint, plain values by dotted name.
        now: those of the training that goes on.
        mid_epoch: whether it goes on in the middle of an epoch.

    Returns:
        What else is different, for the user to know, or None.

    Raises:
        InputError: for a change of what :data:`LASTING` or :data:`OF_THE_OPTIMIZER` name, or, in the middle of an
            epoch, of :data:`BATCHES`.

    Example:
        >>> compare_settings({"merge_at": 9}, {"merge_at": 18})
        'the training goes on with other settings than before: merge_at=18 instead of 9'
    """
    told = {
        name: f"{name}={now.get(name)!r} instead of {before.get(name)!r}"
        for name in sorted({*before, *now})
        if before.get(name) != now.get(name)
    }
    if lasting := _pick(told, LASTING):
        raise InputError(f"the checkpoint was written with other subspaces: {lasting}; resume with those it has")
    if fixed := _pick(told, OF_THE_OPTIMIZER):
        raise InputError(
            f"the optimiser goes on with the settings in the checkpoint, so {fixed} would have no effect; leave them "
            "as they were"
        )
    if mid_epoch and (batches := _pick(told, BATCHES)):
        raise InputError(
            f"the checkpoint is from the middle of an epoch, and {batches} would give the rest of it other batches; "
            "resume with the settings of the checkpoint, or from a checkpoint of an epoch's end"
        )
    return f"the training goes on with other settings than before: {', '.join(told.values())}" if told else None


def _pick(told: Mapping[str, str], names: tuple[str, ...]) -> str:
    """Join what is told of settings with these names."""
    return ", ".join(
        text for key, text in told.items() if any(key == n or (n[-1] == "." and key.startswith(n)) for n in names)
    )


class Record:
    """With what settings and images a training runs, to be compared with those of the checkpoint it goes on from."""

    def __init__(self) -> None:
        self._settings: dict[str, Any] = {}
        self._images: Tensor | None = None
        self._loaded: dict[str, Any] | None = None

    def begin(
        self,
        settings: dict[str, Any],
        labels: Tensor | None,
        name_of: Callable[[int], str | None],
        num_images: int,
        *,
        mid_epoch: bool,
    ) -> str | None:
        """Note settings and images, and compare them with those that were loaded.

        Args:
            settings: plain values by name.
            labels: classes of the images, shape (N,), where they are known.
            name_of: gives the name of an image, where it has one.
            num_images: N.
            mid_epoch: whether the training goes on in the middle of an epoch.

        Returns:
            As :func:`compare_settings`; None where nothing was loaded.

        Raises:
            InputError: as :func:`compare_settings` and :func:`check_images`.
        """
        loaded, self._loaded = self._loaded, None
        self._settings, self._images = settings, fingerprint(labels, name_of, num_images)
        if loaded is None:
            return None
        check_images(loaded["images"], self._images, name_of)
        return compare_settings(loaded["settings"], settings, mid_epoch=mid_epoch)

    def state(self) -> dict[str, Any]:
        """Return settings and images, as plain values and a tensor."""
        return {"settings": self._settings, "images": self._images}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take what :meth:`state` returned, to be compared with when the training begins."""
        if state["images"] is not None:
            self._loaded = {"settings": state["settings"], "images": state["images"]}


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


def check_images(
    before: Tensor, now: Tensor, name_of: Callable[[int], str | None], since: str = "the checkpoint was written"
) -> None:
    """Refuse to go on with other images than the training began with.

    Args:
        before: the fingerprint of the images in the checkpoint.
        now: that of the present ones.
        name_of: gives the name of a present image, where it has one.
        since: what has happened between the two.

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
        f"the training data set has changed since {since}: {len(before)} images then, {len(now)} "
        f"now, {len(different)} of them another image or of another class{which}. Go on with the data set that the "
        "training began with"
    )


def _end_of(name: str) -> str:
    return "/".join(name.replace("\\", "/").rsplit("/", 2)[-2:])
