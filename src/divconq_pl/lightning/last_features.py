"""The last feature that each training image had in training, so that a division need not look at it again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from divconq_pl.core.row_store import make_room
from divconq_pl.errors import InputError
from divconq_pl.lightning._trainer import processes
from divconq_pl.lightning.embedding_layer import Side, feature_of


class LastFeatures:
    """The features that training has made of its images since the last division, for the next one.

    What is taken is what a feature pass would take, but as the training made it: of augmented images, with dropout, by
    weights that have moved on since. BatchNorm in training mode normalises each single-cluster batch by itself, which
    makes the clusters alike: there this is of no use, and said. Only batches of single clusters are
    noted, whose images are known; whatever was not in one since the last division is to be looked at in a pass.

    Process r of W keeps the features of images r, r + W, ..., L2-normalised float16: 2 N D / W bytes.

    Args:
        folder: of a file that is memory-mapped; by default they are where the network is.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        self._folder = folder
        self.reset()

    def reset(self) -> None:
        """Know nothing."""
        self.wanted = False  # whether a later division will ask
        self._images: list[int] | None = None  # of the batch that is trained on, of all processes
        self._seen: list[Tensor] = []  # what the embedding layer has shown of it
        self._loaded: dict[str, Tensor] | None = None
        self._rank, self._world_size = 0, 1
        self._known = torch.zeros(0, dtype=torch.bool)  # which images of this process
        self._rows = torch.empty(0, 0)  # and what of them

    def begin(self, trainer: pl.Trainer, num_images: int) -> None:
        """Make ready for a fit, or go on with what is known already."""
        self._rank, self._world_size = trainer.global_rank, trainer.world_size
        count = len(range(self._rank, num_images, self._world_size))
        if len(self._known) != count:
            self._known, self._rows = torch.zeros(count, dtype=torch.bool), torch.empty(0, 0)
        loaded, self._loaded = self._loaded, None
        if loaded is not None:
            self._put(loaded["images"].tolist(), loaded["rows"].to(trainer.strategy.root_device))

    def expect(self, images: list[int] | None) -> None:
        """Look at the forward pass that comes next.

        Args:
            images: the images of its batch, those of process 0 first; None if it is none to look at.
        """
        self._images, self._seen = images if self.wanted else None, []

    def look(self, side: Side, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Take what goes into the embedding layer, or comes out of it, while a batch is expected."""
        if self._images is not None:
            self._seen.append(nn.functional.normalize(feature_of(side, inputs, output).detach().float()))

    def note(self, pl_module: pl.LightningModule) -> None:
        """Note what was seen of the expected batch. All processes call it, before or after the batch's step.

        Raises:
            InputError: if that is not one vector for each of its images.
        """
        images, seen = self._images, self._seen
        self.expect(None)
        if images is None or not seen:
            return
        if len(seen) > 1 or seen[0].ndim != 2 or self._world_size * len(seen[0]) != len(images):
            raise InputError(
                f"features='training' takes one vector for each image from the embedding layer, which ran {len(seen)} "
                f"times in a step of {len(images) // self._world_size} images and made tensors of shape "
                f"{' and '.join(str(tuple(rows.shape)) for rows in seen)}; use features='exact'"
            )
        rows = pl_module.all_gather(seen[0]) if self._world_size > 1 else seen[0]
        assert isinstance(rows, Tensor)
        self._put(images, rows.reshape(len(images), -1))

    def missing(self) -> list[int]:
        """Return the images of this process of which nothing is known, in order."""
        return (torch.nonzero(~self._known).flatten() * self._world_size + self._rank).tolist()

    def complete(self, rows: Tensor) -> Tensor:
        """Return what is known of all images of this process, shape (n, D), given ``rows`` of those missing."""
        if len(rows):
            self._put(self.missing(), rows)
        return self._rows

    def forget(self) -> None:
        """Take what is known for old, since a division has been made of it."""
        self._known.zero_()
        if not self.wanted:
            self._rows = torch.empty(0, 0)

    def state(self, *, gather: bool) -> dict[str, Tensor] | None:
        """Return what is known, ``images`` (M,) and their ``rows`` (M, D), or None.

        Args:
            gather: whether all processes call it, whose knowledge is then put together.
        """
        if self._loaded is not None or not self.wanted:
            return self._loaded
        known = torch.nonzero(self._known).flatten()
        rows = self._rows[known.to(self._rows.device)].cpu() if len(known) else torch.empty(0, 0)
        own = (known * self._world_size + self._rank, rows)
        every = processes.gather_objects(own) if gather and self._world_size > 1 else [own]
        parts = [part for part in every if len(part[0])]
        if not parts:
            return None
        return {name: torch.cat([part[i] for part in parts]) for i, name in enumerate(("images", "rows"))}

    def load_state(self, state: dict[str, Tensor] | None) -> None:
        """Take what :meth:`state` returned, for the fit that begins."""
        self._loaded = state

    def _put(self, images: list[int], rows: Tensor) -> None:
        """Keep the rows of those images that are this process's; of an image that comes twice the last."""
        if not self._rows.shape[1]:
            self._rows = make_room(len(self._known), rows.shape[1], self._folder, rows.device, torch.float16)
        places = {image: place for place, image in enumerate(images) if image % self._world_size == self._rank}
        at = torch.tensor(list(places), dtype=torch.int64) // self._world_size
        taken = rows[torch.tensor(list(places.values()), dtype=torch.int64, device=rows.device)]
        self._rows[at.to(self._rows.device)] = taken.to(self._rows)
        self._known[at] = True
