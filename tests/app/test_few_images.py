"""Few images train with the defaults, and what was asked for stays."""

import warnings

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from divconq_pl.app.few_images import fit_to_few_images
from divconq_pl.core.sampling import ClusterBatchSampler
from divconq_pl.data import ArrayDataset, RetrievalDataModule, Splits


def adapted(classes, images, asked=(), batch_size=64, depth=2, **trainer):
    """Return batch size and split depth for so many training classes of so many images, and what was said."""
    labels = np.arange(classes).repeat(images)
    train = ArrayDataset(
        np.zeros((len(labels), 1, 1), np.uint8), labels, [str(c) for c in range(classes)], map(str, labels)
    )
    test = ArrayDataset(np.zeros((4, 1, 1), np.uint8), [0, 0, 1, 1], ["x", "y"], "1234")

    class Given:
        def splits(self):
            return Splits(train, None, test)

    data = RetrievalDataModule(Given(), batch_size=batch_size)
    divide = None if depth is None else {"split_depth": depth}
    cfg = OmegaConf.create({"data": {"batch_size": batch_size}, "divide": divide, "trainer": {"devices": 1, **trainer}})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit_to_few_images(cfg, data, set(asked))
    assert data.batch_size == cfg.data.batch_size
    return data.batch_size, cfg.divide and cfg.divide.split_depth, [str(warning.message) for warning in caught]


def test_many_images_keep_the_defaults():
    assert adapted(100, 10) == (64, 2, [])
    assert adapted(16, 16) == (64, 2, [])  # 256 images: 4 batches for 4 learners


@pytest.mark.parametrize(
    ("classes", "images", "batch", "depth"),
    [
        (20, 10, 32, 2),  # half of 40 classes of 10 photographs
        (10, 6, 16, 1),  # half of 20 of 6
        (4, 5, 16, 0),
        (2, 2, 16, 0),
        (60, 2, 16, 2),
        (2, 100, 32, 2),
    ],
)
def test_few_images_have_smaller_batches_then_fewer_learners(classes, images, batch, depth):
    size, levels, said = adapted(classes, images)
    assert (size, levels) == (batch, depth)
    (line,) = said
    assert line.startswith(f"{classes * images} training images of {classes} classes are few")
    assert f"data.batch_size={batch} in place of 64" in line
    assert ("divide.split_depth" in line) == (depth != 2)
    # Each learner has a batch, which is what the training asks for.
    labels = np.arange(classes).repeat(images)
    length = max(1, len(labels) // size)
    assert length >= 2**levels
    ClusterBatchSampler(torch.tensor(labels * 0), torch.tensor(labels), batch_size=size)


def test_what_was_asked_for_stays():
    assert adapted(10, 6, asked={"data.batch_size"})[:2] == (64, 0)
    assert adapted(10, 6, asked={"divide.split_depth"})[:2] == (16, 2)
    assert adapted(10, 6, asked={"divide.split_depth", "data.batch_size"}) == (64, 2, [])


def test_a_plain_training_has_the_batches_that_a_divided_one_has():
    assert adapted(10, 6, asked={"divide.split_depth"}, depth=2)[0] == adapted(10, 6)[0] == 16
    assert adapted(10, 6, depth=None)[:2] == (32, None)  # all 60 images fit in no batch of 64


def test_several_processes_share_an_epoch():
    assert adapted(32, 16, devices=4)[:2] == (32, 2)
