"""A trained network that takes images as they are."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from divconq_pl.errors import InputError
from divconq_pl.inference.images import AnyImage, iterate
from divconq_pl.inference.network import EmbeddingNetwork, MeanOfFlips
from divconq_pl.inference.preprocess import Preprocess


class Embedder:
    """Embed images with a trained network; :func:`~divconq_pl.inference.loading.load` makes one.

    Args:
        module: the network, on the device it is to run on.
        preprocess: image to what the network sees.
        embedding_dim: d.
        config: the configuration of the run that trained the network.

    Attributes:
        module: normalised images (B, C, H, W) to embeddings of unit length (B, d); a plain ``torch.nn.Module`` in
            evaluation mode.
        preprocess: one image of any kind to what ``module`` takes, (C, H, W).
        embedding_dim: d.
        config: as given, plain values.
        distance: how embeddings are compared. They have unit length, so the cosine is their dot product, and Euclidean
            distances give the same order.
    """

    distance = "cosine"

    def __init__(
        self, module: EmbeddingNetwork, preprocess: Preprocess, embedding_dim: int, config: dict[str, Any]
    ) -> None:
        self.module = module.eval()
        self.preprocess = preprocess
        self.embedding_dim = embedding_dim
        self.config = config

    @property
    def device(self) -> torch.device:
        """Where the network runs."""
        return next(self.module.parameters()).device

    @property
    def image_size(self) -> tuple[int, int] | None:
        """Height and width of what the network sees; None if it takes images of any size."""
        return self.preprocess.image_size

    @property
    def fingerprint(self) -> str:
        """A short text that is the same for the same weights: embeddings of two networks cannot be compared."""
        digest = hashlib.blake2b(digest_size=8)
        for name, value in self.module.state_dict().items():
            digest.update(name.encode())
            digest.update(value.cpu().contiguous().flatten().view(torch.uint8).numpy())
        return digest.hexdigest()

    def embed(self, images: AnyImage | Iterable[AnyImage], batch_size: int = 64, flip: bool = False) -> Tensor:
        """Embed one image or many.

        Args:
            images: a path, a folder (all images in it and below, in the order of
                :func:`.list_files`: sorted by path), an open file, a Pillow image, a uint8 array
                (H, W, 3) or (H, W), or a uint8 tensor (3, H, W) or (1, H, W); a batch of these with one dimension more;
                or a list, a generator or any other iterable of single images. Few of them are in memory at a time.
            batch_size: images that the network sees at once.
            flip: embed each image and its mirror image, and take the mean.

        Returns:
            Rows of unit length, float32, shape (N, d), on the CPU, in the order of the images.

        Raises:
            InputError: for an image that cannot be read, which it names, or a ``batch_size`` below 1.
        """
        rows = list(self.embed_batches(images, batch_size, flip))
        return torch.cat(rows) if rows else torch.empty(0, self.embedding_dim)

    def embed_batches(
        self, images: AnyImage | Iterable[AnyImage], batch_size: int = 64, flip: bool = False
    ) -> Iterator[Tensor]:
        """Yield what :meth:`embed` returns batch by batch, for more images than fit in memory."""
        if batch_size < 1:
            raise InputError(f"batch_size={batch_size} is too small; use 1 or more")
        network = self.module
        if flip:
            network = EmbeddingNetwork(MeanOfFlips(network.backbone), network.embedding)
        for batch in self._load_batches(images, batch_size):
            with torch.no_grad():
                rows: Tensor = network(batch.to(self.device)).cpu()
            yield rows

    def _load_batches(self, images: AnyImage | Iterable[AnyImage], batch_size: int) -> Iterator[Tensor]:
        """Decode in threads, one batch ahead of the network."""
        named = ((image, f"image {position}") for position, image in enumerate(iterate(images)))
        ahead: deque[list[Future[Tensor]]] = deque()
        with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
            while chunk := list(islice(named, batch_size)):
                ahead.append([pool.submit(self.preprocess, image, name) for image, name in chunk])
                if len(ahead) > 1:
                    yield _stack(ahead.popleft())
            while ahead:
                yield _stack(ahead.popleft())

    def __repr__(self) -> str:
        size = "any size" if self.image_size is None else "{} x {}".format(*self.image_size)
        what = f"{self.preprocess.channels} channel(s), {size}"
        return f"{type(self).__name__}({what} -> {self.embedding_dim} dimensions, on {self.device})"


def _stack(waiting: list[Future[Tensor]]) -> Tensor:
    images = [future.result() for future in waiting]
    if len(shapes := {tuple(image.shape) for image in images}) > 1:
        raise InputError(
            f"the network takes images as they are, and these have different shapes: {sorted(shapes)}; give them "
            "one size, or use batch_size=1"
        )
    return torch.stack(images)
