import pytest
import pytorch_lightning as pl
import torch
from pytorch_metric_learning import losses
from torch.utils.data import DataLoader, TensorDataset

from divconq_pl import DivideConquerCallback, DivideConquerModule, Stage
from divconq_pl.lightning.journal import Journal


class Witness(DivideConquerModule):
    """Writes down by itself which learner had which loss."""

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.seen.append((self.trainer.current_epoch, self.divide.learner, float(loss)))
        return loss


@pytest.fixture
def fit(tmp_path):
    def fit(epochs=4, ckpt_path=None, accumulate=1, **settings):
        torch.manual_seed(0)
        labels = torch.arange(12).repeat_interleave(8)
        data = TensorDataset(torch.randn(12, 12)[labels] + 0.3 * torch.randn(96, 12), labels)
        backbone = torch.nn.Sequential(torch.nn.Linear(12, 16), torch.nn.ReLU())
        backbone.out_features = 16
        module = Witness(backbone, 8, losses.ContrastiveLoss())
        module.seen = []
        module.divide = divide = DivideConquerCallback(split_depth=1, every_n_epochs=1, merge_at=3, **settings)
        trainer = pl.Trainer(
            callbacks=[divide, pl.callbacks.ModelCheckpoint(tmp_path, save_top_k=-1, filename="{epoch}")],
            max_epochs=epochs,
            accelerator="cpu",
            logger=False,
            enable_progress_bar=False,
            accumulate_grad_batches=accumulate,
        )
        trainer.fit(module, DataLoader(data, batch_size=16, shuffle=True), DataLoader(data, 96), ckpt_path=ckpt_path)
        return divide, module.seen

    return fit


@pytest.mark.parametrize("accumulate", [1, 2])
def test_every_epoch_has_the_mean_loss_of_each_learner(fit, accumulate):
    divide, seen = fit(accumulate=accumulate)
    assert [noted["epoch"] for noted in divide.journal.epochs] == [0, 1, 2, 3]
    for epoch, noted in enumerate(divide.journal.epochs):
        learners = {-1 if k is None else k for e, k, _ in seen if e == epoch}
        assert set(noted["losses"]) == learners
        for learner in learners:
            of_learner = [loss for e, k, loss in seen if e == epoch and learner == (-1 if k is None else k)]
            assert noted["batches"][learner] == len(of_learner)
            assert noted["losses"][learner] == pytest.approx(sum(of_learner) / len(of_learner), rel=1e-5)


def test_stages_metrics_rates_and_seconds_are_noted(fit):
    noted = fit()[0].journal.epochs
    assert [(n["phase"], n["clusters"]) for n in noted] == [
        ("undivided", 1),
        ("divided", 2),
        ("divided", 2),
        ("merged", 2),
    ]
    assert all(0 <= n["metrics"]["val/recall_at_1"] <= 1 for n in noted)
    assert all(n["rates"] == {"backbone": 1e-5, "embedding": 1e-5} for n in noted)
    assert all(n["seconds"] >= n["seconds_validation"] > 0 for n in noted)


def test_the_notes_of_a_resumed_training_are_those_of_an_unbroken_one(fit, tmp_path):
    whole = fit()[0].journal.epochs
    resumed = fit(ckpt_path=tmp_path / "epoch=1.ckpt")[0].journal.epochs
    keep = ("epoch", "phase", "clusters", "batches")
    assert [[n[k] for k in keep] for n in resumed] == [[n[k] for k in keep] for n in whole]
    for one, other in zip(resumed, whole, strict=True):
        assert one["losses"] == pytest.approx(other["losses"], rel=1e-5)


def test_a_step_that_returns_no_loss_is_no_obstacle():
    journal = Journal()
    journal.begin_epoch(0, Stage("undivided", 0), 1)
    for outputs in (None, {}, {"loss": torch.zeros(3)}, torch.tensor(2.0), {"loss": torch.tensor([4.0])}):
        journal.note_batch(None, outputs)
    assert journal.end_epoch({})["losses"] == {-1: 3.0}


def test_an_epoch_that_a_checkpoint_has_left_open_is_closed_when_the_next_begins():
    journal, later = Journal(), Journal()
    journal.begin_epoch(0, Stage("undivided", 0), 1)
    journal.note_batch(None, torch.tensor(2.0))
    later.load_state(journal.state())
    later.begin_epoch(1, Stage("divided", 1), 2)
    later.note_batch(1, torch.tensor(3.0))
    later.end_epoch({"all": 0.1})
    assert [(n["epoch"], n["losses"]) for n in later.epochs] == [(0, {-1: 2.0}), (1, {1: 3.0})]


def test_the_images_nearest_to_the_centres_are_kept_of_the_last_division(fit):
    divide = fit()[0]
    *earlier, last = divide.history
    assert not any(summary["central"] for summary in earlier)
    assert [len(images) for images in last["central"]] == [min(16, size) for size in last["sizes"]]
    for learner, images in enumerate(last["central"]):
        assert set(divide.division.assignment[images].tolist()) == {learner}
    assert [sum(row) for row in last["flow"]] == earlier[-1]["sizes"]
    assert [sum(column) for column in zip(*last["flow"], strict=True)] == last["sizes"]
