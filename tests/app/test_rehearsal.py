"""What was built is tried before the training, and a part that does not fit is named."""

import functools
from types import SimpleNamespace

import pytest
import torch
from pytorch_metric_learning import losses, miners
from torch import nn
from toys import trainer

from divconq_pl import DivideConquerModule, InputError
from divconq_pl.app.checks.rehearsal import check_trainer, rehearse
from divconq_pl.data import RetrievalDataModule
from divconq_pl.data.dataset import ArrayDataset, Splits


class Images:
    def splits(self):
        pixels = torch.zeros(12, 8, 8, dtype=torch.uint8).numpy()
        labels = torch.arange(12) // 3
        names = [["a", "b", "c", "d"], ["e", "f", "g", "h"]]
        train, test = (ArrayDataset(pixels, labels, classes, [""] * 12) for classes in names)
        return Splits(train, None, test)


def parts(loss=None, miner=None, channels=1, **transforms):
    backbone = nn.Sequential(nn.Conv2d(channels, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    backbone.out_features = 4
    module = DivideConquerModule(backbone, 8, loss or losses.ContrastiveLoss(), miner)
    return module, RetrievalDataModule(Images(), batch_size=8, **transforms)


def test_a_rehearsal_changes_nothing():
    module, data = parts(losses.CrossBatchMemory(losses.ContrastiveLoss(), 8, 16), miners.DistanceWeightedMiner())
    before = {name: value.clone() for name, value in module.state_dict().items()}
    queue, random = module.loss.queue_idx, torch.get_rng_state()
    rehearse(module, data)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert module.loss.queue_idx == queue
    assert torch.equal(torch.get_rng_state(), random)
    assert module.training
    assert all(parameter.grad is None for parameter in module.parameters())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"channels": 3}, r"^the backbone cannot take images of shape \(1, 8, 8\): .*channels"),
        ({"loss": losses.ArcFaceLoss(3, 8)}, "^the loss cannot take embeddings of 8 numbers and 4 classes: "),
        ({"loss": losses.ArcFaceLoss(4, 9)}, "^the loss cannot take embeddings of 8 numbers and 4 classes: "),
        ({"miner": miners.PairMarginMiner("x")}, "^the miner cannot take embeddings of 8 numbers: "),
        ({"train_transform": functools.partial(int, base=7)}, r"^data\.train_transform cannot transform 'a, ': "),
        ({"test_transform": functools.partial(int, base=7)}, r"^data\.test_transform cannot transform 'a, ': "),
    ],
)
def test_a_rehearsal_tells_which_part_does_not_fit(changes, message):
    with pytest.raises(InputError, match=message):
        rehearse(*parts(**changes))


@pytest.mark.parametrize("setting", ["check_val_every_n_epoch", "limit_test_batches"])
def test_settings_that_a_trainer_stumbles_over_later_are_refused(setting):
    check_trainer(trainer(), {})
    with pytest.raises(InputError, match=rf"^trainer\.{setting}=0 "):
        check_trainer(trainer(**{setting: 0}), {})


def test_processes_do_not_get_a_share_of_the_test_images_each():
    one, two = (SimpleNamespace(world_size=n, check_val_every_n_epoch=1, limit_test_batches=1.0) for n in (1, 2))
    check_trainer(one, {"use_distributed_sampler": True})
    check_trainer(two, {"use_distributed_sampler": False})
    for settings in ({"use_distributed_sampler": True}, {}):  # which is Lightning's default
        with pytest.raises(InputError, match=r"trainer\.use_distributed_sampler=true gives each process only a share"):
            check_trainer(two, settings)
