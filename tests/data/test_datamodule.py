"""The data module: what each loader gives, in which order, under which transform."""

from __future__ import annotations

import os
import pickle
import random
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from divconq_pl.data import (
    ArrayDataset,
    BatchTransform,
    Glyphs,
    RetrievalDataModule,
    Splits,
    glyph_test,
    glyph_train,
    hold_out,
    image_test,
    image_train,
    split_by_class,
)
from divconq_pl.errors import InputError


def make(classes: int, images: int = 4, first: int = 0) -> ArrayDataset:
    """Make images of 2 x 2 pixels that all differ: image i has the value first + i."""
    n = classes * images
    pixels = np.arange(first, first + n, dtype=np.uint8)[:, None, None].repeat(2, 1).repeat(2, 2)
    targets = torch.arange(classes).repeat_interleave(images)
    return ArrayDataset(pixels, targets, [f"{first}/{c}" for c in range(classes)], [str(i) for i in range(n)])


@dataclass
class Source:
    """Count how often the parts are made."""

    parts: Splits
    calls: int = 0

    def splits(self) -> Splits:
        self.calls += 1
        return self.parts


def source(**changes: object) -> Source:
    return Source(Splits(**{"train": make(6), "val": make(3, first=100), "test": make(4, first=200), **changes}))


def value(image: Image.Image) -> Tensor:
    return torch.tensor([float(np.asarray(image)[0, 0])])


def shifted(image: Image.Image) -> Tensor:
    return value(image) + 1000


def module(data: Source, **arguments: int) -> RetrievalDataModule:
    return RetrievalDataModule(data, shifted, value, **{"batch_size": 8, "images_per_class": 2, **arguments})


@pytest.mark.parametrize("num_workers", [0, 1])
def test_training_batches_are_p_classes_of_m_images_under_the_training_transform(num_workers: int) -> None:
    loader = module(source(), num_workers=num_workers).train_dataloader()
    batches = list(loader)
    assert len(batches) == len(loader) == 3
    for images, labels in batches:
        assert torch.bincount(labels, minlength=6).sort().values.tolist() == [0, 0, 2, 2, 2, 2]
        # Image i has the value 1000 + i and is of class i // 4.
        assert ((images[:, 0].long() - 1000) // 4).tolist() == labels.tolist()
    assert torch.cat([images for images, _ in batches]).unique().numel() == 24


def test_workers_are_as_many_as_cores_unless_told(monkeypatch: pytest.MonkeyPatch) -> None:
    data = module(source(), num_workers=None)
    for cores, devices, workers in ((6, 1, 6), (6, 4, 1), (64, 1, 16), (64, 8, 8), (1, 2, 0)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, cores=cores: set(range(cores)), raising=False)
        data.trainer = SimpleNamespace(num_devices=devices, global_rank=0, world_size=1)
        for loader in (data.train_dataloader(), data.val_dataloader()):
            assert loader.num_workers == workers
            assert loader.persistent_workers == (workers > 0)


def test_epochs_differ_and_seeds_repeat() -> None:
    def epochs(seed: int) -> list[list[int]]:
        loader = module(source(), seed=seed).train_dataloader()
        drawn = []
        for epoch in range(2):
            loader.batch_sampler.sampler.set_epoch(epoch)  # as a Trainer does
            drawn.append(torch.cat([labels for _, labels in loader]).tolist())
        return drawn

    first, second = epochs(0)
    assert first != second
    assert epochs(0) == [first, second]
    assert epochs(1)[0] != first


def test_evaluation_keeps_order_and_uses_the_test_transform() -> None:
    data = module(source(), eval_batch_size=5)
    for loader, part in ((data.val_dataloader(), 100), (data.test_dataloader(), 200), (data.predict_dataloader(), 200)):
        images = torch.cat([images for images, _ in loader])
        assert images[:, 0].tolist() == [part + i for i in range(len(images))]
    assert [len(labels) for _, labels in data.test_dataloader()] == [5, 5, 5, 1]


def test_query_and_gallery_are_two_loaders() -> None:
    gallery = make(4, first=200)
    query = make(4, images=1, first=240).with_classes([])
    query = ArrayDataset(query._images, torch.arange(4), gallery.classes, list("abcd"))
    data = module(source(test=(query, gallery)))
    assert [[len(labels) for _, labels in loader] for loader in data.test_dataloader()] == [[4], [16]]
    assert len(data.predict_dataloader()) == 2


@pytest.mark.parametrize(
    ("validate_on", "has_val", "first"), [("val", True, 100), ("test", True, 200), ("test", False, 200)]
)
def test_validation_runs_on_the_part_asked_for(validate_on: str, has_val: bool, first: int) -> None:
    data = module(source() if has_val else source(val=None), validate_on=validate_on)
    assert data.validates
    assert torch.cat([images for images, _ in data.val_dataloader()])[0] == first


def test_validation_on_query_and_gallery_has_two_loaders() -> None:
    data = module(source(test=(make(4, first=200), make(4, images=2, first=200))), validate_on="test")
    assert [len(loader.dataset) for loader in data.val_dataloader()] == [16, 8]
    assert [len(part) for part in data.tested] == [16, 8]


@pytest.mark.parametrize(("validate_on", "has_val"), [("val", False), (None, True), (None, False)])
def test_there_may_be_nothing_to_validate_on(validate_on: str | None, has_val: bool) -> None:
    data = module(source() if has_val else source(val=None), validate_on=validate_on)
    assert not data.validates
    assert data.val_dataloader() == []


def test_cluster_dataset_is_the_training_part_in_order_under_the_test_transform() -> None:
    data = module(source())
    images, labels = zip(*data.cluster_dataset(), strict=True)
    assert torch.cat(images).tolist() == list(range(24))
    assert list(labels) == data.splits.train.targets.tolist()
    assert data.train_dataloader().dataset.targets.tolist() == list(labels)


def test_parts_are_made_once() -> None:
    data = source()
    used = module(data)
    used.prepare_data()
    used.setup("fit")
    used.setup("test")
    used.train_dataloader()
    assert data.calls == 1


class Recorder(pl.LightningModule):
    """Note which labels come by."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.epochs: dict[int, list[int]] = {}
        self.validated: list[int] = []
        self.tested: dict[int, int] = {}

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        self.epochs.setdefault(self.current_epoch, []).extend(batch[1].tolist())
        return self.layer(batch[0]).mean()

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.validated += batch[1].tolist()

    def test_step(self, batch: list[Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        self.tested[dataloader_idx] = self.tested.get(dataloader_idx, 0) + len(batch[1])

    def predict_step(self, batch: list[Tensor], batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        return batch[1]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


@pytest.mark.filterwarnings("ignore")
def test_trainer_goes_through_all_parts() -> None:
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = pl.Trainer(max_epochs=2, accelerator="cpu", num_sanity_val_steps=0, enable_model_summary=False, **quiet)
    data, model = module(source()), Recorder()
    trainer.fit(model, datamodule=data)
    trainer.test(model, datamodule=data, verbose=False)
    assert len(model.epochs[0]) == len(model.epochs[1]) == 24
    assert model.epochs[0] != model.epochs[1]
    assert len(model.validated) == 2 * 12
    assert model.tested == {0: 16}
    assert torch.cat(trainer.predict(model, datamodule=data)).tolist() == data.splits.test.targets.tolist()

    without, model = module(source(val=None, test=(make(4, first=200), make(4, first=200)))), Recorder()
    trainer = pl.Trainer(max_epochs=1, accelerator="cpu", enable_model_summary=False, **quiet)
    trainer.fit(model, datamodule=without)
    trainer.test(model, datamodule=without, verbose=False)
    assert model.validated == []
    assert model.tested == {0: 16, 1: 16}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 66, "images_per_class": 4}, "batch_size=66 .*images_per_class=4.*64 or batch_size=68"),
        ({"num_workers": -1}, "num_workers=-1"),
        ({"eval_batch_size": 0}, "eval_batch_size=0"),
        ({"validate_on": "tset"}, "validate_on='tset' is unknown; choose 'val', 'test' or None"),
    ],
)
def test_arguments_out_of_range(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        module(source(), **arguments)


def test_parts_that_cannot_work() -> None:
    with pytest.raises(InputError, match="validation part has 1 class"):
        source(val=make(1))
    with pytest.raises(InputError, match="query and gallery must have the same"):
        source(test=(make(3), make(4)))
    with pytest.raises(InputError, match="labels run from 0 to 2, but 2 classes"):
        ArrayDataset(np.zeros((3, 2, 2), np.uint8), [0, 1, 2], ["a", "b"], ["", "", ""])


def test_data_set_can_be_sent_to_a_worker(tmp_path: Path) -> None:
    data = Glyphs(tmp_path, num_classes=8).splits().train.with_transform(glyph_train())
    copy = pickle.loads(pickle.dumps(data))
    assert copy[0][0].shape == (1, 32, 32)
    assert copy.name_of(3) == data.name_of(3)


@pytest.mark.parametrize("channels", [1, 3])
def test_glyph_transforms(tmp_path: Path, channels: int) -> None:
    data = Glyphs(tmp_path, num_classes=20).splits().train
    plain, test = glyph_train(augment=False, channels=channels), glyph_test(channels=channels)
    images = torch.stack([test(data.image(i)) for i in range(len(data))])
    assert images.shape[1:] == (channels, 32, 32)
    assert abs(float(images.mean())) < 0.2
    assert 0.8 < float(images.std()) < 1.2
    assert torch.equal(plain(data.image(0)), images[0])
    augmented = glyph_train(channels=channels)
    assert not torch.equal(augmented(data.image(0)), augmented(data.image(0)))
    with pytest.raises(InputError, match="channels=2"):
        glyph_train(channels=2)


def test_image_transforms() -> None:
    image = Image.new("RGB", (64, 48), (124, 116, 104))  # ImageNet's mean
    for transform in (image_train(32), image_train(32, color=True), image_test(32)):
        assert transform(image).shape == (3, 32, 32)
    assert image_test(32)(image).abs().max() < 0.02

    # Resize(256) + CenterCrop(224) of a 256 x 512 image is its middle.
    wide = np.random.default_rng(0).integers(0, 256, (256, 512, 3), dtype=np.uint8)
    middle = torch.from_numpy(wide[16:240, 144:368]).permute(2, 0, 1) / 255
    expected = (middle - torch.tensor([0.485, 0.456, 0.406])[:, None, None]) / torch.tensor([0.229, 0.224, 0.225])[
        :, None, None
    ]
    torch.testing.assert_close(image_test()(Image.fromarray(wide)), expected)


@pytest.mark.parametrize(("classes", "folds"), [(8, 4), (10, 4), (7, 3), (4, 2)])
def test_folds_hold_every_class_out_once(classes, folds):
    data = make(classes)
    held = []
    for fold in range(folds):
        train, val = hold_out(data, fold=fold, num_folds=folds)
        assert set(train.classes).isdisjoint(val.classes)
        assert len(train) + len(val) == len(data)
        assert len(val.classes) >= 2
        held += val.classes
    assert held == data.classes


def test_a_drawn_share_of_the_classes_is_held_out():
    train, val = hold_out(make(10), 0.3, seed=1)
    assert (len(train.classes), len(val.classes)) == (7, 3)
    assert hold_out(make(10), 0.3, seed=2)[1].classes != val.classes
    assert hold_out(make(10), 0)[1] is None


@pytest.mark.parametrize("val_fraction", [0, 0.2, 0.5])
def test_the_test_classes_do_not_depend_on_what_is_for_validation(val_fraction: float) -> None:
    data = make(20)
    test = split_by_class(data, 0.2, 0.3, seed=3).test.classes
    assert split_by_class(data, val_fraction, 0.3, seed=3).test.classes == test
    held = []
    for fold in range(4):
        parts = split_by_class(data, val_fraction, 0.3, fold=fold, num_folds=4, seed=3)
        assert parts.test.classes == test
        assert len(parts.train) + len(parts.val) + len(parts.test) == len(data)
        held += parts.val.classes
    assert held == [name for name in data.classes if name not in test]


@pytest.mark.parametrize("wrong", [{"fold": 4}, {"fold": -1}, {"fold": 0, "num_folds": 1}, {"fold": 0, "num_folds": 6}])
def test_folds_that_do_not_exist_are_refused(wrong):
    with pytest.raises(InputError, match="fold"):
        hold_out(make(10), **wrong)


def noisy(image: Image.Image) -> Tensor:
    return value(image) + torch.rand(1) + random.random()


def drawn(epoch: int, workers: int, order: list[int] | None = None, transform=noisy) -> list[float]:
    """Load images under a random transform, by workers that live on from epoch to epoch."""
    data = make(4).with_transform(transform).with_seed(3)
    loader = DataLoader(
        data, batch_size=1, sampler=order or range(8), num_workers=workers, persistent_workers=workers > 0
    )
    for e in range(epoch + 1):
        data.set_epoch(e)
        items = [float(x) for x, _ in loader]
    return items


def by_numpy(image):
    return torch.tensor(np.random.rand())


class Albumented:
    """Draws from a generator of its own, which begins anywhere, as a Compose of albumentations does."""

    def __init__(self):
        self.generator = np.random.default_rng()

    def set_random_seed(self, seed):
        self.generator = np.random.default_rng(seed)

    def __call__(self, image):
        return torch.tensor(self.generator.random())


PIPELINE = Albumented()


def through_a_function(image):
    return (lambda: PIPELINE(image))()


def through_an_argument(pipelines, image):
    return pipelines["train"](image)


def numbers_themselves(images, uniform):
    return images[:, 0, 0, 0].long() + uniform[:, 0]


TRANSFORMS = pytest.mark.parametrize(
    "transform",
    [
        *(noisy, by_numpy, Albumented(), through_a_function, partial(through_an_argument, {"train": Albumented()})),
        BatchTransform(numbers_themselves, draws=1),
    ],
    ids=["torch", "numpy", "its own", "its own in a function", "its own in an argument", "a batch at a time"],
)


@TRANSFORMS
@pytest.mark.parametrize("workers", [0, 2])
def test_augmentation_depends_on_seed_image_and_epoch_alone(workers, transform):
    assert drawn(1, workers, transform=transform) == drawn(1, 0, transform=transform)
    some = drawn(1, workers, [5, 2], transform=transform)
    assert some == [drawn(1, 0, transform=transform)[5], drawn(1, 0, transform=transform)[2]]
    assert not set(drawn(1, workers, transform=transform)) & set(drawn(0, 0, transform=transform))


@TRANSFORMS
def test_augmentation_leaves_the_random_numbers_of_the_training_alone(transform):
    data = make(4).with_transform(transform).with_seed(3)
    state, python, numpy = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    assert data[1][0] != data[2][0]
    assert (np.random.get_state()[1] == numpy).all()
    assert torch.equal(torch.get_rng_state(), state)
    assert random.getstate() == python


@pytest.mark.parametrize(("part", "named"), [("val", "validation"), ("test", "test")], ids=["validation", "test"])
def test_what_is_trained_on_is_not_evaluated_on(part: str, named: str) -> None:
    with pytest.raises(InputError, match=f"3 classes of the training part are also in the {named} part.*: 0/0, 0/1, "):
        source(**{part: make(3)})
    # A class without images in the part is none of it.
    assert len(source(**{part: make(3, first=100).with_classes(["100/0", "100/1", "0/0"])}).parts.train) == 24
