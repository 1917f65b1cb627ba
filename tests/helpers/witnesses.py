"""A witness of what every batch was, and modules of different habits to be trained under its eyes."""

from functools import partial

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers.logger import Logger
from pytorch_metric_learning import losses
from torch import Tensor, nn
from torch.utils.data import DataLoader
from toys import CLASSES, PER_CLASS, WIDTH, PlainModule, Vectors, loader, trainer

from divconq_pl import DivideConquerCallback, DivideConquerModule

BATCHES = CLASSES * PER_CLASS // 16
SUBSPACES = pytest.mark.parametrize("subspaces", ["fixed", "learned"])
OURS_FIRST = pytest.mark.parametrize("ours_first", [True, False], ids=["ours first", "ours last"])


class Unique(DivideConquerCallback):
    """Two learners from the second epoch on; there must never be a copy of it."""

    def __init__(self, **settings):
        super().__init__(**{"split_depth": 1, "every_n_epochs": 1, "merge_at": None, **settings})

    def __deepcopy__(self, memo):
        raise AssertionError("the callback was copied")


class Witness(pl.Callback):
    """Write down what every training batch was, and which rows of the embedding layer it gave a gradient."""

    def __init__(self, callback):
        self.callback = callback
        self.batches = []

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if isinstance(batch, dict):
            batch = next(iter(batch.values()))
        elif not isinstance(batch[0], Tensor):
            batch = batch[0]
        division = self.callback.division
        self.batches.append(
            {
                "epoch": trainer.current_epoch,
                "phase": self.callback.stage.phase,
                "learner": self.callback.learner,
                "images": batch[2].tolist(),
                "assignment": None if division is None else division.assignment,
                "rows": [],
            }
        )

    def on_before_backward(self, trainer, module, loss):
        gradient = self.weight(module).grad
        self.gradient = torch.zeros(()) if gradient is None else gradient.clone()

    def on_after_backward(self, trainer, module):
        change = self.weight(module).grad - self.gradient
        self.batches[-1]["rows"] += change.abs().flatten(1).sum(1).nonzero().flatten().tolist()

    @staticmethod
    def weight(module):
        return (module.embedding if hasattr(module, "embedding") else module.head).weight


def fit(callback, module, *others, train=None, val=None, ours_first=True, resume=None, **options):
    """Train, and return the trainer and what the batches were."""
    witness = Witness(callback)
    callbacks = [callback, *others] if ours_first else [*others, callback]
    fitted = trainer(*callbacks, witness, **{"max_epochs": 4, **options})
    fitted.fit(module, loader() if train is None else train, val, ckpt_path=resume)
    return fitted, witness.batches


def assert_divided(batches, epochs, subspaces="fixed", learners=2):
    """Check that in these epochs, and in no other, batches come from single clusters and train their learners."""
    assert sorted({b["epoch"] for b in batches if b["phase"] == "divided"}) == list(epochs)
    for batch in batches:
        if batch["phase"] != "divided":
            assert batch["learner"] is None
            continue
        assert {int(batch["assignment"][i]) for i in batch["images"]} == {batch["learner"]}
        if subspaces == "fixed":
            width = WIDTH // learners
            own = range(batch["learner"] * width, (batch["learner"] + 1) * width)
            assert set(batch["rows"]) <= set(own)
    for epoch in epochs:
        of_epoch = [b for b in batches if b["epoch"] == epoch]
        assert {b["learner"] for b in of_epoch} == set(range(learners))
    assert any(b["rows"] for b in batches if b["phase"] == "divided")


def validation():
    return DataLoader(Vectors(seed=1), batch_size=64)


class Logging(PlainModule):
    """Logs its loss, computed in single precision at least, and optimises what has a gradient."""

    def forward(self, x):
        embeddings = super().forward(x)
        return embeddings.float() if embeddings.dtype == torch.bfloat16 else embeddings

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.log("loss", loss, on_step=False, on_epoch=True, batch_size=len(batch[0]))
        return loss

    def configure_optimizers(self):
        return torch.optim.Adam([p for p in self.parameters() if p.requires_grad], lr=1e-2)


class Ours(DivideConquerModule):
    """The package's own module on data whose items also carry their index."""

    def __init__(self, **settings):
        backbone = nn.Sequential(nn.Linear(12, 20), nn.ReLU())
        backbone.out_features = 20
        optimizer = partial(torch.optim.Adam, lr=1e-3)
        super().__init__(backbone, WIDTH, losses.ContrastiveLoss(), optimizer=optimizer, **settings)

    def training_step(self, batch, batch_idx):
        return super().training_step(batch[:2], batch_idx)

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        super().validation_step(batch[:2], batch_idx, dataloader_idx)

    def test_step(self, batch, batch_idx, dataloader_idx=0):
        super().test_step(batch[:2], batch_idx, dataloader_idx)


class Normalised(PlainModule):
    """Has buffers that change in training."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(12, 20), nn.BatchNorm1d(20), nn.ReLU())


class Memory(Logger):
    """Keeps what is logged."""

    name, version = "memory", 0

    def __init__(self):
        super().__init__()
        self.rows = []

    def log_metrics(self, metrics, step=None):
        self.rows.append((step, dict(metrics)))

    def log_hyperparams(self, *args, **kwargs):
        pass

    def of(self, name):
        return [(step, metrics[name]) for step, metrics in self.rows if name in metrics]


class History(pl.Callback):
    """Keeps the epochs' metrics."""

    def __init__(self, name):
        self.name, self.values = name, []

    def on_train_epoch_end(self, trainer, module):
        self.values.append(trainer.callback_metrics[self.name].item())


def close(a, b):
    return a.keys() == b.keys() and all(torch.allclose(a[name], b[name], atol=1e-6) for name in a)


def masks_of(callback):
    """Return the values of learned masks, one row each."""
    return torch.stack(list(callback.subspaces.state().values()))
