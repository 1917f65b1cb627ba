"""The callback together with the other callbacks, settings and habits of people who use Lightning."""

import math
from functools import partial

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import (
    BackboneFinetuning,
    BatchSizeFinder,
    EarlyStopping,
    GradientAccumulationScheduler,
    LearningRateFinder,
    LearningRateMonitor,
    ModelCheckpoint,
    RichProgressBar,
    StochasticWeightAveraging,
    TQDMProgressBar,
)
from pytorch_lightning.tuner import Tuner
from pytorch_lightning.utilities import CombinedLoader
from torch import nn
from torch.utils.data import DataLoader
from toys import CLASSES, PER_CLASS, PlainModule, Vectors, loader, same, trainer, weights
from witnesses import (
    BATCHES,
    OURS_FIRST,
    SUBSPACES,
    History,
    Logging,
    Memory,
    Normalised,
    Ours,
    Unique,
    Witness,
    assert_divided,
    close,
    fit,
    masks_of,
    validation,
)

from divconq_pl import InputError, LearnedSubspaces

# Checkpoints, stopping, logging.


def test_the_best_epoch_by_training_loss_is_kept_without_a_validation_set(tmp_path):
    keep = ModelCheckpoint(tmp_path, filename="{epoch}", monitor="loss", save_top_k=1)
    callback, history = Unique(), History("loss")
    _, batches = fit(callback, Logging(), keep, history, enable_checkpointing=True)
    assert_divided(batches, [1, 2, 3])
    assert len(history.values) == 4
    best = min(range(4), key=history.values.__getitem__)
    assert keep.best_model_score.item() == history.values[best]
    assert [path.name for path in tmp_path.glob("*.ckpt")] == [f"epoch={best}.ckpt"]
    PlainModule.load_from_checkpoint(keep.best_model_path, weights_only=True)
    state = torch.load(keep.best_model_path, weights_only=True)["callbacks"]["DivideConquerCallback"]
    assert [summary["epoch"] for summary in state["history"]] == list(range(1, best + 1))


def test_early_stopping_stops_a_divided_training():
    class Stuck(Logging):
        def on_train_epoch_end(self):
            self.log("score", 1.0)

    stop = EarlyStopping("score", patience=2, check_on_train_epoch_end=True)
    callback = Unique()
    _, batches = fit(callback, Stuck(), stop, max_epochs=9)
    assert stop.stopped_epoch == 2
    assert_divided(batches, [1, 2])
    assert [summary["epoch"] for summary in callback.history] == [1, 2]


@OURS_FIRST
def test_learning_rates_and_divisions_are_logged(ours_first):
    memory, callback = Memory(), Unique(subspaces="learned")
    monitor = LearningRateMonitor("step")
    fit(callback, Ours(), monitor, ours_first=ours_first, logger=memory, log_every_n_steps=1)
    rates = memory.of("lr-Adam/embedding")
    assert [step for step, _ in rates] == list(range(4 * BATCHES))
    assert {rate for _, rate in rates} == {1e-3}
    assert {rate for _, rate in memory.of("lr-Adam/backbone")} == {1e-3}
    assert memory.of("division/clusters") == [(epoch * BATCHES, 2) for epoch in (1, 2, 3)]
    assert len(memory.of("train/loss")) == 4 * BATCHES


# Averages of the weights.


@SUBSPACES
@OURS_FIRST
def test_stochastic_weight_averaging_averages_the_users_weights(subspaces, ours_first):
    starts = []

    class Starts(pl.Callback):
        def on_train_epoch_start(self, trainer, module):
            starts.append(weights(module))

    module, callback = PlainModule(), Unique(subspaces=subspaces)
    average = StochasticWeightAveraging(swa_lrs=1e-2, swa_epoch_start=2)  # counted from 1, taken at an epoch's start
    _, batches = fit(callback, module, average, Starts(), ours_first=ours_first, max_epochs=5)
    assert_divided(batches, [1, 2, 3, 4], subspaces)
    expected = {name: torch.stack([start[name] for start in starts[1:]]).mean(0) for name in starts[0]}
    assert close(weights(module), expected)


@OURS_FIRST
def test_stochastic_weight_averaging_looks_at_the_data_once_more_for_batch_normalisation(ours_first):
    module, callback = Normalised(), Unique(conquer_at=0.75)
    average = StochasticWeightAveraging(swa_lrs=1e-2, swa_epoch_start=2)
    fitted, batches = fit(callback, module, average, ours_first=ours_first)
    assert_divided(batches, [1, 2])
    assert fitted.current_epoch == 5
    assert module.backbone[1].num_batches_tracked == BATCHES


# Freezing and unfreezing.


@SUBSPACES
@OURS_FIRST
def test_backbone_finetuning_unfreezes_the_backbone_in_its_epoch(subspaces, ours_first):
    starts = []

    class Starts(pl.Callback):
        def on_train_epoch_start(self, trainer, module):
            starts.append(weights(module)["backbone.0.weight"])

    module, callback = Logging(), Unique(subspaces=subspaces)
    finetune = BackboneFinetuning(2, backbone_initial_lr=1e-2)
    fitted, batches = fit(callback, module, finetune, Starts(), ours_first=ours_first)
    assert_divided(batches, [1, 2, 3], subspaces)
    assert torch.equal(starts[0], starts[2])
    assert not torch.equal(starts[2], starts[3])
    optimised = [id(p) for group in fitted.optimizers[0].param_groups for p in group["params"]]
    assert sorted(optimised) == sorted(id(p) for p in module.parameters())


@OURS_FIRST
def test_backbone_finetuning_with_learned_masks_is_resumed(tmp_path, ours_first):
    initial = weights(Logging())

    def train(epochs, resume=None):
        module, callback = Logging(), Unique(subspaces="learned", warmup_epochs=0)
        module.load_state_dict(initial)
        options = {"max_epochs": epochs, "resume": resume, "train": DataLoader(Vectors(), batch_size=16)}
        fitted, _ = fit(callback, module, BackboneFinetuning(2), ours_first=ours_first, **options)
        fitted.save_checkpoint(tmp_path / f"{epochs}.ckpt")
        return weights(module), masks_of(callback)

    straight = train(4)
    train(1)
    resumed = train(4, tmp_path / "1.ckpt")
    assert same(straight[0], resumed[0])
    assert torch.equal(straight[1], resumed[1])


# Steps, gradients and learning rates.


@SUBSPACES
def test_gradients_are_accumulated_over_batches_of_single_clusters(subspaces):
    fitted, batches = fit(Unique(subspaces=subspaces), PlainModule(), accumulate_grad_batches=2)
    assert_divided(batches, [1, 2, 3], subspaces)
    assert fitted.global_step == 4 * BATCHES // 2


@OURS_FIRST
def test_accumulation_may_change_from_epoch_to_epoch(ours_first):
    accumulate = GradientAccumulationScheduler({0: 1, 2: 3})
    fitted, batches = fit(Unique(), PlainModule(), accumulate, ours_first=ours_first)
    assert_divided(batches, [1, 2, 3])
    assert fitted.global_step == 2 * BATCHES + 2 * BATCHES // 3


def test_masks_used_in_any_accumulated_batch_are_trained():
    """Every optimiser step of the divided epochs sees both learners, so it moves both masks."""
    moved = []

    class Spy(pl.Callback):
        def on_before_optimizer_step(self, trainer, module, optimizer):
            masks = callback.subspaces.parameters()
            moved.append([mask.grad is not None and bool(mask.grad.abs().sum()) for mask in masks])

    make = partial(LearnedSubspaces, orthogonality_weight=0.0)
    callback = Unique(subspaces=make)
    _, batches = fit(callback, PlainModule(), Spy(), accumulate_grad_batches=BATCHES)
    assert_divided(batches, [1, 2, 3], "learned")
    assert moved == [[False, False], [True, True], [True, True], [True, True]]


@SUBSPACES
@pytest.mark.parametrize("algorithm", ["norm", "value"])
def test_clipping_bounds_every_gradient_that_the_optimiser_sees(subspaces, algorithm):
    bound, seen = 1e-3, []

    class Spy(Logging):
        def optimizer_step(self, epoch, batch_idx, optimizer, closure):
            super().optimizer_step(epoch, batch_idx, optimizer, closure)
            gradients = torch.cat([p.grad.flatten() for p in self.parameters() if p.grad is not None])
            seen.append((gradients.norm() if algorithm == "norm" else gradients.abs().max()).item())

    options = {"gradient_clip_val": bound, "gradient_clip_algorithm": algorithm}
    _, batches = fit(Unique(subspaces=subspaces), Spy(), **options)
    assert_divided(batches, [1, 2, 3], subspaces)
    assert len(seen) == 4 * BATCHES
    assert max(seen) <= bound * 1.001
    assert max(seen) > bound * 0.99


class OneCycle(PlainModule):
    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=1e-3)
        steps = self.trainer.estimated_stepping_batches
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-2, total_steps=steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Cosine(PlainModule):
    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=1e-2)
        steps = self.trainer.estimated_stepping_batches
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps, eta_min=1e-5)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


@pytest.mark.parametrize(
    ("make", "subspaces", "options"),
    [
        (OneCycle, "fixed", {"accumulate_grad_batches": 2}),
        (OneCycle, "learned", {}),
        (Cosine, "fixed", {}),
        (Cosine, "learned", {"limit_train_batches": 5}),
    ],
)
def test_a_schedule_per_step_ends_with_the_last_step(subspaces, make, options):
    rates = []

    class Rates(pl.Callback):
        def on_before_optimizer_step(self, trainer, module, optimizer):
            rates.append(optimizer.param_groups[0]["lr"])

    fitted, batches = fit(Unique(subspaces=subspaces, conquer_at=3), make(), Rates(), **options)
    assert_divided(batches, [1, 2], subspaces)
    assert fitted.global_step == fitted.estimated_stepping_batches == len(rates)
    optimizer = torch.optim.AdamW([nn.Parameter(torch.zeros(1))], lr=1e-2)
    if make is OneCycle:
        plain = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-2, total_steps=len(rates))
    else:
        plain = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=len(rates), eta_min=1e-5)
    for rate in rates:
        assert math.isclose(rate, optimizer.param_groups[0]["lr"], rel_tol=1e-6)
        optimizer.step()
        plain.step() if plain.last_epoch < len(rates) - 1 else None


# Learned masks, however the optimiser was made.


class TwoGroups(PlainModule):
    def configure_optimizers(self):
        groups = [{"params": self.backbone.parameters(), "lr": 1e-3}, {"params": self.head.parameters(), "lr": 1e-2}]
        return torch.optim.SGD(groups, lr=1e-2, momentum=0.9, weight_decay=1e-3)


class KeptList(PlainModule):
    def __init__(self):
        super().__init__()
        self.kept = list(self.parameters())

    def configure_optimizers(self):
        return torch.optim.RMSprop(self.kept, lr=1e-3)


class ByName(PlainModule):
    def configure_optimizers(self):
        decayed = [p for n, p in self.named_parameters() if n.endswith("weight")]
        others = [p for n, p in self.named_parameters() if not n.endswith("weight")]
        groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
        return torch.optim.AdamW(groups, lr=1e-2)


class Warmup(TwoGroups):
    def configure_optimizers(self):
        optimizer = super().configure_optimizers()
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, [lambda step: 1.0, lambda step: min(1, step / 10)])
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


@pytest.mark.parametrize("make", [PlainModule, TwoGroups, KeptList, ByName, Warmup, Ours])
def test_learned_masks_are_trained_once_and_resumed_whatever_the_groups(make, tmp_path):
    initial = weights(make())

    def train(epochs, resume=None):
        module, callback = make(), Unique(subspaces="learned", warmup_epochs=0)
        module.load_state_dict(initial)
        options = {"max_epochs": epochs, "resume": resume, "train": DataLoader(Vectors(), batch_size=16)}
        fitted, batches = fit(callback, module, **options)
        fitted.save_checkpoint(tmp_path / "masks.ckpt")
        assert_divided(batches, range(0 if resume is None else 2, epochs), "learned")
        optimised = [id(p) for group in fitted.optimizers[0].param_groups for p in group["params"]]
        assert sorted(optimised) == sorted(id(p) for p in module.parameters())
        return weights(module), masks_of(callback)

    straight, masks = train(4)
    train(2)
    resumed, resumed_masks = train(4, tmp_path / "masks.ckpt")
    assert not torch.equal(masks[0], masks[1])
    assert (masks != 1).any()
    assert same(straight, resumed)
    assert torch.equal(masks, resumed_masks)


class TwoOptimisers(PlainModule):
    """Optimises by hand."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        optimizers = self.optimizers()
        for optimizer in optimizers:
            optimizer.zero_grad()
        self.manual_backward(loss)
        for optimizer in optimizers:
            optimizer.step()

    def configure_optimizers(self):
        parts = [list(self.backbone.parameters()), list(self.head.parameters())]
        return [torch.optim.SGD(part, lr=1e-1) for part in parts]


def test_two_optimisers_by_hand():
    module = TwoOptimisers()
    before = weights(module)
    fitted, batches = fit(Unique(), module)
    assert_divided(batches, [1, 2, 3])
    assert fitted.global_step == 2 * 4 * BATCHES
    assert not any(torch.equal(before[name], value) for name, value in module.state_dict().items())


def test_learned_masks_follow_the_loss_with_two_optimisers():
    module = TwoOptimisers()
    make = partial(LearnedSubspaces, orthogonality_weight=0.0)
    callback = Unique(subspaces=make)
    _, batches = fit(callback, module)
    assert_divided(batches, [1, 2, 3], "learned")
    masks = masks_of(callback)
    assert (masks[0] != 1).any()
    assert (masks[1] != 1).any()
    assert not torch.equal(masks[0], masks[1])


class Toggling(PlainModule):
    """Optimises its two halves in turn, each with the other one's parameters switched off."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        for optimizer in self.optimizers():
            self.toggle_optimizer(optimizer)
            optimizer.zero_grad()
            self.manual_backward(super().training_step(batch, batch_idx))
            optimizer.step()
            self.untoggle_optimizer(optimizer)

    def configure_optimizers(self):
        return [torch.optim.SGD(part.parameters(), lr=1e-1) for part in (self.backbone, self.head)]


def test_learned_masks_with_optimisers_that_take_turns():
    class HeadGradient(Witness):
        def on_after_backward(self, trainer, module):
            if module.head.weight.requires_grad:
                super().on_after_backward(trainer, module)

    callback = Unique(subspaces="learned")
    witness = HeadGradient(callback)
    trainer(callback, witness, max_epochs=3).fit(Toggling(), loader())
    assert_divided(witness.batches, [1, 2], "learned")
    masks = masks_of(callback)
    assert not torch.equal(masks[0], masks[1])


# Lengths and intervals.


@SUBSPACES
@pytest.mark.parametrize(
    ("options", "steps", "validations"),
    [
        ({"val_check_interval": 0.5}, 4 * BATCHES, 8),
        ({"check_val_every_n_epoch": 2}, 4 * BATCHES, 2),
        ({"val_check_interval": 8, "check_val_every_n_epoch": None}, 4 * BATCHES, 6),
        ({"limit_train_batches": 5}, 20, 4),
        ({"limit_train_batches": 0.5}, 4 * BATCHES // 2, 4),
        ({"reload_dataloaders_every_n_epochs": 1}, 4 * BATCHES, 4),
        ({"max_steps": 40, "max_epochs": -1}, 40, 3),
    ],
    ids=str,
)
def test_intervals_and_limits_mean_what_they_mean_without_it(subspaces, options, steps, validations):
    validated = []

    class Spy(pl.Callback):
        def on_validation_start(self, trainer, module):
            validated.append(callback.subspaces.active)

    callback = Unique(subspaces=subspaces)
    fitted, batches = fit(callback, PlainModule(), Spy(), val=validation(), **options)
    assert_divided(batches, [1, 2, 3], subspaces)
    assert fitted.global_step == steps
    assert validated == [None] * validations


@pytest.mark.parametrize("batches_run", [True, 3])
def test_a_fast_run_goes_through_the_division(batches_run):
    callback = Unique(warmup_epochs=0)
    fitted, batches = fit(callback, PlainModule(), val=validation(), fast_dev_run=batches_run)
    assert fitted.global_step == len(batches) == int(batches_run)
    assert callback.history[0]["clusters"] == 2
    for batch in batches:
        assert {int(batch["assignment"][i]) for i in batch["images"]} == {batch["learner"]}


def test_a_loader_that_is_made_anew_every_epoch_is_divided_every_epoch():
    made = []

    class Makes(PlainModule):
        def train_dataloader(self):
            made.append(loader())
            return made[-1]

    callback = Unique(every_n_epochs=2)
    witness = Witness(callback)
    fitted = trainer(callback, witness, max_epochs=6, reload_dataloaders_every_n_epochs=1)
    fitted.fit(Makes())
    assert len(made) == 6
    assert_divided(witness.batches, [2, 3, 4, 5])
    assert [summary["epoch"] for summary in callback.history] == [2, 4]


# Several loaders.


@pytest.mark.parametrize("form", ["dict", "list"])
@pytest.mark.parametrize(("mode", "steps"), [("min_size", 6), ("max_size_cycle", BATCHES)])
def test_the_first_of_several_loaders_is_divided_and_the_others_left_alone(form, mode, steps):
    class Several(PlainModule):
        seen = ()

        def training_step(self, batch, batch_idx):
            first, second = batch.values() if isinstance(batch, dict) else batch
            self.seen = (*self.seen, (self.trainer.current_epoch, second[2].tolist()))
            return super().training_step(first, batch_idx)

    second = DataLoader(Vectors(seed=2), batch_size=32)
    loaders = {"a": loader(), "b": second} if form == "dict" else [loader(), second]
    fitted, batches = fit(Unique(), module := Several(), train=CombinedLoader(loaders, mode))
    assert_divided(batches, [1, 2, 3])
    assert fitted.global_step == 4 * steps
    in_order = [list(range(i, i + 32)) for i in range(0, CLASSES * PER_CLASS, 32)]
    for epoch in range(4):
        assert [images for at, images in module.seen if at == epoch] == (in_order * 2)[:steps]


def test_a_mode_in_which_the_divided_loader_may_run_dry_is_refused():
    with pytest.raises(InputError, match=r"max_size.*min_size.*max_size_cycle"):
        fit(Unique(), PlainModule(), train=CombinedLoader([loader(), loader()], "max_size"))


# Precision.


@SUBSPACES
@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "64-true"])
def test_other_precisions(subspaces, precision):
    module, history = Logging(), History("loss")
    dtype = {"bf16-mixed": torch.float32, "bf16-true": torch.bfloat16, "64-true": torch.float64}[precision]
    train = loader(Doubles() if precision == "64-true" else None)
    _, batches = fit(Unique(subspaces=subspaces), module, history, precision=precision, train=train)
    assert_divided(batches, [1, 2, 3], subspaces)
    assert module.head.weight.dtype == dtype
    assert all(math.isfinite(loss) for loss in history.values)
    assert len(history.values) == 4


class Doubles(Vectors):
    def __init__(self):
        super().__init__()
        self.values = self.values.double()


# Progress bars.


@OURS_FIRST
def test_the_feature_pass_is_shown_in_a_rich_progress_bar(ours_first):
    shown = []

    class Spy(pl.Callback):
        def on_train_epoch_end(self, trainer, module):
            tasks = trainer.progress_bar_callback.progress.tasks
            features = [task for task in tasks if task.description.startswith("Features")]
            shown.append([(task.completed, task.total, task.visible) for task in features])

    bar = RichProgressBar()
    _, batches = fit(Unique(), Logging(), bar, Spy(), ours_first=ours_first, enable_progress_bar=True, max_epochs=3)
    assert_divided(batches, [1, 2])
    assert shown == [[], [(BATCHES, BATCHES, False)], [(BATCHES, BATCHES, False)] * 2]


def test_the_feature_pass_is_shown_in_a_tqdm_progress_bar(capsys):
    _, batches = fit(Unique(), Logging(), TQDMProgressBar(), enable_progress_bar=True, max_epochs=3)
    assert_divided(batches, [1, 2])
    assert f"Features of the training images:   0%|          | 0/{BATCHES}" in capsys.readouterr().err


@pytest.mark.parametrize("make", [TQDMProgressBar, RichProgressBar])
def test_a_progress_bar_that_is_switched_off_shows_no_feature_pass(make, capsys):
    fit(Unique(), Logging(), make(refresh_rate=0), enable_progress_bar=True, max_epochs=2)
    printed = capsys.readouterr()
    assert "Features" not in printed.err + printed.out


# Tuning.


class Tunable(PlainModule):
    lr, batch_size = 1e-2, 16

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=self.lr)

    def train_dataloader(self):
        return loader(batch_size=self.batch_size)

    def val_dataloader(self):
        return validation()


def tune_lr(tuner, module):
    tuner.lr_find(module, num_training=15, update_attr=True)


def tune_batch_size(tuner, module):
    tuner.scale_batch_size(module, init_val=8, max_trials=2, steps_per_trial=2)


@pytest.mark.parametrize(
    ("tune", "subspaces"), [(tune_lr, "fixed"), (tune_lr, "learned"), (tune_batch_size, "learned")]
)
def test_tuning_leaves_no_trace_and_the_training_divides(subspaces, tune):
    module, callback = Tunable(), Unique(subspaces=subspaces)
    witness = Witness(callback)
    fitted = trainer(callback, witness, max_epochs=4)
    before, state = weights(module), callback.state_dict()
    tune(Tuner(fitted), module)
    assert same(before, weights(module))
    assert callback.division is None
    assert callback.history == []
    described = {"learners", "settings", "images"}  # of what is to be trained, not of what was
    assert {name: value for name, value in callback.state_dict().items() if name not in described} == {
        name: value for name, value in state.items() if name not in described
    }
    assert fitted.callbacks[:2] == [callback, witness]
    assert fitted.current_epoch == fitted.global_step == 0
    assert not module.loss._forward_pre_hooks
    assert not module.loss._forward_hooks
    witness.batches.clear()
    fitted.fit(module)
    assert module.batch_size == 16
    assert_divided(witness.batches, [1, 2, 3], subspaces)
    assert fitted.global_step == 4 * BATCHES


@pytest.mark.parametrize(
    ("finder", "ours_first"), [("learning rate", True), ("learning rate", False), ("batch size", False)]
)
def test_a_finder_in_the_list_of_callbacks(ours_first, finder):
    module, callback = Tunable(), Unique(subspaces="learned")
    find = (
        LearningRateFinder(num_training_steps=15)
        if finder == "learning rate"
        else BatchSizeFinder(init_val=8, max_trials=2, steps_per_trial=2)
    )
    witness = Witness(callback)
    callbacks = [callback, find, witness] if ours_first else [find, callback, witness]
    fitted = trainer(*callbacks, max_epochs=4)
    fitted.fit(module)
    assert_divided(witness.batches, [1, 2, 3], "learned")
    assert fitted.global_step == 4 * BATCHES
    assert [summary["epoch"] for summary in callback.history] == [1, 2, 3]


# More epochs, and other stages.


@pytest.mark.parametrize(("make", "subspaces"), [(PlainModule, "fixed"), (Ours, "fixed"), (Ours, "learned")])
def test_more_epochs_continue_from_a_checkpoint(tmp_path, subspaces, make):
    initial = weights(make())

    def train(epochs, resume=None):
        module, callback = make(), Unique(split_depth=2, subspaces=subspaces, warmup_epochs=0)
        module.load_state_dict(initial)
        keep = ModelCheckpoint(tmp_path / str(epochs), save_last=True)
        options = {"max_epochs": epochs, "resume": resume, "train": DataLoader(Vectors(), batch_size=16)}
        fitted, batches = fit(callback, module, keep, val=validation(), enable_checkpointing=True, **options)
        return weights(module), callback, batches, fitted

    straight, whole, _, _ = train(5)
    train(3)
    resumed, callback, batches, fitted = train(5, tmp_path / "3" / "last.ckpt")
    assert_divided(batches, [3, 4], subspaces, learners=4)
    assert fitted.global_step == 5 * BATCHES
    assert same(straight, resumed)
    assert [summary["epoch"] for summary in callback.history] == [0, 1, 2, 3, 4]
    assert torch.equal(whole.division.assignment, callback.division.assignment)


@SUBSPACES
def test_the_same_trainer_goes_on_with_more_epochs(subspaces):
    callback = Unique(every_n_epochs=3, warmup_epochs=1, subspaces=subspaces)
    module, witness = PlainModule(), Witness(callback)
    starts = []

    class Spy(pl.Callback):
        def on_train_start(self, trainer, module):
            starts.append(callback.subspaces.state())

    fitted = trainer(callback, witness, Spy(), max_epochs=2)
    train = loader()
    fitted.fit(module, train)
    masks = callback.subspaces.state()
    fitted.fit_loop.max_epochs = 6
    fitted.fit(module, train)
    assert_divided(witness.batches, [1, 2, 3, 4, 5], subspaces)
    assert [summary["epoch"] for summary in callback.history] == [1, 4]
    assert fitted.global_step == 6 * BATCHES
    assert same(starts[1], masks)
    assert any((mask != 1).any() for mask in masks.values()) == (subspaces == "learned")


@SUBSPACES
def test_evaluation_with_the_callback_is_that_of_the_full_embedding(tmp_path, subspaces):
    module, callback = Ours(), Unique(subspaces=subspaces)
    fitted, _ = fit(callback, module, val=validation())
    fitted.save_checkpoint(tmp_path / "own.ckpt")
    plain = Ours()
    plain.load_state_dict(module.state_dict())
    expected_val = trainer().validate(plain, validation(), verbose=False)
    expected_test = trainer().test(plain, validation(), verbose=False)
    expected = torch.cat(trainer().predict(plain, validation()))

    def evaluate(evaluating, module, **options):
        assert evaluating.validate(module, validation(), verbose=False, **options) == expected_val
        assert evaluating.test(module, validation(), verbose=False, **options) == expected_test
        assert torch.equal(torch.cat(evaluating.predict(module, validation(), **options)), expected)

    evaluate(fitted, module)
    evaluate(trainer(Unique(subspaces=subspaces)), module)
    loaded = Unique(subspaces=subspaces)
    evaluate(trainer(loaded), Ours(), ckpt_path=tmp_path / "own.ckpt", weights_only=True)
    assert torch.equal(loaded.division.assignment, callback.division.assignment)
    assert loaded.history == callback.history


def test_training_after_an_evaluation_from_a_checkpoint_starts_anew(tmp_path):
    fitted, _ = fit(Unique(), module := Ours())
    fitted.save_checkpoint(tmp_path / "own.ckpt")
    callback = Unique()
    witness = Witness(callback)
    again = trainer(callback, witness, max_epochs=3)
    again.validate(module, validation(), ckpt_path=tmp_path / "own.ckpt", verbose=False)
    again.fit(module, loader())
    assert_divided(witness.batches, [1, 2])
    assert [summary["epoch"] for summary in callback.history] == [1, 2]
