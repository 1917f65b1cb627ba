"""Values of the wrong kind are refused by the key that the user sets."""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import pytest
import torch
from omegaconf import OmegaConf
from pytorch_metric_learning import losses, miners
from torch import nn
from toys import trainer

from divconq_pl import DivideConquerModule, InputError
from divconq_pl.app.arguments import check_arguments, check_values
from divconq_pl.app.rehearsal import check_trainer, rehearse
from divconq_pl.data import RetrievalDataModule
from divconq_pl.data.dataset import ArrayDataset, Splits


class Part:
    def __init__(
        self,
        number: float = 1.0,
        *,
        whole: int = 1,
        text: str | Path = "",
        flag: bool = False,
        choice: Literal["a"] | None = None,
        several: Sequence[int | None] = (),
        entries: dict[str, int] | None = None,
        made: Callable[[], int] | None = None,
        unknown=0.5,
        free=None,
    ):
        pass


HERE = f"{__name__}.Part"


def check(**values):
    check_values(OmegaConf.create({"part": {"_target_": HERE, **values}}))


@pytest.mark.parametrize(
    ("name", "right", "wrong", "message"),
    [
        ("number", [1, 0.5, float("nan")], ["x", None, True, [1], {}], "a number"),
        ("whole", [1, -1], ["x", 1.5, True, None], "a whole number"),
        ("whole", [], [2**70], "has more than 64 bits"),
        ("text", ["x", ""], [2024], r"a text; write part\.text=\\'2024\\' to have it as a text"),
        ("flag", [True, False, 0, 1], ["yes", 2, None], "true or false"),
        ("choice", ["a", None], [True, ["a"]], "a text or null"),
        ("several", [[], [1, None]], ["x", [1, "x"], 1], "a list"),
        ("entries", [None, {"a": 1}], ["x", 1], "a mapping or null"),
        ("made", [None, {"_target_": "os.getcwd"}], [0.5, {"a": 1}, "x"], "a mapping with _target_ or null"),
        ("unknown", [1, 2.5, None], ["x", [], True], "a number or null"),
        ("free", ["x", 1, None, []], [], ""),
    ],
)
def test_values_are_of_the_kind_that_the_type_hint_or_default_says(name, right, wrong, message):
    for value in right:
        check(**{name: value})
    for value in wrong:
        with pytest.raises(InputError, match=rf"^part\.{name}=.*{message}$"):
            check(**{name: value})


def test_entries_of_mappings_are_named():
    with pytest.raises(InputError, match=r"^part\.entries\.b='x' must be a whole number$"):
        check(entries={"a": 1, "b": "x"})


def test_the_key_is_named_that_the_value_comes_from():
    config = {"size": "x", "inner": {"side": "${size}"}, "part": {"_target_": HERE, "whole": "${inner.side}"}}
    with pytest.raises(InputError, match=r"^size='x' must be a whole number$"):
        check_values(OmegaConf.create(config))


def test_what_is_not_given_yet_or_cannot_be_known_is_left_to_whoever_builds_it():
    check(whole="???")
    check_values(OmegaConf.create({"n": "???", "part": {"_target_": HERE, "whole": "${n}"}}))
    check_values(OmegaConf.create({"part": {"_target_": "no.such.thing", "whole": "x"}}))


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_is_one_that_numpy_takes(seed):
    with pytest.raises(InputError, match=rf"^part\.seed={seed} is no seed; use a whole number from 0 to 4294967295$"):
        check(seed=seed)


def test_arguments_of_a_function():
    def function(*, runs: int = 0):
        pass

    check_arguments(function, OmegaConf.create({"m": {"runs": 1, "ks": [1]}}), "m", ks=list[int])
    for wrong in ({"runs": "x"}, {"ks": 5}):
        with pytest.raises(InputError, match=rf"^m\.{next(iter(wrong))}="):
            check_arguments(function, OmegaConf.create({"m": wrong}), "m", ks=list[int])


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
    check_trainer(trainer())
    with pytest.raises(InputError, match=rf"^trainer\.{setting}=0 "):
        check_trainer(trainer(**{setting: 0}))


def test_a_miner_that_breaks_on_diverged_embeddings_is_not_to_blame():
    def broken(*_):
        raise RuntimeError("broken")

    module, _ = parts()
    module.miner = nn.Module()
    module.miner.forward = broken
    batch = torch.rand(4, 1, 8, 8), torch.tensor([0, 0, 1, 1])
    with pytest.raises(RuntimeError, match="broken"):
        module.training_step(batch, 0)
    nn.init.constant_(module.embedding.weight, float("nan"))
    with pytest.raises(InputError, match="the embeddings have become NaN or infinite"):
        module.training_step(batch, 0)


def test_an_optimizer_that_cannot_be_made_is_said():
    module, _ = parts()
    module._make_optimizer = functools.partial(torch.optim.Adam, lr=-1)
    with pytest.raises(InputError, match="the optimizer or its lr_scheduler cannot be made: Invalid learning rate: -1"):
        module.configure_optimizers()
