"""The best epoch goes along when a run continues in another folder."""

from contextlib import nullcontext

import pytest
import torch
from torch.utils.data import DataLoader
from toys import PlainModule, Vectors, loader, trainer

from divconq_pl.app.saving import CarriedCheckpoint


class Scored(PlainModule):
    """A module that logs scores that were thought out beforehand."""

    def __init__(self, scores):
        super().__init__()
        self.scores = scores

    def validation_step(self, batch, batch_idx):
        self.log("score", self.scores[self.current_epoch])


def train(folder, scores, resume=None):
    options = {"monitor": "score", "mode": "max", "filename": "best", "enable_version_counter": False}
    best = CarriedCheckpoint(folder, **options)
    last = CarriedCheckpoint(folder, filename="last", enable_version_counter=False)
    fitted = trainer(best, last, max_epochs=len(scores), enable_checkpointing=True)
    fitted.fit(Scored(scores), loader(), DataLoader(Vectors(seed=1), batch_size=64), ckpt_path=resume)
    return best, torch.load(folder / "best.ckpt", weights_only=True)["epoch"]


def test_the_best_epoch_of_the_first_part_goes_along(tmp_path):
    train(tmp_path / "first", [0.1, 0.9, 0.3])
    best, epoch = train(tmp_path / "second", [0.1, 0.9, 0.3, 0.5], tmp_path / "first" / "last.ckpt")
    assert (float(best.best_model_score), epoch) == (pytest.approx(0.9), 1)
    assert best.best_model_path == str(tmp_path / "second" / "best.ckpt")


def test_a_better_epoch_takes_its_place(tmp_path):
    train(tmp_path / "first", [0.1, 0.6, 0.3])
    best, epoch = train(tmp_path / "second", [0.1, 0.6, 0.3, 0.7], tmp_path / "first" / "last.ckpt")
    assert (float(best.best_model_score), epoch) == (pytest.approx(0.7), 3)
    assert torch.load(tmp_path / "first" / "best.ckpt", weights_only=True)["epoch"] == 1


@pytest.mark.parametrize("damaged", [True, False])
def test_a_part_whose_best_epoch_is_gone_begins_anew(tmp_path, damaged):
    train(tmp_path / "first", [0.1, 0.9])
    if damaged:
        (tmp_path / "first" / "best.ckpt").write_bytes(b"half a file")
    else:
        (tmp_path / "first" / "best.ckpt").unlink()
    with pytest.warns(match="cannot be read") if damaged else nullcontext():
        best, epoch = train(tmp_path / "second", [0.1, 0.9, 0.3], tmp_path / "first" / "last.ckpt")
    assert (float(best.best_model_score), epoch) == (pytest.approx(0.3), 2)
