import re

import pytest
import pytorch_lightning as pl
import torch
from pytorch_metric_learning import losses
from torch.utils.data import DataLoader, TensorDataset

from divconq_pl import DivideConquerCallback, DivideConquerModule
from divconq_pl.errors import InputError
from divconq_pl.report import ReportCallback, write_report


class Stop(pl.Callback):
    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch == 2:
            raise RuntimeError("stopped")


@pytest.fixture
def fit():
    """Train a project that knows nothing of this package's data sets."""

    def fit(*callbacks, **settings):
        labels = torch.arange(12).repeat_interleave(8)
        images = (torch.randn(12, 1, 4, 4)[labels] + 0.3 * torch.randn(96, 1, 4, 4)).sigmoid()
        data = TensorDataset(images, labels)
        backbone = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 16), torch.nn.ReLU())
        backbone.out_features = 16
        trainer = pl.Trainer(
            callbacks=list(callbacks),
            max_epochs=3,
            accelerator="cpu",
            logger=False,
            enable_progress_bar=False,
            enable_checkpointing=False,
            **settings,
        )
        loaders = DataLoader(data, batch_size=16, shuffle=True), DataLoader(data, 96)
        trainer.fit(DivideConquerModule(backbone, 8, losses.ContrastiveLoss()), *loaders)
        return trainer

    return fit


def divide():
    return DivideConquerCallback(split_depth=1, every_n_epochs=1, merge_at=None)


def missing(page):
    return re.findall(r'<section id="(\w+)">\s*<h2>[^<]*</h2>\s*<p class="missing">', page)


def test_a_divided_training_of_another_project_is_reported(fit, tmp_path):
    page = write_report(fit(divide()), tmp_path / "new" / "folder").read_text()
    assert missing(page) == []
    assert "96 training images of 12 classes were divided 2 times, into up to 2 clusters" in page
    assert "Recall@1" in page
    assert page.count("data:image/jpeg") > 20


@pytest.mark.parametrize("callbacks", [(), (divide(),)], ids=["plain", "divided"])
def test_a_callback_writes_it_at_the_end_of_a_fit(fit, tmp_path, callbacks):
    fit(*callbacks, ReportCallback(tmp_path))
    page = (tmp_path / "report.html").read_text()
    assert missing(page) == ([] if callbacks else ["tree", "clusters", "learners"])
    assert len(re.findall(r"R@1, epoch \d", page)) == 3


def test_a_fit_that_fails_leaves_a_report_and_its_own_exception(fit, tmp_path):
    with pytest.raises(RuntimeError, match="stopped"):
        fit(divide(), ReportCallback(tmp_path), Stop())
    assert len(re.findall(r"R@1, epoch \d", (tmp_path / "report.html").read_text())) == 2


def test_a_trainer_that_has_trained_nothing_is_refused(tmp_path):
    with pytest.raises(InputError, match="has trained something"):
        write_report(pl.Trainer(logger=False), tmp_path)
