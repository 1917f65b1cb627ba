"""What a training cannot go on with is refused, what else has changed is said."""

import pytest
import pytorch_lightning as pl
import torch
from stops import Restless, fit
from toys import Vectors, loader, trainer

from divconq_pl import InputError
from divconq_pl.lightning.continuity import check_images, compare_settings, fingerprint


@pytest.mark.parametrize("name", ["subspaces", "width"])
@pytest.mark.parametrize("mid_epoch", [True, False])
def test_what_is_trained_hangs_on_is_never_changed(name, mid_epoch):
    with pytest.raises(InputError, match=f"{name}=2 instead of 1"):
        compare_settings({name: 1}, {name: 2}, mid_epoch=mid_epoch)


@pytest.mark.parametrize("name", ["batch_size", "batches", "processes", "images_per_class", "allotment", "seed"])
def test_batches_are_changed_between_epochs_only(name):
    with pytest.raises(InputError, match=f"middle of an epoch.*{name}=2 instead of 1"):
        compare_settings({name: 1}, {name: 2}, mid_epoch=True)
    assert f"{name}=2 instead of 1" in compare_settings({name: 1}, {name: 2}, mid_epoch=False)


def test_the_plan_may_change_at_any_time():
    assert compare_settings({"conquer_at": 4, "seed": 1}, {"conquer_at": 5, "seed": 1}, mid_epoch=True).endswith(
        "conquer_at=5 instead of 4"
    )
    assert compare_settings({"conquer_at": 4}, {"conquer_at": 4}, mid_epoch=True) is None


NAMES = [f"/data/birds/{c}/{i}.jpg" for c in "ab" for i in range(3)]


def prints(names, labels=(0, 0, 0, 1, 1, 1)):
    return fingerprint(torch.tensor(labels), names.__getitem__, len(names))


def test_images_are_known_again_wherever_they_lie():
    moved = [name.replace("/data/birds", "C:\\elsewhere").replace("/", "\\") for name in NAMES]
    check_images(prints(NAMES), prints(moved), moved.__getitem__)


@pytest.mark.parametrize(
    ("names", "labels", "message"),
    [
        ([*NAMES[:2], "/data/birds/a/9.jpg", *NAMES[3:]], (0, 0, 0, 1, 1, 1), r"1 of them.*2 \(/data/birds/a/9.jpg\)"),
        (NAMES, (0, 0, 0, 1, 1, 0), r"1 of them.*5 \(/data/birds/b/2.jpg\)"),
        (NAMES[:4], (0, 0, 0, 1), "6 images then, 4 now, 0 of them"),
        (
            [*NAMES, "/data/birds/b/3.jpg"],
            (0, 0, 0, 1, 1, 1, 1),
            r"6 images then, 7 now, 0 of.*6 \(/data/birds/b/3.jpg",
        ),
        ([*NAMES[1:], NAMES[0]], (0, 0, 0, 1, 1, 1), "6 of them.*0 .*1 .*2 "),
    ],
)
def test_other_images_are_refused_by_name(names, labels, message):
    with pytest.raises(InputError, match=message):
        check_images(prints(NAMES), prints(names, labels), names.__getitem__)


def other_class(**options):
    labels = Vectors().targets.clone()
    labels[3] += 1
    return loader(Vectors(labels), **options)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "024-epoch",
            {"data": other_class},
            r"1 of them another image or of .* that differ are 3",
        ),
        ("029-step", {"data": lambda **o: loader(batch_size=24, **o)}, "batch_size=24 instead of 16"),
        ("029-step", {"divide": {"seed": 4}}, "seed=4 instead of 0"),
        (
            "024-epoch",
            {"subspaces": "learned"},
            "subspaces='FixedSubspaces'; resume with those instead",
        ),
        ("036-epoch", {"divide": {"split_depth": 1}}, "split_depth of 2 or more"),
    ],
)
def test_a_training_goes_on_with_what_it_began_with(whole_run, name, options, message):
    with pytest.raises(InputError, match=message):
        fit(None, whole_run.folder / f"{name}.ckpt", **options)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("024-epoch", {"data": lambda **o: loader(batch_size=24, **o)}, "batch_size=24 instead of 16, batches=8"),
        ("029-step", {"divide": {"conquer_at": 5}}, "conquer_at=5 instead of 4"),
    ],
)
def test_what_may_change_is_said(whole_run, name, options, message):
    with pytest.warns(UserWarning, match=message):
        module, _ = fit(None, whole_run.folder / f"{name}.ckpt", **options)
    assert module.seen[-1][0] == 5


@pytest.mark.parametrize("subspaces", ["fixed", "learned"])
def test_a_plain_training_may_be_divided_from_a_checkpoint_on(subspaces, tmp_path):
    fit(tmp_path, divide={"split_depth": 0})
    _, divide = fit(None, tmp_path / "012-epoch.ckpt", subspaces=subspaces)
    assert [summary["epoch"] for summary in divide.history] == [1, 2, 3]


def test_a_state_from_before_the_first_division_replaces_a_later_one(whole_run):
    _, divide = fit()
    early = torch.load(whole_run.folder / "005-step.ckpt", weights_only=True)["callbacks"]["DivideConquerCallback"]
    divide.load_state_dict(early)
    assert divide.division is None
    assert divide.history == []


class Diverging(Restless):
    """A module whose loss is NaN from a certain step on."""

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        return loss * float("nan") if self.global_step == 30 else loss


def test_a_loss_that_is_no_number_ends_the_training_before_it_gets_into_the_weights(whole_run, tmp_path):
    with pytest.raises(InputError, match=r"is nan in epoch 2 for batch 6 of learner \d \([\d, ]*\); the") as e:
        fit(tmp_path, make=Diverging)
    images = [int(i) for i in str(e.value).split("(")[1].split(")")[0].split(", ")]
    kept = torch.load(tmp_path / "030-step.ckpt", weights_only=True)["state_dict"]
    assert all(bool(value.isfinite().all()) for value in kept.values())
    straight = whole_run.module
    assert images == straight.seen[30][1]
    resumed, _ = fit(None, tmp_path / "030-step.ckpt", seed=9)
    assert resumed.seen == straight.seen[30:]


def test_infinity_is_left_to_a_scaler_of_gradients():
    class Scaled(pl.plugins.precision.MixedPrecision):
        def __init__(self):
            super().__init__("bf16-mixed", "cpu")
            self.scaler = object()

    from divconq_pl.lightning._trainer.progress import has_diverged

    scaled = pl.Trainer(accelerator="cpu", plugins=Scaled(), logger=False, enable_checkpointing=False)
    assert not has_diverged(scaled, torch.tensor(torch.inf))
    assert has_diverged(scaled, torch.tensor(torch.nan))
    assert has_diverged(trainer(), torch.tensor(torch.inf))
