"""Try a training out on one batch before its first step: the layer, the narrowed step, the features, the labels."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor
from torch.utils.data import DataLoader

from divconq_pl.core.sampling import ClusterBatchSampler
from divconq_pl.errors import InputError
from divconq_pl.lightning._trainer import loaders, randomness, trial
from divconq_pl.lightning.data_check import check_labels
from divconq_pl.lightning.dividing import Divider
from divconq_pl.lightning.embedding import Way, by_training_step
from divconq_pl.lightning.embedding_layer import Side
from divconq_pl.lightning.feature_pass import (
    check_same_images,
    extract_features,
    is_out_of_memory,
    saying_why_workers_died,
)
from divconq_pl.lightning.learners import Learners
from divconq_pl.lightning.reading import UsualReader, place_of, tensors_in
from divconq_pl.lightning.routing import BatchRouter, batch_size
from divconq_pl.lightning.tracing import Trace, tracing
from divconq_pl.lightning.undoing import undone


@dataclass(frozen=True)
class Rehearsal:
    """One batch of a training, tried out; nothing of it is left behind but what was found out.

    Parameters, buffers, attributes of the module and of what it holds, random numbers and loggers are afterwards what
    they were, and the training's own batches are not drawn from.

    Attributes:
        trainer: the fit that is about to take its first step.
        router: knows the user's training loader.
        learners: are attached to the user's module here.
        divider: knows what is clustered.
        reader: how batches give inputs and labels; is told where the labels are if that is found out.
    """

    trainer: pl.Trainer
    router: BatchRouter
    learners: Learners
    divider: Divider
    reader: UsualReader

    @property
    def pl_module(self) -> pl.LightningModule:
        """The user's module."""
        return self.trainer.lightning_module

    @cached_property
    def loader(self) -> DataLoader[Any]:
        """The user's training loader."""
        return self.router.drawable(self.trainer).loader

    @cached_property
    def labels(self) -> Tensor | None:
        """Classes of the training images, None if only batches tell."""
        return self.router.labels(self.trainer)

    def attach(self, split_depth: int, depth: int) -> None:
        """Find the embedding layer by what the losses are given, attach the learners, and try a narrowed step.

        Args:
            split_depth: greatest depth.
            depth: the depth at which the training begins, or goes on.

        Raises:
            InputError: if there is no such layer, or nothing can be narrowed.
        """
        self.reader.labels_at = None
        with self._on_trial():
            batch = self._training_batch()
            trace = None if batch is None else self._trace(batch)
            found = self.learners.find(self.pl_module, trace)
            if trace is not None:
                self._look_for_labels(batch, trace)
            del trace
        self.learners.attach(self.trainer, self.pl_module, split_depth, depth, found)
        if batch is not None and found.is_traced and split_depth:
            self._narrow_a_step(batch)

    def find_way(self) -> Way:
        """Find out how a batch becomes features, and look at its labels.

        Raises:
            InputError: if there is not one row of features, and one class, for each item.
        """
        indices = self._indices()
        images = self.divider.images(self.trainer)
        if images is not None:
            check_same_images(images, self.loader.dataset)
        with self._on_trial():
            with saying_why_workers_died():
                batch = trial.load_batch(self.loader, indices, images)
            if self.labels is None:
                check_labels(self.reader.batch_labels(batch), len(indices), "a batch gives")
            batch = trial.transfer(self.trainer, batch)
            return self._choose_way(batch, len(indices), self.divider.side)

    # How it is done.

    @contextmanager
    def _on_trial(self) -> Iterator[None]:
        numbers = randomness.random_state(self.trainer)
        data = getattr(self.trainer, "datamodule", None)
        try:
            state: list[Any] = [] if data is None else [vars(data)]
            if not self.pl_module.automatic_optimization:  # it may have its optimisers from elsewhere
                state += [optimizer.state for optimizer in self.trainer.optimizers]
            with undone(self.pl_module, *state), trial.silenced(self.trainer, self.pl_module):
                yield
        finally:
            randomness.set_random_state(self.trainer, numbers)

    def _indices(self) -> list[int]:
        """Return the images of a batch such as divided epochs will have."""
        size, count = batch_size(self.loader), len(self.loader.dataset)  # type: ignore[arg-type]
        if self.labels is None:  # neighbours often are of a class
            return [min(count - 1, i * count // size // 2 * 2 + i % 2) for i in range(min(size, count))]
        assignment = torch.zeros_like(self.labels)
        sampler = ClusterBatchSampler(
            assignment, self.labels, batch_size=size, images_per_class=self.router.images_per_class, length=1
        )
        return next(iter(sampler))

    def _training_batch(self) -> Any:
        with saying_why_workers_died():
            batch = trial.load_training_batch(self.trainer, self.loader, self._indices())
        return None if batch is None else trial.transfer(self.trainer, batch)

    def _trace(self, batch: Any) -> Trace | None:
        """Trace a step as it is; what goes wrong in it is none of our business, and will be said by itself."""
        try:
            with tracing(self.pl_module, self.learners.find_heads(self.pl_module)) as trace:
                trace.loss = trial.run_training_step(self.trainer, self.pl_module, batch)
        except Exception as error:
            rank_zero_info(
                f"{type(self.pl_module).__name__}.training_step cannot be tried out before the training "
                f"({type(error).__name__}: {error}); it is looked at in the first divided epoch"
            )
            return None
        if not isinstance(trace.loss, Tensor) or not trace.loss.requires_grad:
            trace.loss = None
        return None if trace.loss is None and not trace.given else trace

    def _look_for_labels(self, batch: Any, trace: Trace) -> None:
        places = [place for labels in trace.labels if (place := place_of(labels, batch)) is not None]
        # A batch that the hooks of its transfer put together anew has them elsewhere before.
        if places and loaders.is_only_loader(self.trainer) and not self._is_rearranged():
            self.reader.labels_at = places[0]

    def _is_rearranged(self) -> bool:
        data = getattr(self.trainer, "datamodule", None)
        return any(  # in one of the two packages that Lightning comes as, whichever it is
            not getattr(getattr(holder, hook), "__module__", "").startswith(("pytorch_lightning.", "lightning."))
            for holder in (self.pl_module, data)
            if holder is not None
            for hook in ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")
        )

    def _narrow_a_step(self, batch: Any) -> None:
        """Try a narrowed step, and mask the embedding if something consumes all of it."""
        try:
            outside = self._gradient_outside(batch)
        except InputError:
            raise
        except Exception as error:
            raise InputError(
                f"training_step of {type(self.pl_module).__name__} fails where its losses are given a part of the "
                f"embedding, which {self.learners.name!r} gives ({type(error).__name__}: {error}); use "
                "subspaces='zeroed', which keeps the width, or a smaller split_depth"
            ) from error
        if outside:
            self.learners.mask_output()

    def _gradient_outside(self, batch: Any) -> bool:
        subspaces = self.learners.subspaces
        assert subspaces is not None
        outputs: list[Tensor] = []
        watch = self.learners.watch()
        with self._on_trial(), subspaces.tried():
            handle = self.learners.layer.register_forward_hook(lambda _, inputs, output: outputs.append(output))
            try:
                loss = trial.run_training_step(self.trainer, self.pl_module, batch)
            finally:
                handle.remove()
                watch.watches = False
            stepped = not self.pl_module.automatic_optimization  # has gone back by itself
            if isinstance(loss, Tensor) and loss.requires_grad and outputs and not stepped:
                torch.autograd.grad(loss, [output for output in outputs if output.requires_grad], allow_unused=True)
            return watch.leaks

    def _choose_way(self, batch: Any, count: int, side: Side) -> Way:
        module, layer = self.pl_module, self.learners.layer
        by_embed = lambda given: self.reader.embed(module, given)  # noqa: E731
        if type(self.reader).embed is not UsualReader.embed:
            ways = [Way(by_embed, "returned")]
        else:
            ways = [Way(by_embed, side)]
            if module.automatic_optimization:
                ways.append(Way(by_training_step(self.trainer, module, layer), side))
            ways.append(Way(by_embed, "returned"))
        failures: dict[str, None] = {}
        for way in ways:
            try:
                rows, touched = self._try(way, batch)
            except Exception as error:
                if is_out_of_memory(error):  # which the feature pass copes with
                    return way
                failures[str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"] = None
                continue
            if rows != count:
                raise InputError(
                    f"the network makes {rows} rows of features of a batch of {count} items; divide and conquer needs "
                    "one for each item of the data set: override DivideConquerCallback.embed(module, batch)"
                )
            if way.side == "input" and not touched:
                rank_zero_info(
                    f"what goes into {self.learners.name!r} is the data as they are, so the clusters are made of what "
                    "comes out of it"
                )
                return Way(way.run, "output")
            return way
        raise InputError(
            f"no features for clustering could be got from {type(module).__name__} in evaluation mode with its "
            f"embedding layer {self.learners.name!r}: {'; '.join(failures)}"
        )

    def _try(self, way: Way, batch: Any) -> tuple[int, bool]:
        """Return how many rows of features a batch gives, and whether the network has made something of the data."""
        rows: list[Tensor] = []
        given: list[Any] = []
        raw = {tensor.data_ptr() for tensor in tensors_in(batch)}
        handle = self.learners.layer.register_forward_pre_hook(lambda _, inputs: given.extend(inputs[:1]))
        try:
            with self.trainer.precision_plugin.forward_context():
                extract_features(self.pl_module, self.learners.layer, [batch], way.run, rows.append, side=way.side)
        finally:
            handle.remove()
        return len(rows[0]), not (given and isinstance(given[0], Tensor) and given[0].data_ptr() in raw)
