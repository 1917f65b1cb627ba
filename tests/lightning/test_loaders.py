"""Loaders and samplers of somebody else's project: what is drawn, from where, and what is said about it."""

import sys
import warnings
from types import SimpleNamespace

import pytest
import torch
from pytorch_lightning.utilities import CombinedLoader
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    RandomSampler,
    Sampler,
    Subset,
    SubsetRandomSampler,
    WeightedRandomSampler,
)
from toys import CLASSES, PER_CLASS, PlainModule, Vectors, loader, trainer
from witnesses import BATCHES, Unique, Witness, assert_divided, fit, validation

from divconq_pl import InputError
from divconq_pl.lightning._trainer.loaders import get_train_loader
from divconq_pl.lightning.batch_norm import RenewBatchNorm

IMAGES = CLASSES * PER_CLASS
QUARTER_OUT = torch.randperm(IMAGES, generator=torch.Generator().manual_seed(3))[: IMAGES * 3 // 4]


class Looked(Vectors):
    """Remembers which images were asked for."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.looked_at = set()

    def __getitem__(self, i):
        self.looked_at.add(int(i))
        return super().__getitem__(i)


def said(function):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        function()
    return [str(warning.message) for warning in caught]


# What the user's sampler cannot draw.


@pytest.mark.parametrize("own_cluster_dataset", [False, True])
def test_held_out_images_are_neither_drawn_nor_clustered_nor_used_for_statistics(own_cluster_dataset):
    data, other = Looked(), Looked()
    callback = Unique(cluster_dataset=other if own_cluster_dataset else None)
    sampler = SubsetRandomSampler(QUARTER_OUT.tolist())
    _, batches = fit(callback, PlainModule(), RenewBatchNorm(), train=DataLoader(data, 16, sampler=sampler))
    allowed = set(QUARTER_OUT.tolist())
    assert data.looked_at | other.looked_at == allowed
    assert len(callback.division.assignment) == len(allowed)
    in_order = sorted(allowed)  # clusters are those of the images that can be drawn, in their order
    for batch in batches:
        if batch["learner"] is not None:
            of = {int(batch["assignment"][in_order.index(i)]) for i in batch["images"]}
            assert of == {batch["learner"]}


def test_a_subset_random_sampler_trains_as_a_subset_does():
    def divisions(train):
        torch.manual_seed(0)
        module, callback = PlainModule(), Unique(warmup_epochs=0)
        fit(callback, module, train=train, max_epochs=2)
        return callback.division.assignment, module.state_dict()

    order = sorted(QUARTER_OUT.tolist())
    by_sampler = divisions(DataLoader(Vectors(), 16, sampler=SubsetRandomSampler(order)))
    by_subset = divisions(loader(Subset(Vectors(), order)))
    assert torch.equal(by_sampler[0], by_subset[0])
    assert all(torch.equal(by_sampler[1][name], by_subset[1][name]) for name in by_subset[1])


def test_a_reader_of_ones_own_is_asked_for_the_labels_of_the_data_set_it_knows():
    class Own(Unique):
        def dataset_labels(self, dataset):
            return dataset.kept_elsewhere

    data = Looked()
    data.kept_elsewhere, data.targets = data.targets, data.targets
    fit(Own(), PlainModule(), train=DataLoader(data, 16, sampler=SubsetRandomSampler(QUARTER_OUT.tolist())))
    assert data.looked_at == set(QUARTER_OUT.tolist())


def test_an_overfitted_training_divides_the_images_that_it_overfits_to():
    callback = Unique(images_per_class=2)
    fitted, batches = fit(callback, PlainModule(), overfit_batches=4)
    assert_divided(batches, [1, 2, 3])
    assert fitted.global_step == 4 * 4
    assert {i for batch in batches for i in batch["images"]} <= set(range(64))
    assert len(callback.division.assignment) == 64


# How often the user's sampler draws what it draws.


def test_a_weighted_sampler_keeps_its_balance():
    heavy = Vectors().targets < CLASSES // 2
    sampler = WeightedRandomSampler(torch.where(heavy, 3.0, 1.0).tolist(), IMAGES)
    drawn = []

    def train():
        callback = Unique(images_per_class=2, every_n_epochs=6, warmup_epochs=0)
        drawn.extend(fit(callback, PlainModule(), train=DataLoader(Vectors(), 16, sampler=sampler), max_epochs=6)[1])

    assert not [text for text in said(train) if "weights" in text]
    images = [i for batch in drawn for i in batch["images"]]
    assert len(images) == 6 * IMAGES
    assert sum(bool(heavy[i]) for i in images) / len(images) == pytest.approx(3 / 4, abs=0.03)


@pytest.mark.parametrize(
    ("weights", "settings", "words"),
    [
        (torch.arange(1.0, IMAGES + 1), {}, "keep the sampler's weights by class"),
        (1.0 + Vectors().targets, {"draw": "classes"}, "weights are not kept.*draw='classes'"),
    ],
)
def test_weights_that_are_not_kept_are_said_once(weights, settings, words):
    train = DataLoader(Vectors(), 16, sampler=WeightedRandomSampler(weights.tolist(), IMAGES))
    with pytest.warns(UserWarning, match=words) as told:
        fit(Unique(**settings), PlainModule(), train=train)
    assert sum("weights" in str(warning.message) for warning in told) == 1


class Own(Sampler):
    """Leaves the last class out, in a way that nobody can tell."""

    def __iter__(self):
        return iter(torch.randperm(IMAGES - PER_CLASS).tolist())

    def __len__(self):
        return IMAGES - PER_CLASS


def test_a_sampler_that_is_not_known_is_named_with_what_to_give_instead():
    with pytest.warns(UserWarning, match=r"what Own draws is kept.*drawn from all 192 images.*Subset"):
        fit(Unique(), PlainModule(), train=DataLoader(Vectors(), 16, sampler=Own()))
    assert not [text for text in said(lambda: fit(Unique(), PlainModule())) if "draws is kept" in text]


# Epochs that have no end, or end early.


class Endless(BatchSampler):
    def __init__(self, length=None):
        super().__init__(RandomSampler(Vectors()), 16, drop_last=True)
        self.length = length

    def __iter__(self):
        while True:
            yield from super().__iter__()

    def __len__(self):
        if self.length is None:
            raise TypeError("Endless has no length")
        return self.length


@pytest.mark.parametrize("length", [None, sys.maxsize])
def test_an_epoch_without_an_end_is_refused_unless_the_trainer_ends_it(length):
    train = DataLoader(Vectors(), batch_sampler=Endless(length))
    with pytest.raises(InputError, match=r"Endless has no length.*limit_train_batches"):
        fit(Unique(), PlainModule(), train=train)
    fitted, batches = fit(Unique(), PlainModule(), train=train, limit_train_batches=6)
    assert_divided(batches, [1, 2, 3])
    assert fitted.global_step == 4 * 6


def test_learners_that_get_no_batch_are_said_where_the_trainer_limits_the_epoch():
    callback = Unique(split_depth=2, every_n_epochs=1, flat=True)
    with pytest.warns(UserWarning, match="limits an epoch to 2 batches, fewer than the 4 learners"):
        _, batches = fit(callback, PlainModule(), limit_train_batches=2, max_epochs=6)
    for batch in batches:
        if batch["learner"] is not None:
            assert {int(batch["assignment"][i]) for i in batch["images"]} == {batch["learner"]}


def test_every_learner_gets_its_share_of_the_batches_that_are_really_drawn():
    callback = Unique(split_depth=2, flat=True)
    _, batches = fit(callback, PlainModule(), limit_train_batches=4, max_epochs=6)
    assert_divided(batches, [1, 2, 3, 4, 5], learners=4)


def test_a_batch_sampler_that_the_trainer_has_replaced_for_two_processes_is_called_so():
    replaced = DataLoader(
        Vectors(), batch_size=None, sampler=DistributedSampler(Vectors(), 2, 0)
    )  # as the Trainer does
    two = SimpleNamespace(world_size=2, fit_loop=SimpleNamespace(_combined_loader=CombinedLoader(replaced)))
    with pytest.raises(InputError, match=r"2 processes .* DistributedSampler .*use_distributed_sampler=False"):
        get_train_loader(two)


# Several loaders.


class Several(PlainModule):
    def training_step(self, batch, batch_idx):
        return super().training_step(batch["a"] if isinstance(batch, dict) else batch[0], batch_idx)


@pytest.mark.parametrize("form", [list, dict])
def test_the_second_of_two_loaders_may_be_the_longer_one(form):
    longer = DataLoader(Vectors(seed=2), batch_size=6)
    loaders = {"a": loader(), "b": longer} if form is dict else [loader(), longer]
    fitted, batches = fit(Unique(), Several(), train=loaders)
    assert_divided(batches, [1, 2, 3])
    assert fitted.global_step == 4 * len(longer) > 4 * BATCHES


def test_a_shorter_second_loader_that_leaves_learners_without_a_batch_is_refused():
    both = CombinedLoader([loader(), DataLoader(Vectors(seed=2), batch_size=100)], "min_size")
    with pytest.raises(InputError, match="an epoch of 2 batches cannot serve 4 learners"):
        fit(Unique(split_depth=2), Several(), train=both)


def test_a_combined_loader_of_the_users_is_theirs_again_after_the_fit():
    both = CombinedLoader([loader(), loader()], "min_size")
    before = list(both.flattened)
    fit(Unique(), Several(), train=both)
    assert both.flattened == before

    class Fails(Several):
        def on_train_epoch_end(self):
            if self.current_epoch == 2:
                raise KeyError("in a divided epoch")

    with pytest.raises(KeyError):
        fit(Unique(), Fails(), train=both)
    assert both.flattened == before


# A loader that is made anew.


def remade(datasets):
    class Makes(PlainModule):
        made = 0

        def train_dataloader(self):
            self.made += 1
            return loader(datasets(self.made - 1))

    return Makes()


def train_remade(module, callback):
    witness = Witness(callback)
    trainer(callback, witness, max_epochs=4, reload_dataloaders_every_n_epochs=1).fit(module)
    return witness.batches


def test_batches_come_from_the_loader_that_was_made_last():
    data = [Looked(seed=0) for _ in range(4)]
    assert_divided(train_remade(remade(data.__getitem__), Unique(every_n_epochs=2, warmup_epochs=1)), [1, 2, 3])
    for epoch in range(4):
        assert len(data[epoch].looked_at) > IMAGES // 2


@pytest.mark.parametrize("every_n_epochs", [1, 2])
def test_a_loader_that_is_made_anew_with_other_images_is_refused_by_name(every_n_epochs):
    def some(epoch):
        return Subset(Vectors(), list(range(epoch, IMAGES - 8 + epoch)))

    callback = Unique(every_n_epochs=every_n_epochs, warmup_epochs=1)
    with pytest.raises(InputError, match=r"images were clustered.*anew before epoch 2.*0 \(image 2 of the whole"):
        train_remade(remade(some), callback)


def test_other_images_before_the_first_division_are_fine():
    def some(epoch):
        return Subset(Vectors(), list(range(min(epoch, 2), IMAGES - 8 + min(epoch, 2))))

    batches = train_remade(remade(some), Unique(warmup_epochs=2))
    divided = [batch for batch in batches if batch["epoch"] > 1]
    assert all({int(b["assignment"][i - 2]) for i in b["images"]} == {b["learner"]} for b in divided)


# Where the user looks for the loader.


def test_a_memory_bank_over_the_training_set_sees_all_images_in_every_epoch():
    seen = []

    class Bank(PlainModule):
        def on_validation_epoch_start(self):
            seen.append({i for batch in self.trainer.train_dataloader for i in batch[2].tolist()})

    fit(Unique(), Bank(), val=validation())
    assert seen == [set(range(IMAGES))] * 4


def test_a_module_may_update_its_sampler_in_every_epoch():
    class Adaptive(RandomSampler):
        updates = 0

        def update(self):
            self.updates += 1

    class Updates(PlainModule):
        def on_train_epoch_end(self):
            self.trainer.train_dataloader.sampler.update()

    sampler = Adaptive(Vectors())
    fit(Unique(), Updates(), train=DataLoader(Vectors(), 16, sampler=sampler))
    assert sampler.updates == 4
