"""The program divconq-export: the network of a checkpoint in files that work without this package."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle, islice
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor

from divconq_pl.app.checks.values import check_values
from divconq_pl.app.model_card import describe_network
from divconq_pl.data.decoding import UnreadableImageError
from divconq_pl.errors import InputError
from divconq_pl.extras import require_packages
from divconq_pl.inference import Embedder, list_files
from divconq_pl.inference.description import describe_preprocessing
from divconq_pl.inference.folder import read_folder, write_weights
from divconq_pl.inference.formats import Run, trace, write_onnx, write_torch_export
from divconq_pl.inference.loading import make_embedder, read_network

NEEDS = {"onnx": ("onnx", "onnxruntime", "onnxscript"), "torch_export": (), "safetensors": ("safetensors",)}
"""The formats, and the packages that each needs."""

TOLERANCE = 1e-4
"""How far a coordinate of an embedding of unit length may be from the checkpoint's."""

BATCHES = (1, 2, 5)
"""The sizes of batches that each file is tried with."""

HINTS = {
    "checkpoint": str,
    "formats": str | list[str],
    **dict.fromkeys(("folder", "images"), str | None),
    **dict.fromkeys(("backbone", "transform"), object | None),
    "channels": int,
    "image_size": int | list[int] | None,
}
"""What the keys of conf/export.yaml hold."""


def main(cfg: DictConfig) -> None:
    """Write the files, compare each with the checkpoint, and say where they are.

    Args:
        cfg: conf/export.yaml, as the user changed it.
    """
    check_config(cfg)
    path = Path(cfg.checkpoint).expanduser()
    content = read_network(path, "checkpoint")
    embedder = make_embedder(
        content, path, "cpu", backbone=instantiate(cfg.backbone), transform=instantiate(cfg.transform)
    )
    folder = Path(cfg.folder).expanduser() if cfg.folder else choose_folder(path)
    images = collect_images(embedder, cfg.images)
    with staged(folder) as place:
        differences = write_files(embedder, place, list_formats(cfg), images)
        card = describe_network(content, find_run(path), differences, TOLERANCE)
        (place / "README.md").write_text(card, encoding="utf-8")
    what = f"images of {cfg.images}" if cfg.images else "random images"
    for name, difference in differences.items():
        print(f"{folder / name}: differs by {difference:.1e} from the checkpoint (allowed: {TOLERANCE:.0e})")
    sizes = ", ".join(map(str, BATCHES))
    print(f"Compared on {what}, in batches of {sizes}; beside them: preprocessing.json and the model card README.md")


def check_config(cfg: DictConfig) -> None:
    """Refuse values that cannot work, before anything is built.

    Raises:
        InputError: it names the key and the value.
    """
    check_values(cfg, **HINTS)
    formats = list_formats(cfg)
    if not formats:
        raise InputError(f"formats=[] writes nothing; choose of {', '.join(NEEDS)}")
    for name in formats:
        if name not in NEEDS:
            raise InputError(f"formats={name} is unknown; choose of {', '.join(NEEDS)}")
        try:
            require_packages(f"formats={name}", "export", *NEEDS[name])
        except ModuleNotFoundError as error:
            raise InputError(str(error)) from error


def list_formats(cfg: DictConfig) -> list[str]:
    """Return the formats that are asked for, one or a list."""
    return [cfg.formats] if isinstance(cfg.formats, str) else list(cfg.formats)


def find_run(path: Path) -> Path:
    """Return the folder of the run that a checkpoint is from, given the folder itself or a file."""
    return path if path.is_dir() else path.parent.parent if path.parent.name == "checkpoints" else path.parent


def choose_folder(path: Path) -> Path:
    """Return where to write if the user does not say: ``export`` in the folder of the run."""
    return find_run(path) / "export"


def collect_images(embedder: Embedder, folder: str | None) -> Tensor:
    """Return a few images as the network takes them: the first of a folder, over again if it has fewer, or random ones.

    Raises:
        InputError: if there is no image, or one cannot be read.
    """
    if folder is not None:
        try:
            return torch.stack([embedder.preprocess(file) for file in islice(cycle(list_files(folder)), max(BATCHES))])
        except UnreadableImageError as error:
            raise InputError(str(error)) from error
    height, width = embedder.image_size or (64, 64)
    noise = torch.Generator().manual_seed(0)
    shape = (max(BATCHES), 3, height, width)
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=noise)
    return torch.stack([embedder.preprocess(image) for image in pixels])


@contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """Give a folder to write to, which takes its place and its name in the end, whole or not at all.

    Raises:
        InputError: if something is there already, or nothing can be written there.
    """
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise InputError(f"folder={str(folder)!r} exists, and nothing is overwritten; choose another with folder=PATH")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        place = Path(mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    except OSError as error:
        raise InputError(
            f"folder={str(folder)!r} cannot be written ({error.strerror}); choose another with folder=PATH"
        ) from error
    try:
        yield place
        place.chmod(0o755)  # mkdtemp's is for its owner alone
        place.rename(folder)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def write_files(embedder: Embedder, folder: Path, formats: Sequence[str], images: Tensor) -> dict[str, float]:
    """Write each format, and compare what it gives with what the network gives.

    Args:
        embedder: the network.
        folder: where to.
        formats: names of :data:`NEEDS`.
        images: as the network takes them.

    Returns:
        The largest difference of any coordinate, by the name of the file.

    Raises:
        InputError: if a file gives something else.
    """
    preprocessing = json.dumps(describe_preprocessing(embedder.preprocess), indent=2)
    (folder / "preprocessing.json").write_text(preprocessing + "\n", encoding="utf-8")
    runs: dict[str, Run] = {}
    if {"onnx", "torch_export"} & set(formats):
        program = trace(embedder)
        if "onnx" in formats:
            runs["model.onnx"] = write_onnx(program, folder / "model.onnx", preprocessing)
        if "torch_export" in formats:
            runs["model.pt2"] = write_torch_export(program, folder / "model.pt2", preprocessing)
    if "safetensors" in formats:
        weights = write_weights(embedder, folder)
        runs[weights.name] = _load_again(embedder, folder)
    return {name: _compare(name, embedder, run, images) for name, run in runs.items()}


def _load_again(embedder: Embedder, folder: Path) -> Run:
    """Build the network from the files alone, but for a backbone or transform that is the user's own."""
    content: dict[str, Any] = read_folder(folder, "folder")
    try:
        return make_embedder(content, folder, "cpu").module
    except InputError:
        given = embedder.module
        return make_embedder(
            content, folder, "cpu", backbone=given.backbone, transform=embedder.preprocess.transform
        ).module


def _compare(name: str, embedder: Embedder, run: Run, images: Tensor) -> float:
    with torch.no_grad():
        largest = max(float((run(images[:n]) - embedder.module(images[:n])).abs().max()) for n in BATCHES)
    if not largest <= TOLERANCE:
        raise InputError(
            f"{name} gives embeddings that differ by {largest:.1e} from the checkpoint's, more than {TOLERANCE:.0e}, "
            "so it is not written; leave its format out with formats=[...]"
        )
    return largest
