"""The way from a checkpoint to an Embedder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from divconq_pl.data.decoding import MAX_MEGAPIXELS
from divconq_pl.errors import InputError
from divconq_pl.inference.checkpoints import CONFIG_KEY, load_embedder, read_checkpoint, refuse_odd_entries
from divconq_pl.inference.embedder import Embedder
from divconq_pl.inference.finding import find_file
from divconq_pl.inference.folder import is_folder, read_folder
from divconq_pl.inference.network import EmbeddingNetwork
from divconq_pl.inference.preprocess import Preprocess
from divconq_pl.inference.trust import build_trusted


def load(
    path: str | Path,
    device: str | torch.device | None = None,
    *,
    backbone: nn.Module | None = None,
    transform: Callable[[Image.Image], Tensor] | None = None,
) -> Embedder:
    """Load a trained network, ready to embed images.

    Nothing in the file is run: it is read with ``weights_only=True``, and only parts of this package are built from it.

    Args:
        path: a checkpoint of train.py; the folder of a run, which stands for its best epoch; or a folder that
            ``divconq-export`` wrote, with ``model.safetensors`` in it.
        device: where the network runs; by default on the accelerator, if there is one.
        backbone: of a run that trained a network of your own: one like it.
        transform: Pillow image to tensor, of a run with a test transform of your own.

    Raises:
        InputError: if there is no such checkpoint, it is damaged, or it names parts that are not of this package.
        ModuleNotFoundError: without the extra ``app``, such as ``pip install "divconq-pl[cpu]"``.

    Example:
        >>> embedder = divconq_pl.load("outputs/2026-01-31/12-00-00")  # doctest: +SKIP
        >>> embedder.embed("folder/of/images") @ embedder.embed("query.jpg").T  # doctest: +SKIP
    """
    return make_embedder(read_network(path), path, device, backbone=backbone, transform=transform)


def read_network(path: str | Path, key: str = "path") -> dict[str, Any]:
    """Read what :func:`load` takes, without building anything.

    Args:
        path: as for :func:`load`.
        key: what the user calls it.

    Returns:
        The content of a checkpoint, see :func:`.read_checkpoint`.

    Raises:
        InputError: as :func:`load`.
    """
    path = Path(path).expanduser()
    return read_folder(path, key) if is_folder(path) else read_checkpoint(find_file(path, key), key)


def make_embedder(
    content: dict[str, Any],
    path: str | Path,
    device: str | torch.device | None = None,
    *,
    backbone: nn.Module | None = None,
    transform: Callable[[Image.Image], Tensor] | None = None,
) -> Embedder:
    """Build what :func:`load` returns from what :func:`read_network` did.

    Args:
        content: what was read.
        path: where it is from, for errors.
        device: as for :func:`load`, like the rest.
        backbone: likewise.
        transform: likewise.
    """
    with refuse_odd_entries(path):
        config = content[CONFIG_KEY]
        trained = load_embedder(content, backbone)
        network = EmbeddingNetwork(trained.backbone, trained.embedding)
        preprocess = build_preprocess(config, transform)
    return Embedder(network.to(_choose_device(device)), preprocess, config["module"]["embedding_dim"], config)


def build_preprocess(config: dict[str, Any], transform: Callable[[Image.Image], Tensor] | None = None) -> Preprocess:
    """Build from the configuration of a run what its evaluation does with an image.

    Args:
        config: the configuration.
        transform: in place of the run's own.

    Raises:
        InputError: if the transform is not one of this package.
    """
    data, size = config["data"], config.get("image_size")
    if transform is None:
        transform = build_trusted(data.get("test_transform"), "transform")
    source = data["dataset"] if isinstance(data.get("dataset"), dict) else {}
    return Preprocess(
        transform,
        int(config["channels"]),
        None if size is None else (size, size) if isinstance(size, int) else (size[0], size[1]),
        white_level=source.get("white_level"),
        max_megapixels=source.get("max_megapixels", MAX_MEGAPIXELS),
    )


def _choose_device(device: str | torch.device | None) -> torch.device:
    if device is None:
        found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        return found or torch.device("cpu")
    try:
        chosen = torch.device(device)
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError) as error:  # an unknown name, or one that this torch is not built for
        reason = str(error).splitlines()[0]
        raise InputError(
            f"device={str(device)!r} cannot be used ({reason}); use 'cpu', or 'cuda' with a GPU"
        ) from error
    return chosen
