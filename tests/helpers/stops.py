"""Runs that draw random numbers of all kinds and are saved, or stopped, at every moment."""

import random

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint
from torch import nn
from torch.utils.data import DataLoader
from toys import PlainModule, Vectors, loader, trainer

from divconq_pl import DivideConquerCallback

BATCHES, EPOCHS = 12, 6


class Restless(PlainModule):
    """A module that draws random numbers of all kinds, keeps running statistics and steps a schedule."""

    def __init__(self):
        super().__init__(dropout=0.2)
        self.backbone.insert(1, nn.BatchNorm1d(20))
        self.seen = []

    def validation_step(self, batch, batch_idx):
        self.validated.append((self.global_step, batch_idx))

    def training_step(self, batch, batch_idx):
        z, labels = self(batch[0]), batch[1]
        self.seen.append((self.current_epoch, batch[2].tolist()))
        return self.loss(z * (1 + 0.1 * random.random() + 0.1 * float(np.random.rand())), labels)

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), lr=1e-2)
        return [optimizer], [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS)]


class Stop(Exception):
    """What stops a run."""


class StopAt(pl.Callback):
    """Raise in a hook of a certain step."""

    def __init__(self, hook, step):
        self.hook, self.step = hook, step
        setattr(self, hook, self._stop)

    def _stop(self, trainer, *_):
        in_step = self.hook in ("on_before_backward", "on_after_backward", "on_train_batch_start")
        if trainer.global_step == self.step - in_step:
            raise Stop


class Keep(Checkpoint):
    """Save after every step, every validation and every epoch."""

    def __init__(self, folder):
        self.folder = folder

    def on_train_batch_end(self, trainer, *_):
        trainer.save_checkpoint(self.folder / f"{trainer.global_step:03}-step.ckpt")

    def on_validation_end(self, trainer, *_):
        trainer.save_checkpoint(self.folder / f"{trainer.global_step:03}-validation.ckpt")

    def on_train_epoch_end(self, trainer, *_):
        trainer.save_checkpoint(self.folder / f"{trainer.global_step:03}-epoch.ckpt")


class KeepAtException(Checkpoint):
    """Save what an exception leaves, as ModelCheckpoint does with ``save_on_exception``."""

    def __init__(self, folder):
        self.folder = folder

    def on_exception(self, trainer, *_):
        trainer.save_checkpoint(self.folder / "exception.ckpt")


def fit(
    folder=None, resume=None, *others, subspaces="fixed", workers=0, persistent=False, seed=0, make=Restless, **options
):
    """Train for six epochs: undivided, two divisions, merged, conquered."""
    pl.seed_everything(1)
    module = make()
    pl.seed_everything(seed)  # what a resumed run begins with is not what the stopped one had come to
    settings = {"split_depth": 2, "every_n_epochs": 1, "merge_at": 3, "conquer_at": 4, "subspaces": subspaces}
    divide = DivideConquerCallback(**{**settings, **options.pop("divide", {})})
    divide = options.pop("callback", lambda: divide)()
    keep = [] if folder is None else [Keep(folder)]
    checkpointing = any(isinstance(callback, Checkpoint) for callback in (*others, *keep))
    options = {"max_epochs": EPOCHS, "enable_checkpointing": checkpointing, **options}
    living = {"num_workers": workers, "persistent_workers": persistent}
    train = options.pop("data", loader)(**living)
    val = DataLoader(Vectors(seed=1), batch_size=64, **living)
    callbacks = [*others, divide] if options.pop("before", False) else [divide, *others]
    trainer(*callbacks, *keep, **options).fit(module, train, val, ckpt_path=resume)
    return module, divide
