"""The Lightning data module around any data set of this package."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal, get_args

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from divconq_pl.core.sampling import ClusterBatchSampler, check_batch
from divconq_pl.data.cache import cache_pixels
from divconq_pl.data.dataset import RetrievalDataset, Splits, SplitSource, Transform
from divconq_pl.errors import InputError

Loader = DataLoader[Any]
ValidateOn = Literal["val", "test"]


class RetrievalDataModule(pl.LightningDataModule):
    """Give batches of P classes x M images for training, and all images in order for evaluation.

    Args:
        dataset: what gives the parts, such as :class:`.Glyphs`.
        train_transform: image to tensor, in training.
        test_transform: image to tensor, everywhere else.
        batch_size: training images per batch and process.
        images_per_class: M; must divide ``batch_size``.
        num_workers: processes that load images; 0 loads them in the process that trains, None takes one for each core
            that this process may use, 16 at most, shared among the devices.
        eval_batch_size: images per batch in evaluation.
        validate_on: ``"val"``, the validation part, or ``"test"``, the test part: an epoch that is chosen by it has
            seen the test classes, which inflates the results, as those of most papers are. None to validate on nothing.
        cache_dir: folder for decoded and resized images, so that a division and an evaluation read them instead; see
            :func:`.cache_pixels`. None to decode them each time.
        seed: seed of the batches and of random transforms, which depend on it, the image and the epoch alone.

    Raises:
        InputError: if ``images_per_class`` does not divide ``batch_size``, or a number is out of range.

    Example:
        >>> data = RetrievalDataModule(Glyphs(num_classes=10))  # doctest: +SKIP
        >>> trainer.fit(module, datamodule=data)  # doctest: +SKIP
    """

    def __init__(
        self,
        dataset: SplitSource,
        train_transform: Transform | None = None,
        test_transform: Transform | None = None,
        *,
        batch_size: int = 64,
        images_per_class: int = 4,
        num_workers: int | None = 0,
        eval_batch_size: int = 256,
        validate_on: ValidateOn | None = "val",
        cache_dir: str | Path | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_batch(batch_size, images_per_class)
        if num_workers is not None and num_workers < 0:
            raise InputError(f"num_workers={num_workers} is negative; use 0 or more, or None for one per core")
        if eval_batch_size < 1:
            raise InputError(f"eval_batch_size={eval_batch_size} is too small; use 1 or more")
        if validate_on not in (*get_args(ValidateOn), None):
            raise InputError(f"validate_on={validate_on!r} is unknown; choose 'val', 'test' or None")
        self.dataset = dataset
        self.train_transform = train_transform
        self.test_transform = test_transform
        self.batch_size = batch_size
        self.images_per_class = images_per_class
        self.num_workers = num_workers
        self.eval_batch_size = eval_batch_size
        self.validate_on = validate_on
        self.cache_dir = cache_dir
        self.seed = seed
        self._splits: Splits | None = None

    @property
    def splits(self) -> Splits:
        """The parts of the data set, made when they are first asked for."""
        if self._splits is None:
            self._splits = self.dataset.splits()
        return self._splits

    @property
    def validates(self) -> bool:
        """Whether there is anything to validate on."""
        return self.validate_on == "test" or (self.validate_on == "val" and self.splits.val is not None)

    @property
    def tested(self) -> tuple[RetrievalDataset, ...]:
        """The test images as they are: one data set, or query and gallery."""
        test = self.splits.test
        return test if isinstance(test, tuple) else (test,)

    def prepare_data(self) -> None:
        """Make the parts once per machine, which fills the caches."""
        _ = self.splits

    def setup(self, stage: str | None = None) -> None:
        """Make the parts, if that has not happened yet."""
        _ = self.splits

    def train_dataloader(self) -> Loader:
        """Return batches of P classes x M images of the training part."""
        data = self.splits.train.with_transform(self.train_transform).with_seed(self.seed)
        batches = _Batches(
            data,
            batch_size=self.batch_size,
            images_per_class=self.images_per_class,
            seed=self.seed,
            rank=self.trainer.global_rank if self.trainer else 0,
            world_size=self.trainer.world_size if self.trainer else 1,
        )
        return self._loader(data, batch_sampler=batches)

    def val_dataloader(self) -> Loader | list[Loader]:
        """Return what to validate on in order; an empty list if there is nothing."""
        if self.validate_on == "test":
            return self.test_dataloader()
        return [] if not self.validates or self.splits.val is None else self._evaluation_loader(self.splits.val)

    def test_dataloader(self) -> Loader | list[Loader]:
        """Return the test part in order; [query, gallery] where it has these."""
        loaders = [self._evaluation_loader(part) for part in self.tested]
        return loaders if len(loaders) > 1 else loaders[0]

    def predict_dataloader(self) -> Loader | list[Loader]:
        """Return the same as :meth:`test_dataloader`."""
        return self.test_dataloader()

    def cluster_dataset(self) -> RetrievalDataset:
        """Return the training images in their order under the test transform, for the division's feature pass."""
        return self._under_test_transform(self.splits.train)

    def _evaluation_loader(self, data: RetrievalDataset) -> Loader:
        return self._loader(self._under_test_transform(data), batch_size=self.eval_batch_size)

    def _under_test_transform(self, data: RetrievalDataset) -> RetrievalDataset:
        data = data.with_transform(self.test_transform)
        return data if self.cache_dir is None else cache_pixels(data, self.cache_dir)

    def _loader(self, data: RetrievalDataset, **batching: Any) -> Loader:
        workers = self._count_workers() if self.num_workers is None else self.num_workers
        return DataLoader(
            data,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=torch.cuda.is_available(),
            **batching,
        )

    def _count_workers(self) -> int:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return min(16, cores // (self.trainer.num_devices if self.trainer else 1))


class _Batches(ClusterBatchSampler):
    """The batches of undivided data, which also tell the data what epoch it is."""

    def __init__(self, data: RetrievalDataset, **options: Any) -> None:
        self._data = data
        super().__init__(torch.zeros_like(data.targets), data.targets, **options)

    def set_epoch(self, epoch: int) -> None:
        super().set_epoch(epoch)
        self._data.set_epoch(epoch)
