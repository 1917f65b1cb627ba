"""The callback in somebody else's project."""

import copy
import re
from functools import partial

import pytest
import pytorch_lightning as pl
import torch
from pytorch_metric_learning import losses, miners
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset
from toys import CLASSES, PER_CLASS, WIDTH, PlainModule, Vectors, loader, same, trainer, weights

from divconq_pl import ConquerScheduler, DivideConquerCallback, InputError, LearnedSubspaces, Stage, Subspaces


class Witness(pl.Callback):
    """Write down what every batch was, and what gradient it left."""

    def __init__(self, callback):
        self.callback = callback
        self.batches = []

    def on_after_backward(self, trainer, module):
        self.gradient = module.head.weight.grad.clone()
        self.backbone_gradient = module.backbone[0].weight.grad.clone()
        masks = self.callback.subspaces or nn.Module()
        self.masks = [m.grad is not None and bool(m.grad.abs().sum()) for m in masks.parameters()]

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.batches.append(
            {
                "epoch": trainer.current_epoch,
                "images": batch[2].tolist(),
                "labels": batch[1].tolist(),
                "phase": self.callback.stage.phase,
                "depth": self.callback.stage.depth,
                "rows": self.gradient.abs().sum(1).nonzero().flatten().tolist(),
                "backbone": bool(self.backbone_gradient.abs().sum()),
                "masks": self.masks,
                "assignment": None if self.callback.division is None else self.callback.division.assignment.clone(),
            }
        )


def run(callback, module=None, train=None, **options):
    module, witness = module or PlainModule(), Witness(callback)
    # The callback runs first, so the witness sees what a batch was before it is reset at the batch's end.
    trainer(callback, witness, **options).fit(module, train or loader(), DataLoader(Vectors(seed=1), batch_size=64))
    return module, witness.batches


@pytest.mark.parametrize("workers", [0, 2])
def test_depth_zero_is_the_plain_training_bit_for_bit(workers):
    plain = PlainModule(dropout=0.1)
    divided = copy.deepcopy(plain)
    pl.seed_everything(3)
    trainer(max_epochs=2).fit(plain, loader(num_workers=workers))
    pl.seed_everything(3)
    trainer(DivideConquerCallback(split_depth=0), max_epochs=2).fit(divided, loader(num_workers=workers))
    assert same(weights(plain), weights(divided))


def test_before_the_first_division_training_is_the_plain_one():
    plain = PlainModule(dropout=0.1)
    divided = copy.deepcopy(plain)
    pl.seed_everything(3)
    trainer(max_epochs=2).fit(plain, loader())
    pl.seed_everything(3)
    trainer(DivideConquerCallback(split_depth=1, warmup_epochs=2), max_epochs=2).fit(divided, loader())
    assert same(weights(plain), weights(divided))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_batch_comes_from_one_cluster_and_has_pairs_until_the_conquer_stage(workers):
    callback = DivideConquerCallback(split_depth=2, every_n_epochs=1, conquer_at=4)
    train = loader(num_workers=workers, persistent_workers=workers > 0)
    _, batches = run(callback, train=train)
    assert [b["phase"] for b in batches[:: len(train)]] == ["undivided"] + ["divided"] * 3 + ["conquered"] * 2
    divided = [b for b in batches if b["phase"] == "divided"]
    for batch in divided:
        assert len({int(batch["assignment"][i]) for i in batch["images"]}) == 1
        counts = {label: batch["labels"].count(label) for label in batch["labels"]}
        assert len(counts) >= 2
        assert max(counts.values()) >= 2
    conquered = [b for b in batches if b["phase"] == "conquered"]
    assert sorted(i for b in conquered[: len(train)] for i in b["images"]) == list(range(CLASSES * PER_CLASS))


def test_a_batch_trains_its_own_slice_and_the_backbone():
    _, batches = run(DivideConquerCallback(split_depth=2, every_n_epochs=1))
    for batch in (b for b in batches if b["phase"] == "divided"):
        learner = int(batch["assignment"][batch["images"][0]])
        width = WIDTH >> batch["depth"]
        assert set(batch["rows"]) <= set(range(learner * width, (learner + 1) * width))
        assert batch["backbone"] == bool(batch["rows"])
    assert {len(b["rows"]) for b in batches if b["phase"] == "undivided"} == {WIDTH}
    assert any(b["rows"] for b in batches if b["depth"] == 2)


def test_a_batch_trains_its_own_learned_mask():
    make = partial(LearnedSubspaces, orthogonality_weight=0.0)
    callback = DivideConquerCallback(split_depth=1, every_n_epochs=1, subspaces=make)
    _, batches = run(callback)
    divided = [b for b in batches if b["phase"] == "divided"]
    for batch in divided:
        learner = int(batch["assignment"][batch["images"][0]])
        assert [k for k, trained in enumerate(batch["masks"]) if trained] in ([learner], [])
    assert {int(b["assignment"][b["images"][0]]) for b in divided} == {0, 1}
    assert not torch.equal(*callback.subspaces.masks)


def test_learned_masks_are_pushed_apart():
    def cosine(weight):
        pl.seed_everything(0)
        make = partial(LearnedSubspaces, orthogonality_weight=weight)
        callback = DivideConquerCallback(split_depth=1, every_n_epochs=1, subspaces=make)
        run(callback)
        return torch.cosine_similarity(*(mask.relu() for mask in callback.subspaces.masks), dim=0)

    assert cosine(10.0) < cosine(0.0) - 0.01


class Scaled(Subspaces):
    """A kind of subspaces that somebody else adds, with a parameter of its own."""

    def __init__(self, width, split_depth):
        super().__init__(width, split_depth)
        self.scales = nn.Parameter(torch.ones(2**split_depth, width))

    def part(self, values, dim):
        return (values.movedim(dim, -1) * self.scales[self.learner]).movedim(-1, dim)


def test_a_new_kind_of_subspaces_is_trained_and_leaves_no_key_in_the_module(tmp_path):
    callback = DivideConquerCallback(split_depth=1, every_n_epochs=1, subspaces=Scaled)
    module, keys = PlainModule(), []

    class Spy(pl.Callback):
        def on_train_batch_end(self, trainer, module, *_):
            keys.append((list(module.state_dict()), [name for name, _ in module.named_children()]))

    run(callback, module)
    trainer(callback, Spy(), max_epochs=3).fit(module, loader())
    assert (callback.subspaces.scales != 1).any(dim=1).all()
    assert all(seen == (list(PlainModule().state_dict()), ["backbone", "head", "loss"]) for seen in keys)


@pytest.mark.parametrize("hook", ["setup", "configure_model"])
def test_a_loss_and_a_network_that_are_made_late_are_found(hook):
    class Late(PlainModule):
        def __init__(self):
            super().__init__()
            del self.loss, self.head

        def make(self, stage=None):
            self.head, self.loss = nn.Linear(20, WIDTH), losses.ContrastiveLoss()

    setattr(Late, hook, Late.make)
    _, batches = run(DivideConquerCallback(split_depth=1, every_n_epochs=1), Late())
    own = {k: set(range(8 * k, 8 * k + 8)) for k in range(2)}
    trained = [(set(b["rows"]), int(b["assignment"][b["images"][0]])) for b in batches if b["phase"] == "divided"]
    assert any(rows for rows, _ in trained)
    assert all(rows <= own[learner] for rows, learner in trained)


def test_no_usable_image_is_starved_within_a_division_period():
    callback = DivideConquerCallback(split_depth=2, every_n_epochs=2, images_per_class=2)
    _, batches = run(callback, max_epochs=8)
    for epoch in (2, 4, 6):
        period = [b for b in batches if b["epoch"] in (epoch, epoch + 1)]
        assignment = period[0]["assignment"]
        group = assignment * CLASSES + Vectors().targets
        usable = {i for i in range(len(group)) if int((group == group[i]).sum()) > 1}
        drawn = {i for b in period for i in b["images"]}
        assert drawn <= usable
        assert len(drawn) > 0.97 * len(usable)


def test_the_full_embedding_is_validated_every_epoch_and_the_loader_comes_back():
    seen, drawn_from = [], []

    class Spy(pl.Callback):
        def on_validation_batch_start(self, trainer, module, *_):
            seen.append(callback.subspaces.active)

        def on_train_epoch_end(self, trainer, module):
            seen.append(trainer.train_dataloader is train)
            assert trainer.num_training_batches == len(train)
            drawn_from.append(trainer.fit_loop._combined_loader.flattened[0] is train)

    train = loader()
    callback = DivideConquerCallback(split_depth=1, every_n_epochs=1, conquer_at=3)
    trainer(callback, Spy(), max_epochs=4).fit(module := PlainModule(), train, DataLoader(Vectors(seed=1), 64))
    assert [x for x in seen if not isinstance(x, bool)] == [None] * 12
    assert [x for x in seen if isinstance(x, bool)] == [True] * 4
    assert drawn_from == [True, False, False, True]
    assert sorted(set(module.validated)) == [0, 1, 2, 3]
    assert train.batch_size == 16


def test_the_users_loader_is_told_every_epoch():
    class Epochs(torch.utils.data.RandomSampler):
        def set_epoch(self, epoch):
            told.append(epoch)

    told = []
    train = DataLoader(Vectors(), batch_size=16, sampler=Epochs(Vectors()))
    run(DivideConquerCallback(split_depth=1, every_n_epochs=1, conquer_at=3), train=train, max_epochs=5)
    assert sorted(set(told)) == [0, 1, 2, 3, 4]


def test_merged_epochs_train_the_full_embedding_on_single_clusters():
    _, batches = run(DivideConquerCallback(split_depth=1, every_n_epochs=1, merge_at=3, conquer_at=5))
    merged = [b for b in batches if b["phase"] == "merged"]
    assert {b["epoch"] for b in merged} == {3, 4}
    assert {len(b["rows"]) for b in merged} == {WIDTH}
    assert all(len({int(b["assignment"][i]) for i in b["images"]}) == 1 for b in merged)


def test_progressive_conquering_merges_siblings():
    callback = DivideConquerCallback(split_depth=2, every_n_epochs=1, conquer_at=4, progressive=True)
    _, batches = run(callback)
    half = [b for b in batches if b["epoch"] == 4]
    assert {b["depth"] for b in half} == {1}
    for batch in half:
        assert len({int(batch["assignment"][i]) // 2 for i in batch["images"]}) == 1
    assert any(len({int(b["assignment"][i]) for i in b["images"]}) == 2 for b in half)
    assert {b["phase"] for b in batches if b["epoch"] == 5} == {"conquered"}


def test_a_frozen_backbone_stays_where_it_is_and_the_head_learns():
    module, snapshots = PlainModule(), []

    class Spy(pl.Callback):
        def on_train_epoch_start(self, trainer, module):
            snapshots.append(weights(module))

    callback = DivideConquerCallback(split_depth=1, every_n_epochs=2, freeze_epochs=1)
    trainer(callback, Spy(), max_epochs=5).fit(module, loader())
    frozen, trained = (
        torch.equal(snapshots[epoch][name], snapshots[epoch + 1][name])
        for epoch, name in ((2, "backbone.0.weight"), (3, "backbone.0.weight"))
    )
    assert frozen
    assert not trained
    assert not torch.equal(snapshots[2]["head.weight"], snapshots[3]["head.weight"])


class Slow(Vectors):
    """A data set whose labels are names, known only by reading it; its items are dictionaries."""

    def __init__(self):
        super().__init__()
        self.__dict__["hidden"] = self.__dict__.pop("targets")

    def __len__(self):
        return len(self.hidden)

    def __getitem__(self, i):
        return {"vector": self.values[i], "species": f"bird {int(self.hidden[i]):03d}", "index": i}


class DictModule(PlainModule):
    def training_step(self, batch, batch_idx):
        labels = torch.tensor([int(name[-3:]) for name in batch["species"]])
        return self.loss(self(batch["vector"]), labels)


def test_batches_of_any_form_and_labels_known_only_by_reading():
    class Adapted(DivideConquerCallback):
        def batch_inputs(self, batch):
            return batch["vector"]

        def batch_labels(self, batch):
            return batch["species"]

    callback = Adapted(split_depth=1, every_n_epochs=1)
    trainer(callback, max_epochs=3).fit(DictModule(), loader(Slow()))
    assert callback.history[-1]["clusters"] == 2
    with pytest.raises(InputError, match=r"'vector', 'species', 'index'.*override .*batch_labels"):
        trainer(DivideConquerCallback(split_depth=1, every_n_epochs=1)).fit(DictModule(), loader(Slow()))


def test_clusters_come_from_the_features_before_the_embedding_layer_in_evaluation_mode():
    calls = []

    def cluster(features, num_clusters, *, seed):
        calls.append(features.clone())
        return torch.arange(len(features)) // PER_CLASS % num_clusters

    module = PlainModule(dropout=0.5)
    callback = DivideConquerCallback(split_depth=1, every_n_epochs=1, clustering=cluster)
    modes = []

    class Spy(pl.Callback):
        def on_train_epoch_start(self, trainer, module):
            if trainer.current_epoch == 1:
                modes.append([m.training for m in module.modules()])
                self.expected = nn.functional.normalize(module.backbone.eval()(Vectors().values))
                module.backbone.train()

    spy = Spy()
    module.loss.eval()
    trainer(callback, spy, max_epochs=2).fit(module, loader())
    assert torch.allclose(calls[0], spy.expected, atol=1e-6)
    assert modes[0].count(False) >= 1
    assert module.backbone.training


def test_the_embedding_itself_can_be_clustered():
    widths = []

    def cluster(features, num_clusters, *, seed):
        widths.append(features.shape[1])
        return torch.arange(len(features)) // PER_CLASS % num_clusters

    callback = DivideConquerCallback(split_depth=1, every_n_epochs=1, clustering=cluster, cluster_on="embedding")
    trainer(callback, max_epochs=2).fit(PlainModule(), loader())
    assert set(widths) == {WIDTH}


def test_a_checkpoint_is_the_users_own_module(tmp_path):
    callback = DivideConquerCallback(split_depth=1, every_n_epochs=1, subspaces="learned")
    fitted = trainer(callback, max_epochs=2)
    fitted.fit(PlainModule(), loader())
    fitted.save_checkpoint(tmp_path / "own.ckpt")
    restored = PlainModule.load_from_checkpoint(tmp_path / "own.ckpt", weights_only=True)
    assert set(restored.state_dict()) == set(PlainModule().state_dict())


def test_a_state_of_an_unknown_version_is_refused():
    callback = DivideConquerCallback()
    state = {**callback.state_dict(), "version": 99}
    with pytest.raises(InputError, match="version 99"):
        callback.load_state_dict(state)


class Stream(IterableDataset):
    def __iter__(self):
        return iter(zip(Vectors().values, Vectors().targets, strict=True))


class Wide(PlainModule):
    def __init__(self):
        super().__init__()
        self.classifier = nn.Linear(WIDTH, 100)


MANY_BATCHES = {"train": loader(batch_size=4), "images_per_class": 2}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train": DataLoader(Stream(), batch_size=16)}, "Stream is an IterableDataset"),
        ({"train": DataLoader(Vectors(), batch_size=None)}, "batch_size=None"),
        ({"train": [1, 2, 3]}, "a list"),
        ({"train": loader(batch_size=18)}, r"batch_size=18 .*images_per_class=4.*batch_size=16 or batch_size=20"),
        ({"train": loader(batch_size=64), "split_depth": 2}, "3 batches cannot serve 4 learners"),
        (
            {"split_depth": 5, "images_per_class": 2, "train": loader(batch_size=4)},
            r"32 learners, more than .*\(16\).*split_depth=2",
        ),
        ({"module": PlainModule(width=18), "split_depth": 2}, "width 18 cannot be cut into 4.*width of 16 or 20"),
        (
            {"module": Wide(), "embedding": "classifier"},
            "embedding='classifier' names a layer, 100 wide, .* 16 wide and comes from 'head'; use embedding='head'",
        ),
        ({"module": Wide(), "embedding": "haed"}, "Wide has no layer 'haed'.*head"),
        ({"train": loader(Vectors(torch.arange(192) // 96))}, None),
        ({"train": loader(Vectors(torch.zeros(192).long()))}, "192 images of 1 classes"),
        ({"train": loader(Vectors(torch.arange(192)))}, "0 of them with two or more images"),
        ({"cluster_dataset": Vectors(torch.arange(20) // 4)}, "20 images and the training data set 192"),
        ({"cluster_dataset": Vectors(torch.arange(CLASSES).repeat(PER_CLASS))}, "labels of cluster_dataset differ"),
        ({"isolate": True, "subspaces": "learned"}, "LearnedSubspaces share all of them"),
        ({"conquer_at": 0.5, "max_epochs": -1}, "conquer_at=0.5 is a fraction of max_epochs, which is not set"),
    ],
)
def test_bad_input_gets_a_message_that_says_what_would_work(change, message):
    change = dict(change)
    module = change.pop("module", None) or PlainModule()
    train = change.pop("train") if "train" in change else loader()
    options = {"max_epochs": change.pop("max_epochs", 3)}
    settings = {"split_depth": 1, "every_n_epochs": 1, **change}
    if message is None:
        trainer(DivideConquerCallback(**settings), **options).fit(module, train)
        return
    with pytest.raises(InputError, match=message):
        trainer(DivideConquerCallback(**settings), **options).fit(module, train)


@pytest.mark.parametrize("settings", [{"subspaces": "fluid"}, {"cluster_on": "pixels"}])
def test_unknown_choices_are_refused_at_once(settings):
    value = next(iter(settings.values()))
    with pytest.raises(InputError, match=f"{value!r} is unknown"):
        DivideConquerCallback(**settings)


def test_diverged_features_are_reported_before_the_division():
    class Diverges(PlainModule):
        def training_step(self, batch, batch_idx):
            self.backbone[0].weight.data.fill_(float("nan"))

    with pytest.raises(InputError, match=r"192 of 192 images are NaN or infinite \(first: image 0, image 1, image 2\)"):
        trainer(DivideConquerCallback(split_depth=1, every_n_epochs=1)).fit(Diverges(), loader())


def test_data_that_cannot_be_split_so_far_are_trained_with_fewer_learners():
    labels = torch.arange(192) // 4  # two classes in every 8 images, but the clusters below are of 6 and fewer

    def lopsided(features, num_clusters, *, seed):
        return (torch.arange(len(features)) < 6).long() if num_clusters == 2 else torch.arange(len(features)) % 4

    callback = DivideConquerCallback(split_depth=3, every_n_epochs=1, clustering=lopsided)
    with pytest.warns(UserWarning, match="could not be divided into 4 clusters .* 2 clusters are used"):
        trainer(callback, max_epochs=4).fit(PlainModule(width=32), loader(Vectors(labels)))
    assert callback.history[-1]["clusters"] == 2
    assert all(classes >= 2 for classes in callback.history[-1]["classes"])


def test_clusters_that_cannot_be_made_anew_stay_and_that_is_said():
    def cluster(features, num_clusters, *, seed):
        first_time.append(seed)
        usable = torch.arange(len(features)) // PER_CLASS % num_clusters
        return usable if len(first_time) == 1 else torch.zeros(len(features), dtype=torch.int64)

    first_time = []
    callback = DivideConquerCallback(split_depth=1, every_n_epochs=1, clustering=cluster)
    with pytest.warns(UserWarning, match="could not be clustered anew into 2 clusters .* stay as they were"):
        _, batches = run(callback, max_epochs=3)
    assert torch.equal(batches[-1]["assignment"], torch.arange(CLASSES * PER_CLASS) // PER_CLASS % 2)
    assert {batch["depth"] for batch in batches if batch["epoch"] > 0} == {1}


def test_a_schedule_that_never_gets_deep_enough_is_said_at_the_start():
    with pytest.warns(UserWarning, match=r"split_depth=3 would be reached in epoch 6, .*ends with epoch 4"):
        trainer(DivideConquerCallback(split_depth=3, every_n_epochs=2, merge_at=None), max_epochs=4).fit(
            PlainModule(width=32), loader(batch_size=8)
        )


@pytest.mark.parametrize("accumulated", [1, 2])
def test_a_share_of_a_training_by_steps_is_a_share_of_its_epochs(accumulated):
    batches = len(loader())
    steps = 8 * batches // accumulated
    callback = DivideConquerCallback(split_depth=1, every_n_epochs=1, conquer_at=0.5)
    _, trained = run(callback, max_epochs=-1, max_steps=steps, accumulate_grad_batches=accumulated)
    assert {b["epoch"] for b in trained} == set(range(8))
    assert {b["phase"] for b in trained if b["epoch"] >= 4} == {"conquered"}
    assert "conquered" not in {b["phase"] for b in trained if b["epoch"] < 4}


@pytest.mark.parametrize(
    ("given", "named"),
    [({"split_depth": 1}, "split_depth=1"), ({"merge_at": 3, "flat": True}, "merge_at=3, flat=True")],
)
def test_a_schedule_together_with_the_settings_of_another_is_refused(given, named):
    with pytest.raises(InputError, match=f"ConquerScheduler.* comes with {named}; give either"):
        DivideConquerCallback(ConquerScheduler(split_depth=3, merge_at=None), **given)


def test_a_schedule_of_ones_own():
    class Late(ConquerScheduler):
        def stage(self, epoch):
            return Stage("divided", 1, divides=epoch == 2) if epoch >= 2 else Stage("undivided", 0)

    callback = DivideConquerCallback(Late(split_depth=1))
    _, batches = run(callback, max_epochs=4)
    assert [s["epoch"] for s in callback.history] == [2]
    assert {b["phase"] for b in batches if b["epoch"] == 3} == {"divided"}


def test_each_division_is_one_line(caplog):
    with caplog.at_level("INFO", logger="pytorch_lightning.utilities.rank_zero"):
        trainer(DivideConquerCallback(split_depth=1, every_n_epochs=2, conquer_at=5)).fit(PlainModule(), loader())
    lines = [r.getMessage() for r in caplog.records if "division" in r.getMessage() and "epoch" in r.getMessage()]
    pattern = (
        r"division 2 \| epoch 4 \| 2 clusters: \d+ \d+ images, \d+ \d+ classes \| \d+ images? moved, .*NMI \d\.\d+, "
        r"\d+ % of positive pairs kept \| features .* s, k-means .* s, rest .* s"
    )
    assert re.search(pattern, "\n".join(lines))
    assert any(r.getMessage().startswith("conquered | epoch 5") for r in caplog.records)


def test_miners_and_losses_that_own_weights_train_in_their_subspace():
    module = PlainModule(losses.ProxyAnchorLoss(CLASSES, WIDTH), miners.MultiSimilarityMiner())
    before = module.loss.proxies.detach().clone()
    run(DivideConquerCallback(split_depth=2, every_n_epochs=1), module)
    assert (module.loss.proxies != before).any(0).all()
    assert module.loss.proxies.shape == (CLASSES, WIDTH)


class OwnLoss(PlainModule):
    """A loss that is a function in the training step."""

    def __init__(self):
        super().__init__()
        del self.loss

    def training_step(self, batch, batch_idx):
        z, labels = nn.functional.normalize(self(batch[0])), batch[1]
        same, distance = labels[:, None] == labels, 1 - z @ z.T
        return (distance[same].mean() - distance[~same].mean()).exp()


def test_a_loss_that_is_a_function_sees_the_narrowed_output():
    _, batches = run(DivideConquerCallback(split_depth=1, every_n_epochs=1, conquer_at=2), OwnLoss(), max_epochs=3)
    trained = {epoch: {len(b["rows"]) for b in batches if b["epoch"] == epoch} for epoch in range(3)}
    assert trained == {0: {WIDTH}, 1: {WIDTH // 2}, 2: {WIDTH}}
    for batch in (b for b in batches if b["phase"] == "divided"):
        learner = int(batch["assignment"][batch["images"][0]])
        assert {row // (WIDTH // 2) for row in batch["rows"]} == {learner}


class Pooled(PlainModule):
    """The pooled features of a convolutional backbone are the embedding; there is no layer of its own for it."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Unflatten(1, (3, 2, 2)), nn.Conv2d(3, WIDTH, 1), nn.BatchNorm2d(WIDTH), nn.AvgPool2d(2), nn.Flatten()
        )
        self.head = nn.Identity()


def test_pooled_features_can_be_the_embedding():
    widths = []

    def cluster(features, num_clusters, *, seed):
        widths.append(features.shape[1])
        return torch.arange(len(features)) // PER_CLASS % num_clusters

    callback = DivideConquerCallback(split_depth=1, every_n_epochs=1, clustering=cluster)
    trainer(callback, max_epochs=2).fit(Pooled(), loader())
    assert set(widths) == {WIDTH}
    assert callback.history[-1]["clusters"] == 2


def test_labels_that_a_loss_was_not_built_for_are_said():
    module = PlainModule(losses.ProxyNCALoss(CLASSES, WIDTH))
    one_based = Vectors(torch.arange(1, CLASSES + 1).repeat_interleave(PER_CLASS))

    class Renames(PlainModule):
        def training_step(self, batch, batch_idx):
            return super().training_step([batch[0], batch[1] - 1], batch_idx)

    with pytest.warns(UserWarning, match=r"ProxyNCALoss was built for 24 classes, labelled 0 to 23, .* from 1 to 24"):
        trainer(DivideConquerCallback(split_depth=1, every_n_epochs=1), max_epochs=1).fit(
            Renames(module.loss), loader(one_based)
        )


def test_the_same_callback_can_be_fitted_again():
    callback = DivideConquerCallback(split_depth=1, every_n_epochs=1)
    for _ in range(2):
        trainer(callback, max_epochs=3).fit(PlainModule(), loader())
        assert [s["epoch"] for s in callback.history] == [1, 2]


class Counting(Dataset):
    def __init__(self):
        self.inner, self.read = Vectors(), 0

    def __len__(self):
        return len(self.inner)

    def __getitem__(self, i):
        self.read += 1
        return self.inner[i]


def test_the_feature_pass_reads_every_image_of_the_cluster_dataset_once():
    data = Counting()
    callback = DivideConquerCallback(split_depth=1, every_n_epochs=1, cluster_dataset=data)
    trainer(callback, max_epochs=2).fit(PlainModule(), loader())
    assert data.read == CLASSES * PER_CLASS + 16, "and a batch of them before the training begins"
