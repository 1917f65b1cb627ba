"""A stopped run that goes on ends where one ends that never stopped, bit for bit."""

from functools import partial

import pytest
import pytorch_lightning as pl
import torch
from pytorch_metric_learning import losses
from stops import EPOCHS, KeepAtException, Restless, Stop, StopAt, fit
from torch.utils.data import DataLoader
from toys import Vectors, loader, same, weights

from divconq_pl import DivideConquerCallback, ExactResume, InputError

MOMENTS = {
    "undivided": "005-step",
    "before a division": "012-epoch",
    "validated before a division": "024-validation",
    "after a division": "025-step",
    "divided": "029-step",
    "last batch": "036-step",
    "merged": "040-step",
    "merged, end": "048-epoch",
    "conquered": "055-step",
    "conquered, last batch": "060-step",
}


def assert_all_lead_to_the_same_end(folder, names, **options):
    assert_these_lead_to(fit(folder, **options), folder, names, **options)


def assert_these_lead_to(end, folder, names, **options):
    straight, divide = end
    for name in names:
        torch.load(folder / f"{name}.ckpt", weights_only=True)
        resumed, again = fit(None, folder / f"{name}.ckpt", seed=9, **options)
        assert straight.seen[len(straight.seen) - len(resumed.seen) :] == resumed.seen, name
        assert straight.validated[len(straight.validated) - len(resumed.validated) :] == resumed.validated, name
        assert same(weights(straight), weights(resumed)), name
        if getattr(divide, "division", None) is not None:
            assert torch.equal(divide.division.assignment, again.division.assignment)
            assert [s["sizes"] for s in divide.history] == [s["sizes"] for s in again.history]


def test_every_checkpoint_leads_to_the_same_end(whole_run):
    assert_these_lead_to((whole_run.module, whole_run.divide), whole_run.folder, MOMENTS.values())


@pytest.mark.parametrize("subspaces", ["learned", "random"])
def test_so_it_does_with_subspaces_that_have_a_state(tmp_path, subspaces):
    moments = ["before a division", "after a division", "divided", "last batch", "merged"]
    assert_all_lead_to_the_same_end(tmp_path, [MOMENTS[moment] for moment in moments], subspaces=subspaces)


def test_so_it_does_where_the_features_of_training_are_divided(tmp_path):
    names = ["012-epoch", "025-step", "029-step", "036-step"]  # there is no division after them
    assert_all_lead_to_the_same_end(tmp_path, names, divide={"features": "training"})


def test_so_it_does_where_workers_load_the_data(tmp_path):
    names = ["029-step", "036-step", "055-step"]
    assert_all_lead_to_the_same_end(tmp_path, names, workers=2)


class Uncounted(Restless):
    """The Trainer's sanity check, which comes again after some resumes, leaves no trace."""

    def validation_step(self, batch, batch_idx):
        pass


@pytest.mark.parametrize(
    "options",
    [
        {"divide": {"every_n_epochs": 2, "merge_at": None, "conquer_at": 5}},
        {"callback": ExactResume, "max_epochs": 4},
        {"callback": ExactResume, "num_sanity_val_steps": 1, "max_epochs": 4, "make": Uncounted},
        {"callback": ExactResume, "check_val_every_n_epoch": 2, "max_epochs": 5},
    ],
    ids=["divided", "plain", "sanity", "rarely"],
)
def test_workers_that_live_on_draw_no_more_random_numbers_after_a_resume_than_without(tmp_path, options):
    names = ["024-validation", "029-step", "036-epoch"]
    names += ["012-epoch", "060-epoch", "065-step"] if "divide" in options else ["005-step"]
    assert_all_lead_to_the_same_end(tmp_path, names, workers=1, persistent=True, **options)


@pytest.mark.parametrize("callback", [ExactResume, partial(DivideConquerCallback, split_depth=0)])
def test_a_plain_training_is_resumed_exactly(callback, tmp_path):
    names = ["005-step", "012-epoch", "012-validation", "029-step", "036-step"]
    assert_all_lead_to_the_same_end(tmp_path, names, callback=callback)


def test_a_plain_training_is_not_resumed_exactly_without_it(tmp_path):
    """Or the callback, and the test of it, would be of no use."""
    with pytest.raises(AssertionError):
        assert_all_lead_to_the_same_end(tmp_path, ["005-step"], callback=pl.Callback)


def test_two_that_make_resuming_exact_are_refused():
    with pytest.raises(InputError, match="DivideConquerCallback and ExactResume both make resuming exact; use one"):
        fit(None, None, ExactResume())


def test_a_subclass_may_prepare_an_epoch_and_choose_its_batches(tmp_path):
    class Noting(ExactResume):
        entered = ()

        def enter_epoch(self, trainer, pl_module, *, anew):
            self.entered += ((trainer.current_epoch, anew),)

    _, straight = fit(tmp_path, callback=Noting)
    assert straight.entered == tuple((epoch, True) for epoch in range(EPOCHS))
    _, resumed = fit(None, tmp_path / "029-step.ckpt", callback=Noting)
    assert resumed.entered == ((2, False), *((epoch, True) for epoch in range(3, EPOCHS)))


class Plateau(Restless):
    """A module whose learning rate follows a validation metric, and whose loss has a memory."""

    def __init__(self):
        super().__init__()
        self.loss = losses.CrossBatchMemory(losses.ContrastiveLoss(), 16, memory_size=100)

    def validation_step(self, batch, batch_idx):
        super().validation_step(batch, batch_idx)
        self.log("worse", float(self.global_step))

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), lr=1e-2)
        schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "monitor": "worse"}}


def two_loaders(**options):
    """The first is divided, the second has fewer batches and is gone through again and again."""
    own = torch.Generator().manual_seed(6)
    shuffled = DataLoader(Vectors(seed=2), batch_size=32, shuffle=True, generator=own, **options)
    return [loader(generator=torch.Generator().manual_seed(5), **options), shuffled]


class Both(Restless):
    def training_step(self, batch, batch_idx):
        return super().training_step(batch[0], batch_idx) + super().training_step(batch[1], batch_idx)


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"divide": {"warmup_epochs": 0}}, ["005-step", "012-epoch"]),
        ({"val_check_interval": 0.5}, ["005-step", "018-step", "018-validation", "042-validation", "043-step"]),
        ({"accumulate_grad_batches": 3}, ["002-step", "004-step", "009-step", "014-step"]),
        ({"accumulate_grad_batches": 3, "subspaces": "learned"}, ["004-step", "005-step", "009-step", "010-step"]),
        ({"accumulate_grad_batches": 3, "divide": {"isolate": True}}, ["004-step", "005-step", "009-step", "010-step"]),
        ({"make": Plateau}, ["005-step", "012-validation", "024-epoch", "029-step", "036-step", "055-step"]),
        ({"make": Both, "data": two_loaders}, ["005-step", "029-step", "036-epoch", "055-step"]),
        ({"reload_dataloaders_every_n_epochs": 1}, ["005-step", "029-step", "055-step"]),
        ({"limit_train_batches": 7}, ["005-step", "014-epoch", "026-step", "028-epoch", "035-step"]),
    ],
    ids=[
        "at once",
        "validation in between",
        "accumulation",
        "accumulation, learned",
        "accumulation, isolated",
        "plateau",
        "loaders",
        "reloaded",
        "limited",
    ],
)
def test_whatever_else_the_trainer_does(tmp_path, options, names):
    assert_all_lead_to_the_same_end(tmp_path, names, **options)


@pytest.mark.parametrize(
    ("hook", "step"),
    [
        *(("on_after_backward", step) for step in (1, 7, 25, 31, 49, 55)),
        *(("on_train_batch_start", step) for step in (1, 25, 55)),
        *(("on_train_batch_end", step) for step in (7, 25, 49)),
        ("on_before_backward", 31),
    ],
)
def test_an_exception_in_the_middle_of_a_step_leaves_the_last_whole_batch(whole_run, tmp_path, hook, step):
    straight = whole_run.module
    with pytest.raises(Stop):
        fit(None, None, StopAt(hook, step), KeepAtException(tmp_path))
    resumed, _ = fit(None, tmp_path / "exception.ckpt", seed=9)
    assert same(weights(straight), weights(resumed))
    assert straight.seen[-len(resumed.seen) :] == resumed.seen


class Counting(Restless):
    """A module that makes a buffer in its first step."""

    def training_step(self, batch, batch_idx):
        if not hasattr(self, "count"):
            self.register_buffer("count", torch.zeros(()), persistent=False)
        self.count += 1
        return super().training_step(batch, batch_idx)


def test_a_buffer_that_the_interrupted_step_has_made_is_no_trouble(tmp_path):
    straight, _ = fit(make=Counting)
    with pytest.raises(Stop):
        fit(None, None, StopAt("on_after_backward", 1), KeepAtException(tmp_path), make=Counting)
    resumed, _ = fit(None, tmp_path / "exception.ckpt", seed=9, make=Counting)
    assert straight.seen == resumed.seen
    assert same(weights(straight), weights(resumed))


@pytest.mark.parametrize(("before", "step"), [(True, 12), (True, 24), (True, 36), (True, 48), (False, 12), (False, 48)])
@pytest.mark.parametrize("hook", ["on_train_epoch_end", "on_validation_end", "on_train_epoch_start"])
def test_an_exception_between_two_epochs_loses_neither(whole_run, tmp_path, hook, step, before):
    straight = whole_run.module
    with pytest.raises(Stop):
        fit(None, None, StopAt(hook, step), KeepAtException(tmp_path), before=before)
    resumed, _ = fit(None, tmp_path / "exception.ckpt", seed=9)
    assert straight.seen[len(straight.seen) - len(resumed.seen) :] == resumed.seen
    assert same(weights(straight), weights(resumed))


@pytest.fixture(scope="module")
def validated_twice():
    return fit(val_check_interval=0.5)[0]


@pytest.mark.parametrize("step", [19, 31, 55])
@pytest.mark.parametrize("hook", ["on_train_batch_start", "on_after_backward"])
def test_an_exception_in_the_step_after_a_validation_does_not_validate_again(validated_twice, tmp_path, hook, step):
    straight = validated_twice
    with pytest.raises(Stop):
        fit(None, None, StopAt(hook, step), KeepAtException(tmp_path), val_check_interval=0.5)
    resumed, _ = fit(None, tmp_path / "exception.ckpt", seed=9, val_check_interval=0.5)
    assert straight.seen[-len(resumed.seen) :] == resumed.seen
    assert straight.validated[-len(resumed.validated) :] == resumed.validated
    assert same(weights(straight), weights(resumed))


@pytest.mark.parametrize("last", ["on_after_backward", "on_train_epoch_end"])
def test_a_run_that_is_stopped_again_and_again_knows_where_it_is(whole_run, tmp_path, last):
    straight = whole_run.module
    path = None
    stops = [("on_train_epoch_start", 24)] * 3 + [("on_after_backward", 30)] * 2 + [(last, 36), (last, 48)]
    for number, (hook, step) in enumerate(stops):
        (folder := tmp_path / str(number)).mkdir()
        with pytest.raises(Stop):
            fit(None, path, StopAt(hook, step), KeepAtException(folder), seed=number)
        path = folder / "exception.ckpt"
    resumed, _ = fit(None, path, seed=9)
    assert straight.seen[len(straight.seen) - len(resumed.seen) :] == resumed.seen
    assert same(weights(straight), weights(resumed))


@pytest.mark.parametrize("name", ["005-step", "024-epoch", "029-step", "055-step"])
@pytest.mark.parametrize("before", [True, False])
def test_a_run_that_is_stopped_before_it_goes_on_loses_nothing(whole_run, tmp_path, name, before):
    class StopAtOnce(pl.Callback):
        def on_train_start(self, *_):
            raise Stop

    straight = whole_run.module
    with pytest.raises(Stop):
        fit(None, whole_run.folder / f"{name}.ckpt", StopAtOnce(), KeepAtException(tmp_path), seed=7, before=before)
    resumed, _ = fit(None, tmp_path / "exception.ckpt", seed=9)
    assert straight.seen[len(straight.seen) - len(resumed.seen) :] == resumed.seen
    assert same(weights(straight), weights(resumed))


@pytest.mark.parametrize("hook", ["on_validation_batch_start", "on_validation_batch_end"])
@pytest.mark.parametrize("step", [12, 36])
def test_an_exception_in_validation_has_it_begin_anew(whole_run, tmp_path, hook, step):
    straight = whole_run.module
    with pytest.raises(Stop):
        fit(None, None, StopAt(hook, step), KeepAtException(tmp_path))
    resumed, _ = fit(None, tmp_path / "exception.ckpt", seed=9)
    assert same(weights(straight), weights(resumed))
    assert resumed.validated == straight.validated[-len(resumed.validated) :]
    assert resumed.validated[0] == (step, 0)


@pytest.mark.parametrize("step", [14, 30])
def test_random_coordinates_of_a_batch_that_failed_are_drawn_again(step, tmp_path):
    straight, _ = fit(subspaces="random")
    with pytest.raises(Stop):
        fit(None, None, StopAt("on_before_backward", step), KeepAtException(tmp_path), subspaces="random", before=True)
    resumed, _ = fit(None, tmp_path / "exception.ckpt", subspaces="random", seed=9)
    assert same(weights(straight), weights(resumed))
