"""A stopped training goes on as if it had never stopped."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor, nn

from divconq_pl.errors import InputError
from divconq_pl.lightning._trainer import loaders, processes, progress, randomness
from divconq_pl.lightning._trainer.base import CallbackBase
from divconq_pl.lightning.boundary import Boundary, get_hidden_state, set_hidden_state

STATE_VERSION = 3


class ExactResume(CallbackBase):
    """Let a training that goes on from a checkpoint end as the one would have ended that was never stopped.

    Lightning saves weights, optimisers, schedulers and counters. It does not save random numbers, the order in which
    the epoch's remaining batches would have come, nor what some losses remember; and a batch that an exception
    interrupts has often moved random numbers and running statistics, though it will be run again. Resuming therefore
    repeats instead of patching: the random numbers from which an epoch's batches were drawn are set again, the batches
    are drawn again, those that were trained on are passed over, and then the random numbers of the stop are set.

    =====================================  ============================================  ==============================
    moment                                 what is noted                                 what is restored on resuming
    =====================================  ============================================  ==============================
    the fit starts                         random numbers, before the first epoch's      those, if no epoch had begun
                                           batches are drawn
    an epoch starts                        random numbers, before its batches are drawn  all of the stop, if it came
                                                                                         between two epochs
    entered in the middle of an epoch                                                    random numbers of its start;
                                                                                         batches passed over; then all
                                                                                         of the stop
    a batch ends, a validation ends        random numbers, buffers, hidden state of
                                           losses
    an exception                                                                         random numbers, and in a step
                                                                                         buffers and hidden state, of
                                                                                         the last boundary
    a checkpoint is saved                  random numbers of each process, logged        (read back when the fit
                                           metrics, hidden state of losses, gradients    starts)
                                           that wait in an accumulation; counters that
                                           Lightning would restore wrongly
    =====================================  ============================================  ==============================

    The checkpoint has to be saved while this callback is there, and resumed with it. With another number of processes
    the training goes on with other random numbers, and says so.

    Two methods are there to be overridden: :meth:`enter_epoch` and :meth:`draw_batches`.

    Example:
        >>> trainer = pl.Trainer(callbacks=[ExactResume()], logger=False, enable_progress_bar=False, max_epochs=20)
        >>> # trainer.fit(module, loader, ckpt_path="last.ckpt")
    """

    def __init__(self) -> None:
        super().__init__()
        self._entered = -1  # the last epoch that was begun
        self._forget_all()

    def _forget_all(self) -> None:
        self._of_epoch: dict[str, Any] | None = None  # random numbers before the batches of the epoch were drawn
        self._boundary = Boundary()
        self._loaded: dict[str, Any] = {}
        self._restored: dict[str, Any] | None = None  # what was loaded, until the training has gone on from it
        self._failed = False

    # What a subclass may want to decide.

    def enter_epoch(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *, anew: bool) -> None:
        """Prepare an epoch before its batches are drawn; nothing by default.

        Args:
            trainer: the running fit.
            pl_module: what it trains.
            anew: whether the epoch begins; otherwise it is entered in its middle, or at its end, after a resume.
        """

    def draw_batches(self, trainer: pl.Trainer, *, renew: bool, done: int) -> None:
        """See to it that the epoch's next batch is the right one.

        Args:
            trainer: the running fit.
            renew: draw the epoch's batches anew: the Trainer has drawn them with other random numbers.
            done: batches that were trained on before a resume, to be passed over.
        """
        if loaders.restores_its_batches(trainer) or not (renew or self.is_resuming):
            return
        if renew:
            loaders.renew_batches(trainer)
        loaders.pass_over(trainer, done)

    @property
    def is_resuming(self) -> bool:
        """Whether a checkpoint was loaded from which the training has not gone on yet."""
        return self._restored is not None

    # What the Trainer calls.

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Begin with nothing noted.

        Raises:
            InputError: if another callback does the same.
        """
        if stage == "fit":
            for other in trainer.callbacks:  # type: ignore[attr-defined]
                if isinstance(other, ExactResume) and other is not self:
                    raise InputError(
                        f"{type(self).__name__} and {type(other).__name__} both make resuming exact; use one of them "
                        "(DivideConquerCallback needs no other)"
                    )
            self._forget_all()
            if trainer.current_epoch == 0:
                self._entered = -1

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note the random numbers from which the first epoch's batches will be drawn, or restore them."""
        if self._restored is not None and self._restored["begun"] == 0:
            self._of_epoch = self._restored["epoch"]
            randomness.set_random_state(trainer, self._restored["epoch"])
        else:
            self._of_epoch = randomness.random_state(trainer)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Pick up the thread in an epoch that has no start of its own, since it is resumed."""
        if not progress.entered_mid_epoch(trainer):
            return
        if self._entered != trainer.current_epoch:  # after a checkpoint of an epoch's last batch
            self.on_train_epoch_start(trainer, pl_module)
            return
        done, restored = progress.batches_done(trainer), self._restored
        if restored is not None:
            self._of_epoch = restored["epoch"]
            self._restore_workers(trainer, train=restored["epoch"], val=restored["now"])
            if trainer.current_epoch > 0:  # the first epoch's batches were drawn after the fit's start
                randomness.set_random_state(trainer, restored["epoch"])
        self.enter_epoch(trainer, pl_module, anew=False)
        self.draw_batches(trainer, renew=self.is_resuming and trainer.current_epoch > 0, done=done)
        if restored is not None:
            if restored["validating"]:
                progress.validate_anew(trainer)
            self._go_on(trainer, pl_module, with_random=done > 0)
        self._note_boundary(trainer, pl_module)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note the random numbers from which the epoch's batches will be drawn; after a resume, restore them first."""
        resumed = self._restored
        if resumed is not None:
            progress.begin_batches(trainer)
            self._restore_workers(trainer, train=resumed["now"], val=resumed["now"])
            self._go_on(trainer, pl_module)
            if resumed["concluding"]:
                progress.step_plateau_schedulers(trainer)
        if trainer.current_epoch > 0:
            self._of_epoch = randomness.random_state(trainer)
        self._note_boundary(trainer, pl_module)
        self.enter_epoch(trainer, pl_module, anew=True)
        self.draw_batches(trainer, renew=resumed is not None, done=0)
        self._entered = trainer.current_epoch

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Note a boundary between two batches."""
        self._note_boundary(trainer, pl_module)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Let plateau schedulers step at the end of a resumed epoch, too."""
        progress.forget_restart(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note that the training goes on from here."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._note_boundary(trainer, pl_module, ends_validation=True)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Return to the last boundary, so that a checkpoint that is saved now is exact."""
        self._failed = True
        self._boundary.return_to(trainer, pl_module, self._named_buffers(pl_module))

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add what it takes to go on exactly from here; called by all processes."""
        checkpoint["callbacks"][self.state_key]["resume_point"] = self._describe_point(trainer, pl_module)
        progress.settle_epochs(checkpoint)
        if progress.in_step(trainer):
            progress.drop_batch(checkpoint)
        if progress.before_validation(trainer):
            progress.count_batch(checkpoint)

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Read what a checkpoint of the training holds."""
        state = checkpoint["callbacks"].get(self.state_key, {}).get("resume_point")
        if state is None or trainer.state.fn != "fit":
            return
        if len(state["processes"]) != trainer.world_size:
            rank_zero_warn(
                f"the checkpoint holds the random numbers of {len(state['processes'])} process(es) and there are "
                f"{trainer.world_size} now; the training goes on with other random numbers"
            )
            return
        self._loaded, self._restored = state, {**state, **state["processes"][trainer.global_rank]}

    @property
    def state_key(self) -> str:
        """The name of the callback in a checkpoint."""
        return "ExactResume"

    def state_dict(self) -> dict[str, Any]:
        """Return the last epoch that was begun; the rest is added when a checkpoint is saved."""
        return {"version": STATE_VERSION, "entered": self._entered}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned.

        Raises:
            InputError: if it was written by an unknown version.
        """
        if state_dict["version"] != STATE_VERSION:
            raise InputError(
                f"the checkpoint holds a {self.state_key} state of version {state_dict['version']}, this version of "
                f"divconq-pl reads version {STATE_VERSION}; resume with the version that wrote it"
            )
        self._entered = state_dict["entered"]

    # How it is done.

    def _note_boundary(self, trainer: pl.Trainer, module: nn.Module, *, ends_validation: bool = False) -> None:
        self._boundary.note(trainer, module, self._named_buffers(module), ends_validation=ends_validation)

    def _restore_workers(self, trainer: pl.Trainer, train: dict[str, Any], val: dict[str, Any]) -> None:
        """Let those loaders have workers that had them then, so that none starts which has started before."""
        living = {"train": train.get("workers", {}).get("train", []), "val": val.get("workers", {}).get("val", [])}
        if trainer.current_epoch == 0:
            living["train"] = []  # they have started with the fit
        loaders.restore_workers(trainer, living)

    def _go_on(self, trainer: pl.Trainer, module: nn.Module, with_random: bool = True) -> None:
        """Restore what was where the run was stopped."""
        assert self._restored is not None
        if with_random:
            randomness.set_random_state(trainer, self._restored["now"])
        progress.set_logged_metrics(trainer, self._restored["metrics"])
        set_hidden_state(module, self._restored["hidden"])
        for name, gradient in self._restored["gradients"].items():
            parameter = self._named_parameters(module)[name]
            parameter.grad = gradient.to(parameter.device)
        self._restored = None

    def _describe_point(self, trainer: pl.Trainer, module: nn.Module) -> dict[str, Any]:
        if self._restored is not None:  # stopped again before it could go on
            return self._loaded
        interrupted = self._failed and trainer.validating and not self._boundary.ends_validation
        own = {"epoch": self._of_epoch, "now": randomness.random_state(trainer)}
        # Where one process failed the others may never come to this.
        gather = trainer.world_size > 1 and not self._failed
        return {
            "begun": self._entered,
            "validating": interrupted or progress.before_validation(trainer),
            "concluding": progress.at_epoch_end(trainer),
            "metrics": progress.logged_metrics(trainer),
            "hidden": get_hidden_state(module),
            "gradients": self._waiting_gradients(trainer, module),
            "processes": processes.gather_objects(own) if gather else [own],
        }

    def _waiting_gradients(self, trainer: pl.Trainer, module: nn.Module) -> dict[str, Tensor]:
        """Return what has been accumulated since the last optimiser step; each process would have its own."""
        if trainer.world_size > 1 or self._failed or not progress.is_accumulating(trainer):
            return {}
        return {name: p.grad.clone() for name, p in self._named_parameters(module).items() if p.grad is not None}

    def _trained(self, module: nn.Module) -> dict[str, nn.Module]:
        """Return the modules that a step changes, by what their names begin with."""
        return {"": module}

    def _named_parameters(self, module: nn.Module) -> dict[str, nn.Parameter]:
        return {f"{start}{name}": p for start, m in self._trained(module).items() for name, p in m.named_parameters()}

    def _named_buffers(self, module: nn.Module) -> dict[str, Tensor]:
        return {f"{start}{name}": b for start, m in self._trained(module).items() for name, b in m.named_buffers()}
