"""A LightningModule for metric learning with any backbone, loss and miner of pytorch-metric-learning."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader, DistributedSampler

from divconq_pl.errors import InputError
from divconq_pl.lightning._trainer import logged, processes
from divconq_pl.metrics.neighbours import unit_rows
from divconq_pl.metrics.retrieval import retrieval_metrics

PAPERS_OPTIMIZER = partial(torch.optim.Adam, lr=1e-5, weight_decay=1e-4)
PARTS = ("backbone", "embedding", "loss")
"""The parts of a module that may have settings of the optimiser of their own."""


class DivideConquerModule(pl.LightningModule):
    """Embed images by a backbone and a linear layer, trained with any loss and miner of pytorch-metric-learning.

    Without :class:`.DivideConquerCallback` it is a plain module for deep metric learning.

    Args:
        backbone: images (B, C, H, W) -> features (B, D); its ``out_features`` is D.
        embedding_dim: width d of the embedding.
        loss: any loss of pytorch-metric-learning; its own parameters (proxies, class centres) are trained too.
        miner: any miner of pytorch-metric-learning.
        optimizer: makes the optimiser from parameter groups, such as ``partial(torch.optim.Adam, lr=1e-5)``. Adam,
            AdamW and SGD are fused, which is faster and gives the same results within rounding, unless ``fused``,
            ``foreach``, ``capturable`` or ``differentiable`` is set.
        lr_scheduler: makes a learning-rate scheduler from the optimiser; stepped once per epoch.
        parameter_groups: settings of the optimiser for single parts, ``"backbone"``, ``"embedding"`` or ``"loss"``, in
            place of its own, such as ``{"loss": {"lr": 0.1, "weight_decay": 0.0}}``; None for a setting keeps the
            optimiser's own. Weight decay would pull the boundaries (beta) of a margin loss to zero.
        dropout: share of the features that is zeroed in training (the authors' code: 0.01).
        recall_ks: the K of Recall@K, which validation and test log beside MAP@R and R-precision.
        map_at_r: False leaves out MAP@R and R-precision, about half of the time where classes are large.

    Raises:
        InputError: if the backbone does not say how wide its features are, the embedding has no coordinate, or
            ``parameter_groups`` names an unknown part; when the optimiser is made, if it has no such setting.

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
        parameter_groups: Mapping[str, Mapping[str, float | None]] | None = None,
        dropout: float = 0.0,
        recall_ks: Sequence[int] = (1, 2, 4, 8),
        map_at_r: bool = True,
    ) -> None:
        super().__init__()
        features = getattr(backbone, "out_features", None)
        if not isinstance(features, int):
            raise InputError(
                f"the backbone {type(backbone).__name__} has no out_features; set it to the width of its features"
            )
        if embedding_dim < 1:
            raise InputError(f"embedding_dim={embedding_dim} must be at least 1")
        if unknown := [name for name in parameter_groups or {} if name not in PARTS]:
            raise InputError(f"there is no part parameter_groups.{unknown[0]}; a module has: {', '.join(PARTS)}")
        self.backbone = backbone
        self.dropout = nn.Dropout(dropout)
        self.embedding = nn.Linear(features, embedding_dim)
        self.loss = loss
        self.miner = miner
        self.recall_ks = tuple(recall_ks)
        self.map_at_r = map_at_r
        self._make_optimizer = optimizer
        self._make_lr_scheduler = lr_scheduler
        self._settings = {part: dict((parameter_groups or {}).get(part) or {}) for part in PARTS}
        self._evaluated: list[list[tuple[Tensor, Tensor]]] = []

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Load a checkpoint as any LightningModule does, given the parts that none holds; or call ``divconq_pl.load``.

        Raises:
            InputError: if ``backbone``, ``embedding_dim`` or ``loss`` is not given, which are no plain values.
        """
        missing = [name for name in ("backbone", "embedding_dim", "loss") if name not in kwargs]
        if missing and cls is DivideConquerModule:
            raise InputError(
                f"a checkpoint holds no {', '.join(missing)}; give them as load_from_checkpoint(PATH, backbone=..., "
                f"embedding_dim=..., loss=...), or call divconq_pl.load({str(checkpoint_path)!r}), which needs none of "
                "them to embed images with a checkpoint of train.py"
            )
        return super().load_from_checkpoint(checkpoint_path, *args, **kwargs)

    def forward(self, images: Tensor) -> Tensor:
        """Return the embeddings of images, shape (B, d), not normalised."""
        embedded: Tensor = self.embedding(self.dropout(self.backbone(images)))
        return embedded

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return the loss of a batch of images and labels; it is computed in single precision.

        Raises:
            InputError: if the miner or the loss fails because the embeddings have become NaN or infinite.
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
                    "on from an earlier checkpoint"
                ) from error
        logged.log_step(self, "train/loss", loss, prog_bar=True, batch_size=len(images))
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
        """Give the backbone, the embedding layer and the loss a parameter group each.

        Raises:
            InputError: if the optimiser or its scheduler cannot be made, or has no such setting.
        """
        try:
            optimizer = self._make_optimizer(self._make_parameter_groups())
            if self._make_lr_scheduler is None:
                return optimizer
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": self._make_lr_scheduler(optimizer)}}
        except InputError:
            raise
        except (TypeError, ValueError) as error:
            raise InputError(f"the optimizer or its lr_scheduler cannot be made: {error}") from error

    def _make_parameter_groups(self) -> list[dict[str, Any]]:
        trial = self._make_optimizer([nn.Parameter(torch.zeros(1))])
        groups = []
        for part, settings in self._settings.items():
            given = {name: value for name, value in settings.items() if value is not None}
            if unknown := [name for name in given if name not in trial.defaults]:
                raise InputError(
                    f"parameter_groups.{part}.{unknown[0]} is not a setting of {type(trial).__name__}, which has: "
                    f"{', '.join(sorted(trial.defaults))}"
                )
            parameters = list(self.get_submodule(part).parameters())
            fused = {"fused": True} if _can_be_fused(trial, parameters) else {}
            groups.append({"name": part, "params": parameters, **fused, **given})
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
            metrics = retrieval_metrics(*queries, *gallery, ks=self.recall_ks, map_at_r=self.map_at_r)
            for name, value in metrics.items():
                self.log(f"{prefix}/{name}", value, prog_bar=f"{prefix}/{name}" == "val/recall_at_1")

    def _gather(self, rows: Tensor, loader: DataLoader[Any]) -> Tensor:
        """Put the rows of all processes in the order of the data set, unless each process has seen all images."""
        if self.trainer.world_size == 1 or not isinstance(loader.sampler, DistributedSampler):
            return rows
        return processes.gather_strided(self, rows)[: len(loader.dataset)]  # type: ignore[arg-type]


def _can_be_fused(optimizer: Optimizer, parameters: Sequence[nn.Parameter]) -> bool:
    """Tell whether an optimiser has a fused step for these parameters, and its maker has not decided on that.

    It is fused by its groups rather than as a whole, since Lightning clips no gradients of an optimiser that as a whole
    takes them scaled.
    """
    decided = [optimizer.defaults.get(name) for name in ("fused", "foreach", "capturable", "differentiable")]
    return (
        type(optimizer) in (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD)
        and decided[0] is None
        and not any(decided)
        and all(p.is_floating_point() and p.device.type in ("cpu", "cuda") for p in parameters)
    )
