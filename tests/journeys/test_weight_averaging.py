"""The callback together with Lightning's averages of the weights, which version 2.6 brought."""

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader
from toys import WIDTH, PlainModule, Vectors, same, weights
from witnesses import SUBSPACES, Normalised, Unique, assert_divided, close, fit, validation

averaging = pytest.importorskip("pytorch_lightning.callbacks.weight_averaging")


class MovingAverage(pl.Callback):
    """The exponential moving average of the user's own weights and buffers, the slow and obvious way."""

    def __init__(self, decay):
        self.decay, self.average, self.validated = decay, None, []

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        new = weights(module)
        if self.average is None:
            self.average = new
        for name, value in self.average.items():
            value.copy_(value * self.decay + new[name] * (1 - self.decay))

    def on_validation_batch_start(self, trainer, module, *_):
        self.validated.append(close(weights(module), self.average))


@SUBSPACES
@pytest.mark.parametrize("make", [PlainModule, Normalised])
def test_a_moving_average_is_of_the_users_weights(subspaces, make, tmp_path):
    module, reference, callback = make(), MovingAverage(0.8), Unique(subspaces=subspaces)
    fitted, batches = fit(callback, module, averaging.EMAWeightAveraging(decay=0.8), reference, val=validation())
    assert_divided(batches, [1, 2, 3], subspaces)
    assert reference.validated == [True] * 3 * 4
    assert close(weights(module), reference.average)
    fitted.save_checkpoint(tmp_path / "average.ckpt")
    assert close(weights(make.load_from_checkpoint(tmp_path / "average.ckpt", weights_only=True)), reference.average)


class Centred(PlainModule):
    """Has a buffer as wide as the embedding, which an average of misaligned tensors would overwrite with a mask."""

    def __init__(self):
        super().__init__()
        self.register_buffer("centre", torch.zeros(WIDTH))


@SUBSPACES
def test_averaging_may_come_before_the_division(subspaces):
    callback = Unique(subspaces=subspaces)
    _, batches = fit(callback, PlainModule(), averaging.EMAWeightAveraging(decay=0.8), ours_first=False)
    assert_divided(batches, [1, 2, 3], subspaces)


@SUBSPACES
def test_an_averaged_training_is_resumed_where_it_stopped(tmp_path, subspaces):
    initial = weights(Normalised())

    def train(epochs, resume=None):
        module, callback = Normalised(), Unique(subspaces=subspaces, warmup_epochs=0)
        module.load_state_dict(initial)
        options = {"max_epochs": epochs, "resume": resume, "train": DataLoader(Vectors(), batch_size=16)}
        keep = ModelCheckpoint(tmp_path / f"{epochs}{resume is None}", save_last=True, save_on_train_epoch_end=True)
        fit(callback, module, averaging.WeightAveraging(), keep, enable_checkpointing=True, **options)
        return weights(module), keep.last_model_path

    straight, _ = train(4)
    _, checkpoint = train(2)
    resumed, _ = train(4, checkpoint)
    assert same(straight, resumed)
