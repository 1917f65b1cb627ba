"""Two processes divide, draw and train alike."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
import two_processes
from pytorch_metric_learning import losses
from torch import nn
from torch.utils.data import DataLoader
from toys import CLASSES, WIDTH, PlainModule, Vectors, loader, same, trainer
from two_processes import NAMES, glyphs, pictures

from divconq_pl import DivideConquerCallback, DivideConquerModule, InputError

pytestmark = pytest.mark.slow

SUBSPACES = pytest.mark.parametrize("subspaces", ["fixed", "learned"])


@pytest.fixture(autouse=True)
def _own_port(monkeypatch):
    """Let every start of processes look for a port of its own, though the Trainer notes the last one."""
    monkeypatch.setenv("MASTER_PORT", "0")
    monkeypatch.delenv("MASTER_PORT")


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


def fit(folder, devices):
    torch.manual_seed(0)
    divide = DivideConquerCallback(
        split_depth=2, every_n_epochs=1, warmup_epochs=0, conquer_at=3, subspaces="learned", images_per_class=2
    )
    options = {"devices": devices, "strategy": "ddp_spawn" if devices > 1 else "auto", "max_epochs": 4}
    trainer(divide, Witness(divide, folder), **options).fit(PlainModule(), loader(batch_size=16 // devices))
    return [torch.load(folder / f"{devices}-{rank}.pt", weights_only=True) for rank in range(devices)]


def test_two_processes_agree(tmp_path):
    """Those that the Trainer itself spawns; what follows below is about processes that run the script again."""
    first, second = fit(tmp_path, 2)
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
    (alone,) = fit(tmp_path, 1)
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
    for metrics in evaluate(True, 2):  # two_processes.py has the images seen by all of them
        assert metrics == pytest.approx(alone, abs=1e-5)


class Pairs(DivideConquerModule):
    def test_step(self, batch, batch_idx, dataloader_idx=0):
        super().test_step(batch[:2], batch_idx, dataloader_idx)


# Everything below looks at what one run of two_processes.py under the strategy ddp has written down.


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Run the script, after a training by one process whose checkpoints it goes on from."""
    folder = tmp_path_factory.mktemp("two")
    (folder / "one").mkdir()
    two_processes.record(folder / "one" / "straight", folder / "one", devices=1)
    set_by_launchers = {"MASTER_PORT", "MASTER_ADDR", "WORLD_SIZE", "LOCAL_RANK", "NODE_RANK"}
    environment = {name: value for name, value in os.environ.items() if name not in set_by_launchers}
    environment |= {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    script = Path(two_processes.__file__)
    done = subprocess.run([sys.executable, script, folder], env=environment, capture_output=True, text=True)
    assert (folder / "refused-0.txt").exists(), done.stderr
    return folder


def read(path):
    return [torch.load(f"{path}-{rank}.pt", weights_only=True) for rank in range(2)]


@SUBSPACES
def test_under_ddp_all_processes_train_the_same_learner_on_other_images(written, subspaces):
    first, second = read(written / subspaces / "straight")
    assert first["learners"] == second["learners"]
    assert set(first["learners"]) == {None, 0, 1, 2, 3}
    assert torch.equal(first["assignment"], second["assignment"])
    assert first["sizes"] == second["sizes"]
    assert same(first["weights"], second["weights"])
    if subspaces == "learned":
        assert same(first["masks"], second["masks"])
        assert any((mask != 1).any() for mask in first["masks"].values())
    disjoint = 0
    for learner, (epoch, images), (_, others) in zip(
        first["learners"], first["batches"], second["batches"], strict=True
    ):
        assert len(set(images)) == len(set(others)) == 8
        if learner is not None and epoch == 2:  # whose division is the recorded one, but for what epoch 3 has moved
            counts = torch.unique(Vectors().targets[sorted({*images, *others})], return_counts=True)[1]
            disjoint += not set(images) & set(others) and bool((counts >= 2).all())
    assert disjoint >= 9


@pytest.mark.parametrize("subspaces", NAMES)
def test_under_ddp_a_stopped_training_ends_where_one_ends_that_never_stopped(written, subspaces):
    straight = read(written / subspaces / "straight")
    for name in NAMES[subspaces]:
        for expected, resumed in zip(straight, read(written / subspaces / name), strict=True):
            assert resumed["batches"] == expected["batches"][-len(resumed["batches"]) :], name
            assert len(resumed["batches"]) == 72 - int(name[:3])
            assert same(resumed["weights"], expected["weights"]), name
            assert torch.equal(resumed["assignment"], expected["assignment"])
            if subspaces == "learned":
                assert same(resumed["masks"], expected["masks"])


def test_under_ddp_the_packages_own_module_and_data_give_the_metrics_of_one_process(written):
    first, second = read(written / "pictures")
    assert first["val"] == second["val"]
    assert first["test"] == second["test"]
    assert same(first["weights"], second["weights"])
    assert all(not set(a) & set(b) for a, b in zip(first["seen"], second["seen"], strict=True))
    module, data = pictures(), glyphs(16)
    module.load_state_dict(first["weights"])
    (validated,) = trainer().validate(module, datamodule=data, verbose=False)
    (tested,) = trainer().test(module, datamodule=data, verbose=False)
    assert 0 < tested["test/map_at_r"] < 1
    assert first["test"] == pytest.approx(tested, abs=1e-6)
    assert first["val"] == pytest.approx(validated, abs=1e-6)


def test_the_number_of_processes_may_change_between_epochs_only(written):
    for resumed in read(written / "of-one"):
        assert len(resumed["batches"]) == 60
    said, _ = (resumed["said"] for resumed in read(written / "of-one"))
    assert any("random numbers of 1 process(es) and there are 2 now" in line for line in said)
    assert any("processes=2 instead of 1" in line for line in said)
    assert all("processes=2 instead of 1" in (written / f"refused-{rank}.txt").read_text() for rank in range(2))
    two_processes.record(written / "of-two", resume=written / "fixed" / "012-epoch.ckpt", devices=1)
    alone = torch.load(f"{written / 'of-two'}-0.pt", weights_only=True)
    assert len(alone["batches"]) == 60
    assert any("processes=1 instead of 2" in line for line in alone["said"])
    with pytest.raises(InputError, match="processes=1 instead of 2"):
        two_processes.record(written / "of-two", resume=written / "fixed" / "025-step.ckpt", devices=1)


def test_one_process_makes_the_same_first_division(written):
    alone = torch.load(written / "one" / "straight-0.pt", weights_only=True)
    two, _ = read(written / "fixed" / "straight")
    assert len(alone["sizes"]) == len(two["sizes"]) == 3
    assert sum(alone["sizes"][0]) == sum(two["sizes"][0])
