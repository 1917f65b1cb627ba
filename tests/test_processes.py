"""Two processes divide, draw and train alike."""

import pytest
import pytorch_lightning as pl
import torch
from pytorch_metric_learning import losses
from torch import nn
from torch.utils.data import DataLoader
from toys import CLASSES, WIDTH, PlainModule, Vectors, loader, trainer

from divconq_pl import DivideConquerCallback, DivideConquerModule


class Witness(pl.Callback):
    """Write down on every process which images came when, and what it all ended in."""

    def __init__(self, divide, folder):
        self.divide, self.folder, self.batches = divide, folder, []

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        self.batches.append((self.divide.learner, batch[2].tolist()))

    def on_train_end(self, trainer, module):
        record = {
            "batches": self.batches,
            "weights": {name: value.detach().clone() for name, value in module.named_parameters()},
            "assignment": self.divide.division.assignment,
            "history": [summary["sizes"] for summary in self.divide.history],
        }
        torch.save(record, self.folder / f"{trainer.world_size}-{trainer.global_rank}.pt")


def fit(folder, devices, subspaces):
    torch.manual_seed(0)
    divide = DivideConquerCallback(
        split_depth=2, every_n_epochs=1, warmup_epochs=0, conquer_at=3, subspaces=subspaces, images_per_class=2
    )
    options = {"devices": devices, "strategy": "ddp_spawn" if devices > 1 else "auto", "max_epochs": 4}
    trainer(divide, Witness(divide, folder), **options).fit(PlainModule(), loader(batch_size=16 // devices))
    return [torch.load(folder / f"{devices}-{rank}.pt", weights_only=True) for rank in range(devices)]


@pytest.mark.parametrize("subspaces", ["fixed", "learned"])
def test_two_processes_agree(tmp_path, subspaces):
    first, second = fit(tmp_path, 2, subspaces)
    assert [learner for learner, _ in first["batches"]] == [learner for learner, _ in second["batches"]]
    per_epoch = len(first["batches"]) // 4
    last_divided = slice(2 * per_epoch, 3 * per_epoch)  # the epoch whose division is recorded
    for (learner, images), (_, others) in zip(
        first["batches"][last_divided], second["batches"][last_divided], strict=True
    ):
        assert len(images) == len(others) == 8
        counts = torch.unique(Vectors().targets[first["assignment"] == learner], return_counts=True)[1]
        if int((counts >= 2).sum()) >= 8:  # enough classes for two batches of 4 classes x 2 images
            assert not set(images) & set(others)
    assert torch.equal(first["assignment"], second["assignment"])
    assert first["history"] == second["history"]
    for name, value in first["weights"].items():
        assert torch.equal(value, second["weights"][name]), name
    # The division of the first epoch comes from the same weights as with one process, so it must be the same.
    (alone,) = fit(tmp_path, 1, subspaces)
    assert alone["history"][0] == first["history"][0]
    assert len(Vectors()) == len(first["assignment"]) == CLASSES * 8


class Evaluation(pl.Callback):
    """Write down the metrics of every process."""

    def __init__(self, folder):
        self.folder = folder

    def on_test_end(self, trainer, module):
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        torch.save(metrics, self.folder / f"{trainer.world_size}-{trainer.global_rank}.pt")


def test_metrics_are_those_of_one_process(tmp_path):
    def evaluate(distributed, devices):
        torch.manual_seed(0)
        backbone = nn.Sequential(nn.Linear(12, 20), nn.ReLU())
        backbone.out_features = 20
        module = Pairs(backbone, WIDTH, losses.ContrastiveLoss())
        data = Vectors(torch.arange(CLASSES).repeat_interleave(5)[:-1])  # 119 images, which two cannot share evenly
        trainer(
            Evaluation(tmp_path),
            devices=devices,
            strategy="ddp_spawn" if devices > 1 else "auto",
            use_distributed_sampler=distributed,
        ).test(module, DataLoader(data, batch_size=16), verbose=False)
        return [torch.load(tmp_path / f"{devices}-{rank}.pt", weights_only=True) for rank in range(devices)]

    (alone,) = evaluate(False, 1)
    assert 0.1 < alone["test/map_at_r"] < 0.999
    for distributed in (False, True):
        for metrics in evaluate(distributed, 2):
            assert metrics == pytest.approx(alone, abs=1e-5)


class Pairs(DivideConquerModule):
    def test_step(self, batch, batch_idx, dataloader_idx=0):
        super().test_step(batch[:2], batch_idx, dataloader_idx)
