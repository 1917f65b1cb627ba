"""A LightningModule for metric learning with any backbone, loss and miner of pytorch-metric-learning."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader, DistributedSampler

from divconq_pl.errors import InputError
from divconq_pl.lightning._trainer import processes
from divconq_pl.metrics.neighbours import unit_rows
from divconq_pl.metrics.retrieval import retrieval_metrics

PAPERS_OPTIMIZER = partial(torch.optim.Adam, lr=1e-5, weight_decay=1e-4)


class DivideConquerModule(pl.LightningModule):
    """Embed images by a backbone and a linear layer, trained with any loss and miner of pytorch-metric-learning.

    Without :class:`DivideConquerCallback` it is a plain module for deep metric learning.

    Args:
        backbone: images (B, C, H, W) -> features (B, D); its ``out_features`` is D.
        embedding_dim: width d of the embedding.
        loss: any loss of pytorch-metric-learning; its own parameters (proxies, class centres) are trained too.
        miner: any miner of pytorch-metric-learning.
        optimizer: makes the optimiser from parameter groups, such as ``partial(torch.optim.Adam, lr=1e-5)``.
        lr_scheduler: makes a learning-rate scheduler from the optimiser; stepped once per epoch.
        embedding_lr_factor: learning rate of the embedding layer, as a multiple of the optimiser's.
        loss_lr_factor: learning rate of the loss's own parameters, as a multiple of the optimiser's.
        loss_weight_decay_factor: weight decay of the loss's own parameters, as a multiple of the optimiser's; 0 for the
            boundaries (beta) of a margin loss, which it would pull to zero.
        dropout: share of the features that is zeroed in training (the authors' code: 0.01).
        recall_ks: the K of Recall@K.
        nmi_runs: k-means runs that the NMI of the test set is the mean of (the papers: 10); 0 leaves it out, since it
            clusters into as many clusters as there are classes.
        marp: also report the papers' mARP of the test set, which is not MAP@R.
        reid_draws: galleries that Recall@K of the re-identification protocol is the mean over (usually 10), reported as
            ``test/reid_recall_at_<K>`` beside ``test/recall_at_<K>`` of leave-one-out; 0 leaves it out.

    Example:
        >>> from pytorch_metric_learning import losses
        >>> backbone = nn.Flatten()
        >>> backbone.out_features = 12
        >>> module = DivideConquerModule(backbone, 8, losses.ContrastiveLoss())
        >>> module(torch.zeros(2, 3, 2, 2)).shape
        torch.Size([2, 8])
    """

    def __init__(
        self,
        backbone: nn.Module,
        embedding_dim: int,
        loss: nn.Module,
        miner: nn.Module | None = None,
        *,
        optimizer: Callable[..., Optimizer] = PAPERS_OPTIMIZER,
        lr_scheduler: Callable[[Optimizer], torch.optim.lr_scheduler.LRScheduler] | None = None,
        embedding_lr_factor: float = 1.0,
        loss_lr_factor: float = 1.0,
        loss_weight_decay_factor: float = 1.0,
        dropout: float = 0.0,
        recall_ks: Sequence[int] = (1, 2, 4, 8),
        nmi_runs: int = 0,
        marp: bool = False,
        reid_draws: int = 0,
    ) -> None:
        super().__init__()
        features = getattr(backbone, "out_features", None)
        if not isinstance(features, int):
            raise InputError(
                f"the backbone {type(backbone).__name__} has no out_features; set it to the width of its features"
            )
        if embedding_dim < 1:
            raise InputError(f"embedding_dim={embedding_dim} must be at least 1")
        self.backbone = backbone
        self.dropout = nn.Dropout(dropout)
        self.embedding = nn.Linear(features, embedding_dim)
        self.loss = loss
        self.miner = miner
        self.recall_ks = tuple(recall_ks)
        self.nmi_runs = nmi_runs
        self.marp = marp
        self.reid_draws = reid_draws
        self._make_optimizer = optimizer
        self._make_lr_scheduler = lr_scheduler
        self._embedding_lr_factor = embedding_lr_factor
        self._loss_lr_factor = loss_lr_factor
        self._loss_weight_decay_factor = loss_weight_decay_factor
        self._evaluated: list[list[tuple[Tensor, Tensor]]] = []

    def forward(self, images: Tensor) -> Tensor:
        """Return the embeddings of images, shape (B, d), not normalised."""
        embedded: Tensor = self.embedding(self.dropout(self.backbone(images)))
        return embedded

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return the loss of a batch of images and labels; it is computed in single precision.

        Raises:
            InputError: if the embeddings are no numbers any more, and the miner or the loss cannot do with such.
        """
        images, labels = batch
        embeddings = self(images)
        with torch.autocast(self.device.type, enabled=False):
            embeddings = embeddings.float()
            try:
                pairs = None if self.miner is None else self.miner(embeddings, labels)
                loss: Tensor = self.loss(embeddings, labels, pairs)
            except Exception as error:
                if bool(embeddings.isfinite().all()):
                    raise
                raise InputError(
                    "the embeddings have become NaN or infinite; try a smaller learning rate or full precision, and go "
                    "on from a checkpoint of before"
                ) from error
        self.log("train/loss", loss, prog_bar=True, batch_size=len(images))
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        """Keep the embeddings of a batch until the end of the epoch."""
        self._collect(batch, dataloader_idx)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        """Keep the embeddings of a batch until the end of the epoch."""
        self._collect(batch, dataloader_idx)

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """Return the full, L2-normalised embeddings of a batch, shape (B, d)."""
        images = batch[0] if isinstance(batch, (tuple, list)) else batch
        return unit_rows(self(images))

    def on_validation_epoch_end(self) -> None:
        """Log the retrieval metrics of the validation set."""
        self._log_retrieval("val")

    def on_test_epoch_end(self) -> None:
        """Log the retrieval metrics of the test set."""
        self._log_retrieval("test")

    def configure_optimizers(self) -> Any:
        """Give the backbone, the embedding layer and the loss their own parameter groups."""
        try:
            optimizer = self._make_optimizer(self._parameter_groups())
            if self._make_lr_scheduler is None:
                return optimizer
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": self._make_lr_scheduler(optimizer)}}
        except (TypeError, ValueError) as error:
            raise InputError(f"the optimizer or its lr_scheduler cannot be made: {error}") from error

    def _parameter_groups(self) -> list[dict[str, Any]]:
        probe = self._make_optimizer([nn.Parameter(torch.zeros(1))])
        lr, weight_decay = probe.defaults["lr"], probe.defaults.get("weight_decay", 0.0)
        groups = [
            {"name": "backbone", "params": list(self.backbone.parameters()), "lr": lr},
            {"name": "embedding", "params": list(self.embedding.parameters()), "lr": lr * self._embedding_lr_factor},
            {
                "name": "loss",
                "params": list(self.loss.parameters()),
                "lr": lr * self._loss_lr_factor,
                "weight_decay": weight_decay * self._loss_weight_decay_factor,
            },
        ]
        return [group for group in groups if group["params"]]

    def _collect(self, batch: tuple[Tensor, Tensor], dataloader_idx: int) -> None:
        images, labels = batch
        while len(self._evaluated) <= dataloader_idx:
            self._evaluated.append([])
        self._evaluated[dataloader_idx].append((unit_rows(self(images)), labels))

    def _log_retrieval(self, prefix: str) -> None:
        loaders: Any = self.trainer.val_dataloaders if prefix == "val" else self.trainer.test_dataloaders
        sets = [
            tuple(self._gather(torch.cat(parts), loader) for parts in zip(*rows, strict=True))
            for rows, loader in zip(self._evaluated, loaders if isinstance(loaders, list) else [loaders], strict=False)
        ]
        self._evaluated = []
        if sets and not self.trainer.sanity_checking:
            queries, gallery = sets[0], (sets[1] if len(sets) > 1 else (None, None))
            further: dict[str, Any] = {}
            if prefix == "test":
                further = {"marp": self.marp, "reid_draws": self.reid_draws, "nmi_runs": self.nmi_runs}
            metrics = retrieval_metrics(*queries, *gallery, ks=self.recall_ks, **further)
            for name, value in metrics.items():
                self.log(f"{prefix}/{name}", value, prog_bar=f"{prefix}/{name}" == "val/recall_at_1")

    def _gather(self, rows: Tensor, loader: DataLoader[Any]) -> Tensor:
        """Put the rows of all processes in the order of the data set, unless each process has seen all images."""
        if self.trainer.world_size == 1 or not isinstance(loader.sampler, DistributedSampler):
            return rows
        return processes.gather_strided(self, rows)[: len(loader.dataset)]  # type: ignore[arg-type]
