"""Statistics of batch normalisation are those of all training images before a validation."""

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import DataLoader
from toys import PlainModule, Vectors, loader, same, trainer, weights

from divconq_pl import DivideConquerCallback, InputError, RenewBatchNorm


class Normalised(PlainModule):
    def __init__(self, frozen=False):
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(12, 20), nn.BatchNorm1d(20), nn.ReLU())
        self.frozen = frozen

    def on_train_batch_start(self, batch, batch_idx):
        self.backbone[1].train(not self.frozen)


class Look(pl.Callback):
    """Compare the statistics with those of all images at each validation."""

    def __init__(self):
        self.errors = []

    def on_validation_batch_start(self, trainer, module, *_):
        with torch.no_grad():
            values = module.backbone[0](Vectors().values)
        layer = module.backbone[1]
        self.errors.append(float((layer.running_mean - values.mean(0)).abs().max() / values.std(0).max()))
        assert not layer.training
        assert layer.momentum == 0.1


def fit(*callbacks, module=None, val=True, epochs=4, **options):
    pl.seed_everything(0)
    module = Normalised() if module is None else module
    divide = DivideConquerCallback(split_depth=2, every_n_epochs=1, merge_at=None)
    validation = DataLoader(Vectors(seed=1), batch_size=192) if val else None
    trainer(divide, *callbacks, max_epochs=epochs, **options).fit(module, loader(), validation)
    return module


def test_statistics_are_those_of_all_images_when_it_is_validated():
    with_it, without = Look(), Look()
    fit(RenewBatchNorm(num_batches=12), with_it)
    fit(without)
    assert len(with_it.errors) == 4
    assert max(with_it.errors) < 0.02
    assert max(without.errors) > 0.1


def test_it_changes_nothing_but_the_statistics():
    """Divisions look at features in evaluation mode, so only what comes before the first of them is the same."""

    def trained(*callbacks):
        statistics = ("running_mean", "running_var", "num_batches_tracked")
        found = weights(fit(*callbacks, epochs=1))
        return {name: value for name, value in found.items() if not name.endswith(statistics)}

    assert same(trained(RenewBatchNorm()), trained())


def test_without_validation_it_is_done_at_the_end_of_each_epoch():
    module = fit(RenewBatchNorm(num_batches=12), val=False)
    with torch.no_grad():
        values = module.backbone[0](Vectors().values)
    assert (module.backbone[1].running_mean - values.mean(0)).abs().max() < 0.02 * values.std(0).max()


def test_frozen_layers_stay_as_they_are():
    module = fit(RenewBatchNorm(), module=Normalised(frozen=True))
    assert torch.equal(module.backbone[1].running_mean, torch.zeros(20))


def test_a_module_without_batch_norm_is_left_alone():
    def train(*callbacks):
        pl.seed_everything(0)
        return weights(fit(*callbacks, module=PlainModule()))

    assert same(train(RenewBatchNorm()), train())


def test_no_batches_are_refused():
    with pytest.raises(InputError, match="num_batches=0"):
        RenewBatchNorm(0)


def test_fewer_images_than_a_batch_are_enough():
    data = Vectors()
    data.targets, data.values = data.targets[:40], data.values[:40]
    module = Normalised()
    trainer(RenewBatchNorm(), max_epochs=2).fit(module, DataLoader(data, batch_size=64))
    with torch.no_grad():
        values = module.backbone[0](data.values)
    assert torch.allclose(module.backbone[1].running_mean, values.mean(0), atol=1e-5)


def test_an_exception_leaves_the_statistics_of_the_last_batch():
    class Failing(RenewBatchNorm):
        def batch_inputs(self, batch):
            raise RuntimeError("no such image")

    class Before(pl.Callback):
        def on_train_batch_end(self, trainer, module, *_):
            self.mean = module.backbone[1].running_mean.clone()

    module, before = Normalised(), Before()
    with pytest.raises(RuntimeError, match="no such image"):
        fit(before, Failing(), module=module)
    assert torch.equal(module.backbone[1].running_mean, before.mean)


def test_it_is_done_after_resuming_at_the_end_of_an_epoch(tmp_path):
    class Keep(pl.Callback):
        def on_train_batch_end(self, trainer, *_):
            if trainer.global_step == 36:
                trainer.save_checkpoint(tmp_path / "36.ckpt")

    straight = fit(RenewBatchNorm(), Keep(), epochs=4)
    module = Normalised()
    divide = DivideConquerCallback(split_depth=2, every_n_epochs=1, merge_at=None)
    validation = DataLoader(Vectors(seed=1), batch_size=192)
    trainer(divide, RenewBatchNorm(), max_epochs=4).fit(module, loader(), validation, ckpt_path=tmp_path / "36.ckpt")
    assert same(weights(straight), weights(module))
