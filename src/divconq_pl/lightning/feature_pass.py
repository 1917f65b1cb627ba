"""The feature pass of a division: all training images through the network, in the Trainer's way."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import rank_zero_warn
from pytorch_lightning.utilities.seed import isolate_rng
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, Dataset
from tqdm import tqdm

from divconq_pl.core.features import Features
from divconq_pl.core.row_store import RowStore
from divconq_pl.errors import InputError
from divconq_pl.lightning._trainer import loaders, processes, progress
from divconq_pl.lightning.drawable import read_labels
from divconq_pl.lightning.embedding import Way, describe_no_features, features_of
from divconq_pl.lightning.embedding_layer import Side
from divconq_pl.lightning.last_features import LastFeatures
from divconq_pl.lightning.reading import UsualReader, contiguous, image_name
from divconq_pl.lightning.routing import batch_size

COLLAPSED = 0.01
"""Mean distance between two images' features, of length 1, below which they are said to have collapsed."""

_SAMPLE, _NAMED = 256, 3


def extract_training_features(
    trainer: pl.Trainer,
    layer: nn.Module,
    loader: DataLoader[Any],
    reader: UsualReader,
    way: Way,
    *,
    cluster_dataset: Dataset[Any] | None = None,
    feature_store: str | Path | None = None,
    last: LastFeatures | None = None,
) -> tuple[Features, Tensor]:
    """Return the features and classes of all training images, in the order of the data set.

    Neither the training's random numbers nor the modes of the modules are disturbed. Meanwhile ``trainer.training`` is
    False and ``trainer.validating`` True, so that a module which augments its batches in training leaves these as they
    are. With several processes each looks at its share and keeps the features of that. Where memory runs out, it goes
    on with smaller batches.

    Args:
        trainer: the running fit.
        layer: the embedding layer.
        loader: the training loader; images are loaded in its way.
        reader: how batches give labels.
        way: how a batch becomes features.
        cluster_dataset: the images to look at; the training data set by default.
        feature_store: folder to keep the features in, as a memory-mapped file of float16; by default they stay in
            memory, float32, on the device of the network. See :class:`.RowStore`.
        last: what is known of the images already: these are not looked at.

    Returns:
        Features, shape (N, D), L2-normalised, and classes 0..C-1, int64, shape (N,), on every process.

    Raises:
        InputError: if ``cluster_dataset`` does not hold the training images in their order, features are NaN or
            infinite, or there is no room for them.
        RuntimeError: if a worker of the loader died.
    """
    module = trainer.lightning_module
    dataset = loader.dataset if cluster_dataset is None else cluster_dataset
    num_images = len(dataset)  # type: ignore[arg-type]
    check_same_images(dataset, loader.dataset)
    known = read_labels(reader, loader.dataset)
    own_labels = known if cluster_dataset is None else read_labels(reader, dataset)
    share = range(trainer.global_rank, num_images, trainer.world_size)
    images = share if last is None else last.missing()
    store = RowStore(len(images), feature_store)
    seen: list[Any] = []

    def forward(batch: Any) -> Any:
        if own_labels is None:
            labels = reader.batch_labels(batch)
            seen.extend(labels.tolist() if isinstance(labels, Tensor) else labels)
        batch = trainer.strategy.batch_to_device(trainer.precision_plugin.convert_input(batch))
        return way.run(batch)

    def look(size: int) -> None:
        del seen[len(store) :]  # of a batch that memory ran out for
        sampler = BatchSampler(images[len(store) :], size, drop_last=False)
        batches = loaders.with_batches(loader, sampler, dataset=dataset, persistent_workers=False, generator=None)
        extract_features(module, layer, _with_progress(trainer, batches), forward, store.append, side=way.side)

    if len(images):
        with isolate_rng(), trainer.precision_plugin.forward_context(), progress.not_training(trainer):
            _with_smaller_batches(look, batch_size(loader))
    if len(store) != len(images):
        raise InputError(
            f"the batches of the training loader held {len(store)} of {len(images)} images; a batch must have one "
            "entry for each index (look at the loader's collate_fn)"
        )
    rows = store.rows if last is None else last.complete(store.rows)
    bad = [share[i] for i in torch.nonzero(~rows.sum(1).isfinite()).flatten().tolist()]
    features = Features(
        rows, size=num_images, rank=trainer.global_rank, world_size=trainer.world_size, device=module.device
    )
    _refuse_bad(features, bad, dataset)
    _warn_if_collapsed(features)
    if own_labels is None:
        if trainer.world_size > 1:
            most = -(-num_images // trainer.world_size)
            seen = processes.gather_strided_objects(seen + [None] * (most - len(seen)))[:num_images]
        own_labels = contiguous(seen)
    if known is None:
        return features, own_labels
    if cluster_dataset is not None and not _same_grouping(known, own_labels):
        raise InputError(
            "the labels of cluster_dataset differ from those of the training data set; it must hold the same images in "
            "the same order"
        )
    return features, known


@torch.no_grad()
def extract_features(
    module: nn.Module,
    layer: nn.Module,
    batches: Iterable[Any],
    forward: Callable[[Any], object],
    take: Callable[[Tensor], object],
    *,
    side: Side = "input",
) -> None:
    """Collect what goes into (or comes out of) a layer, batch by batch, L2-normalised.

    Where a layer runs several times for a batch, as for a flipped copy or a second view, its first run counts.

    The module is in evaluation mode meanwhile; every submodule has its own mode back afterwards.

    Args:
        module: the network.
        layer: the embedding layer, a submodule of it. Its input are the penultimate features.
        batches: batches of the data.
        forward: runs the network on a batch, and may return the features itself.
        take: is given the features of each batch, float32, shape (B, D), on the device of the network.
        side: side of the layer to look at, the output where the input is not one vector per image; or what ``forward``
            returns.

    Raises:
        InputError: if the layer does not run, or does not give vectors.
    """
    collected: list[tuple[tuple[Any, ...], Any]] = []

    def look(_: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        collected.append((inputs, output))

    handle = layer.register_forward_hook(look)
    try:
        with evaluating(module):
            for batch in batches:
                returned = forward(batch)
                features = features_of(collected, returned, side)
                if features is None:
                    raise InputError(describe_no_features(module, layer, collected, returned, side))
                collected.clear()
                take(nn.functional.normalize(features.float()))
    finally:
        handle.remove()


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put a module into evaluation mode, and every submodule back into its own mode afterwards."""
    modes = {submodule: submodule.training for submodule in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for submodule, training in modes.items():
            submodule.training = training


def check_same_images(dataset: Dataset[Any], training: Dataset[Any]) -> None:
    """Refuse a data set to be clustered that has not as many images as the training's.

    Raises:
        InputError: if that is so.
    """
    sizes = len(dataset), len(training)  # type: ignore[arg-type]
    if sizes[0] != sizes[1]:
        raise InputError(
            f"cluster_dataset has {sizes[0]} images and the training data set {sizes[1]}; it must hold the same images "
            "in the same order"
        )


@contextmanager
def saying_why_workers_died() -> Iterator[None]:
    """Say more of a worker that died than torch does.

    Raises:
        RuntimeError: if a worker of the loader died.
    """
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" in str(error) and ("exited unexpectedly" in str(error) or "killed" in str(error)):
            raise RuntimeError(
                f"a worker of the training loader died while it read the images for the division ({error}); it may "
                "have run out of memory or of shared memory (/dev/shm): use fewer workers, or none (num_workers=0) "
                "to see what goes wrong"
            ) from error
        raise


def _with_smaller_batches(look: Callable[[int], None], size: int) -> None:
    """Let ``look`` run with batches of ``size`` images, and run on with half as many whenever memory runs out."""
    smaller = size
    while True:
        try:
            with saying_why_workers_died():
                look(smaller)
            break
        except RuntimeError as error:
            if smaller == 1 or not is_out_of_memory(error):
                raise
        smaller //= 2
        gc.collect()  # of what the failed batch has left, now that the traceback is gone
        torch.cuda.empty_cache()
    if smaller < size:
        warnings.warn(
            f"memory ran out in the feature pass with batches of {size} images; it went on with batches of {smaller}",
            stacklevel=2,
        )


def is_out_of_memory(error: Exception) -> bool:
    """Tell whether an error says that memory ran out."""
    said = str(error).lower()
    phrases = ("out of memory", "can't allocate memory", "not enough memory")
    return isinstance(error, torch.OutOfMemoryError) or any(phrase in said for phrase in phrases)


def _refuse_bad(features: Features, bad: list[int], dataset: Dataset[Any]) -> None:
    """Refuse features that are NaN or infinite, on all processes, if there are ``bad`` images on any of them."""
    count = int(features.total(torch.tensor([len(bad)], device=features.device)))
    if not count:
        return
    first = torch.zeros(features.world_size, _NAMED, dtype=torch.int64, device=features.device)
    first[features.rank, : len(bad)] = torch.tensor(bad[:_NAMED], device=features.device) + 1
    images = sorted(index - 1 for index in features.total(first).flatten().tolist() if index)[:_NAMED]
    named = ", ".join(f"image {i}" + (f" ({name})" if (name := image_name(dataset, i)) else "") for i in images)
    raise InputError(
        f"the features of {count} of {len(features)} images are NaN or infinite (first: {named}); "
        "the training has diverged, try a smaller learning rate, or the images hold such values"
    )


def _warn_if_collapsed(features: Features) -> None:
    """Say if the network makes nearly the same of all images; what it makes of a sample of them is enough to tell."""
    count = min(len(features), _SAMPLE)
    distances = torch.pdist(features.rows(torch.arange(count) * len(features) // count).cpu())
    if len(distances) and (mean := float(distances.mean())) < COLLAPSED:
        rank_zero_warn(
            f"the features have collapsed: two images are {mean:.2g} apart on average, at length 1 (unrelated ones are "
            "about 1.4 apart), so the clusters of this division mean little; try a smaller learning rate"
        )


def _with_progress(trainer: pl.Trainer, batches: DataLoader[Any]) -> Iterator[Any]:
    """Yield the batches, and show how far they have come in the way of the Trainer's own progress bar."""
    bar = trainer.progress_bar_callback
    if bar is None or not getattr(bar, "is_enabled", True) or not trainer.is_global_zero:
        yield from batches
    elif (progress := getattr(bar, "progress", None)) is not None:  # a RichProgressBar; two live displays would clash
        task = progress.add_task("Features of the training images", total=len(batches))
        for batch in batches:
            yield batch
            progress.advance(task)
        progress.update(task, visible=False)  # the bar counts on its tasks to stay where they are
    else:
        yield from tqdm(batches, desc="Features of the training images", leave=False)


def _same_grouping(a: Tensor, b: Tensor) -> bool:
    """Tell whether two labellings put the same images together, whatever they call the classes."""
    pairs = torch.unique(a * (int(b.max()) + 1) + b)
    return len(pairs) == len(torch.unique(a)) == len(torch.unique(b))
