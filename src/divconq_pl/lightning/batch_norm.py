"""Statistics of batch normalisation that fit the data as a whole."""

from __future__ import annotations

from itertools import islice
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.seed import isolate_rng
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm
from torch.utils.data import BatchSampler, RandomSampler

from divconq_pl.errors import InputError
from divconq_pl.lightning import reading
from divconq_pl.lightning._trainer import loaders
from divconq_pl.lightning._trainer.base import CallbackBase
from divconq_pl.lightning.drawable import find_drawable
from divconq_pl.lightning.feature_pass import evaluating
from divconq_pl.lightning.routing import batch_size


class RenewBatchNorm(reading.UsualReader, CallbackBase):
    """Renew the running statistics of batch normalisation on mixed batches before each validation.

    In a divided training every batch comes from one cluster, and the running averages are those of the last few
    clusters. Here they are computed anew from batches of all training images, as after an average of weights. Frozen
    layers, in evaluation mode during the training, stay as they are, and so do random numbers. Where there is no
    validation it is done at the end of each epoch.

    Args:
        num_batches: batches to look at; the statistics are the mean over them.
        seed: seed of the batches, which are others in each epoch.

    Raises:
        InputError: if ``num_batches`` is less than 1.

    Example:
        >>> trainer = pl.Trainer(callbacks=[RenewBatchNorm()], logger=False, enable_progress_bar=False, max_epochs=20)
    """

    def __init__(self, num_batches: int = 20, seed: int = 0) -> None:
        super().__init__()
        if num_batches < 1:
            raise InputError(f"num_batches={num_batches} leaves nothing to compute statistics of; use 1 or more")
        self._num_batches = num_batches
        self._seed = seed
        self._layers: list[BatchNorm] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note which layers are trained, for a run that goes on from the end of an epoch."""
        self._note_layers(pl_module)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Note which layers are trained."""
        if batch_idx == 0:
            self._note_layers(pl_module)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Renew the statistics with which the validation is made, and the checkpoint after it."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._renew(trainer, pl_module)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Renew the statistics, unless a validation has had it done."""
        if not trainer.num_val_batches or not any(trainer.num_val_batches):
            self._renew(trainer, pl_module)

    def _note_layers(self, module: nn.Module) -> None:
        parts = [part for part in module.modules() if isinstance(part, BatchNorm)]
        self._layers = [part for part in parts if part.training and part.track_running_stats]

    @torch.no_grad()
    def _renew(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if not self._layers:
            return
        momenta = [layer.momentum for layer in self._layers]
        users = loaders.get_train_loader(trainer)
        loader = find_drawable(users, len(users.dataset)).loader  # type: ignore[arg-type]
        generator = torch.Generator().manual_seed(self._seed + trainer.current_epoch)
        images = RandomSampler(loader.dataset, generator=generator)  # type: ignore[arg-type]
        size = batch_size(loader)
        drawn = BatchSampler(images, size, drop_last=len(images) >= size)
        chosen = list(islice(drawn, self._num_batches))
        batches = loaders.with_batches(loader, chosen, persistent_workers=False, generator=None)
        kept = [{name: buffer.clone() for name, buffer in layer.named_buffers()} for layer in self._layers]
        with evaluating(module), isolate_rng(), trainer.precision_plugin.forward_context():
            for layer in self._layers:
                layer.reset_running_stats()
                layer.momentum = None  # the plain mean over the batches
                layer.train()
            try:
                for batch in batches:
                    batch = trainer.strategy.batch_to_device(trainer.precision_plugin.convert_input(batch))
                    module(self.batch_inputs(batch))
            except BaseException:  # what is saved now are the statistics of the last whole batch
                for layer, buffers in zip(self._layers, kept, strict=True):
                    layer.load_state_dict(buffers, strict=False)
                raise
            finally:
                for layer, momentum in zip(self._layers, momenta, strict=True):
                    layer.momentum = momentum
