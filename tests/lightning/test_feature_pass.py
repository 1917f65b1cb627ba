"""The feature pass sees the images and leaves no trace."""

import copy
import gc
import os
import random
import signal
import warnings

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch.utils.data import Dataset
from toys import PlainModule, Vectors, loader, trainer

from divconq_pl import DivideConquerCallback, InputError
from divconq_pl.lightning.feature_pass import evaluating, extract_features


def extract(*arguments, **options):
    rows = []
    extract_features(*arguments, rows.append, **options)
    return torch.cat(rows)


class Network(nn.Module):
    """A backbone with layers that behave differently in training, one of them in evaluation mode for good."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Dropout(0.5), nn.BatchNorm1d(5))
        self.embedding = nn.Linear(5, 3)
        self.other = nn.Linear(3, 3)
        self.backbone[3].eval()

    def forward(self, x):
        return self.other(self.embedding(self.backbone(x)))


def modes(network):
    return {name: part.training for name, part in network.named_modules()}


def unit(rows):
    return rows / rows.square().sum(1, keepdim=True).sqrt()


@pytest.mark.parametrize("side", ["input", "output"])
def test_features_are_those_of_the_network_in_evaluation_mode_with_length_one(side):
    network, images = Network(), torch.randn(11, 6)
    before, state = modes(network), copy.deepcopy(network.state_dict())
    features = extract(network, network.embedding, images.split(4), network, side=side)
    twin = copy.deepcopy(network).eval()
    expected = twin.backbone(images) if side == "input" else twin.embedding(twin.backbone(images))
    assert torch.allclose(features, unit(expected), atol=1e-6)
    assert features.dtype == torch.float32
    assert modes(network) == before
    assert before["backbone.0"]
    assert not before["backbone.3"]
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in state.items())  # BatchNorm's, too


def test_features_carry_no_gradient_and_nothing_is_looked_at_afterwards():
    network = Network()
    features = extract(network, network.embedding, [torch.randn(4, 6)], network)
    assert not features.requires_grad
    assert all(parameter.grad is None for parameter in network.parameters())
    assert torch.is_grad_enabled()
    assert not network.embedding._forward_pre_hooks
    assert not network.embedding._forward_hooks


def test_features_of_a_whole_backbone_are_what_comes_out_of_it_in_single_precision():
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten()).to(torch.bfloat16)
    images = torch.randn(4, 1, 5, 5, dtype=torch.bfloat16)
    for side in ("input", "output"):
        features = extract(network, network, [images], network, side=side)
        assert features.dtype == torch.float32
        assert torch.allclose(features, unit(network(images).float()), atol=1e-6)


def test_a_layer_that_gives_no_vectors_is_refused():
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten())
    with pytest.raises(InputError, match=r"Conv2d gives a tensor of shape \(4, 2, 3, 3\), not one vector per image"):
        extract(network, network[0], [torch.randn(4, 1, 5, 5)], network)


def test_whatever_goes_wrong_in_a_batch_leaves_the_network_as_it_was():
    network = Network()
    before = modes(network)

    def broken(batch):
        raise OSError("disk on fire")

    def interrupted(batch):
        raise KeyboardInterrupt

    for forward, error in ((broken, OSError), (interrupted, KeyboardInterrupt)):
        with pytest.raises(error):
            extract(network, network.embedding, [torch.randn(4, 6)], forward)
        assert modes(network) == before
        assert not network.embedding._forward_pre_hooks


def test_evaluation_ends_where_it_began():
    network = Network()
    before = modes(network)
    with evaluating(network):
        assert not any(modes(network).values())
    assert modes(network) == before


def test_the_layer_has_to_run():
    network = Network()
    with pytest.raises(InputError, match=r"layer did not run in a forward pass of Network; name .* override embed"):
        extract(network, network.embedding, [torch.randn(4, 6)], network.backbone)


def test_of_several_runs_in_a_forward_pass_the_first_one_counts():
    network, images = Network(), torch.randn(4, 6)
    expected = extract(network, network.embedding, [images], network)
    twice = extract(network, network.embedding, [images], lambda x: [network(x), network(x.flip(-1))])
    assert torch.equal(twice, expected)


def test_what_the_network_returns_can_be_the_features():
    network, images = Network(), torch.randn(4, 6)
    features = extract(network, network.embedding, [images], network, side="returned")
    assert torch.allclose(features, unit(copy.deepcopy(network).eval()(images)), atol=1e-6)
    with pytest.raises(InputError, match=r"embed.* returned a NoneType, not one vector per item"):
        extract(network, network.embedding, [images], lambda x: None, side="returned")


class Augmented(Vectors):
    """Draws from each source of random numbers for every item."""

    def __getitem__(self, i):
        noise = torch.rand(1).item() + np.random.rand() + random.random()
        values, target, index = super().__getitem__(i)
        return values + 0.01 * noise, target, index


def states():
    return torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()


class Look(pl.Callback):
    """Write down the random states at the start of every epoch."""

    def __init__(self):
        self.seen = []

    def on_train_epoch_start(self, trainer, module):
        self.seen.append(states())


@pytest.mark.parametrize("workers", [0, 2])
def test_a_division_draws_no_random_numbers_of_the_training(workers):
    pl.seed_everything(1, verbose=False)
    before, after = Look(), Look()
    divide = DivideConquerCallback(split_depth=1, every_n_epochs=1)
    module = PlainModule(dropout=0.5)
    trainer(before, divide, after, max_epochs=3).fit(module, loader(Augmented(), num_workers=workers))
    assert len(divide.history) == 2
    assert before.seen == after.seen
    assert before.seen[0] != before.seen[1]


def divided(data=None, module=None, **options):
    """Divide once, before the first batch, and return the callback."""
    divide = DivideConquerCallback(split_depth=2, warmup_epochs=0, flat=True, images_per_class=2, **options)
    trainer(divide, max_epochs=1).fit(module or PlainModule(), loader(data))
    return divide


class Damaged(Vectors):
    """Some images that are no numbers, and a name for each."""

    def __init__(self, bad):
        super().__init__()
        self.values[[9, 6, 60, 61], [0, 3, 4, 5]] = bad

    def name_of(self, i):
        return f"picture-{i}.png"


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_images_whose_features_are_no_numbers_are_counted_and_named(bad):
    first = r"image 6 \(picture-6.png\), image 9 \(picture-9.png\), image 60 \(picture-60.png\)"
    with pytest.raises(InputError, match=rf"the features of 4 of 192 images are NaN or infinite \(first: {first}\)"):
        divided(Damaged(bad))


class Hungry(PlainModule):
    """Runs out of memory with more than a few images at once, outside of the training."""

    error, most = RuntimeError("[enforce fail at alloc_cpu.cpp:128] DefaultCPUAllocator: can't allocate memory"), 3

    def forward(self, x):
        if not self.training and len(x) > self.most:
            raise self.error
        return super().forward(x)


@pytest.mark.parametrize(
    ("error", "labels"),
    [(Hungry.error, "kept"), (torch.OutOfMemoryError("CUDA out of memory."), "in batches")],
    ids=["CPU", "GPU"],
)
def test_where_memory_runs_out_the_pass_goes_on_with_smaller_batches(monkeypatch, error, labels):
    monkeypatch.setattr(Hungry, "error", error)
    if labels == "in batches":
        monkeypatch.setattr(DivideConquerCallback, "dataset_labels", lambda self, dataset: None)
    runs = []
    for kind in (PlainModule, Hungry):
        torch.manual_seed(0)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            divide = divided(module=kind())
        runs.append((divide.division.assignment.tolist(), torch.get_rng_state().tolist()))
        said = [str(warning.message) for warning in said if "memory ran out" in str(warning.message)]
        assert len(said) == (kind is Hungry)
    assert said[0].endswith("with batches of 16 images; it went on with batches of 2")
    assert runs[0] == runs[1]


def test_an_error_that_smaller_batches_do_not_help_with_passes(monkeypatch):
    monkeypatch.setattr(Hungry, "most", 0)
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        divided(module=Hungry())


def test_a_network_that_fails_in_evaluation_mode_is_refused_before_the_training(monkeypatch):
    monkeypatch.setattr(Hungry, "error", RuntimeError("shapes do not match"))
    with pytest.raises(InputError, match=r"no features .* evaluation mode .*'head': RuntimeError: shapes do not match"):
        divided(module=Hungry())


class Deadly(Vectors):
    """Ends the worker that reads it."""

    def __getitem__(self, i):
        os.kill(os.getpid(), signal.SIGKILL) if torch.utils.data.get_worker_info() else None
        return super().__getitem__(i)


def test_a_worker_that_dies_is_said_to_have_died():
    divide = DivideConquerCallback(split_depth=1, warmup_epochs=0, cluster_dataset=Deadly())
    with pytest.raises(RuntimeError, match=r"worker of the training loader died .*num_workers=0") as raised:
        trainer(divide, max_epochs=1).fit(PlainModule(), loader(num_workers=1))
    assert "DataLoader worker" in str(raised.value.__cause__)


def test_a_collapsed_network_is_said_to_be_one_and_divided_as_far_as_possible():
    module = PlainModule()
    with torch.no_grad():
        module.backbone[0].weight.mul_(1e-4)
        module.backbone[0].bias.fill_(1.0)
    with pytest.warns(UserWarning, match=r"features have collapsed: two images are [\d.e-]+ apart on average") as said:
        divide = divided(module=module)
    assert sum("collapsed" in str(warning.message) for warning in said) == 1
    assert divide.division.depth == 2


def test_a_healthy_network_is_not_said_to_have_collapsed():
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*collapsed")
        divided()


class Short(Dataset):
    """A data set whose loader leaves images out of its batches."""

    targets = Vectors().targets

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, i):
        return Vectors()[i] if i != 7 else None


def test_batches_that_leave_images_out_are_refused():
    def collate(items):
        return torch.utils.data.default_collate([item for item in items if item is not None])

    divide = DivideConquerCallback(split_depth=1, warmup_epochs=0)
    with pytest.raises(InputError, match=r"held 191 of 192 images.*collate_fn"):
        trainer(divide, max_epochs=1).fit(PlainModule(), loader(Short(), collate_fn=collate))


def test_features_in_a_file_divide_as_those_in_memory(tmp_path):
    data, folder = Vectors(), tmp_path / "new" / "store"
    data.values = (
        20 * (data.targets % 4)[:, None] + data.values
    )  # four groups far apart: half precision does not matter
    runs = []
    for options in ({}, {"feature_store": folder}, {"feature_store": str(folder), "clustering": "torch"}):
        torch.manual_seed(0)
        runs.append(divided(data, **options).division.assignment.tolist())
    assert runs[0] == runs[1] == runs[2]
    assert len(set(runs[0])) == 4
    assert not list(folder.iterdir())


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="needs /proc")
def test_the_file_is_gone_after_a_division_and_after_an_error(tmp_path):
    def files():
        links = [os.path.join("/proc/self/fd", name) for name in os.listdir("/proc/self/fd")]
        return [target for link in links if os.path.lexists(link) and str(tmp_path) in (target := os.readlink(link))]

    seen = []

    def cluster(features, num_clusters, *, seed):
        seen.append((features.dtype, files()))
        raise OSError("disk on fire")

    with pytest.raises(OSError, match="disk on fire"):
        divided(clustering=cluster, feature_store=tmp_path / "store")
    assert seen[0][0] == torch.float16
    assert len(seen[0][1]) == 1
    gc.collect()  # an error keeps what was in use where it was raised, until it is forgotten
    assert files() == []
    divided(feature_store=tmp_path / "store")
    assert files() == []


def test_a_clustering_of_ones_own_gets_plain_rows():
    seen = []

    def cluster(features, num_clusters, *, seed):
        seen.append((type(features), tuple(features.shape), num_clusters))
        return torch.arange(len(features)) % num_clusters

    divided(clustering=cluster)
    assert seen == [(torch.Tensor, (192, 20), 4)]
    with pytest.raises(InputError, match=r"gave a tensor of shape \(3,\) for 192 images and 4 clusters"):
        divided(clustering=lambda features, num_clusters, *, seed: torch.zeros(3))
    with pytest.raises(InputError, match="clustering='sklearn' is unknown; choose 'auto', 'faiss'"):
        DivideConquerCallback(clustering="sklearn")


@pytest.mark.parametrize("where", ["module", "data module"])
def test_a_hook_that_augments_batches_in_training_leaves_the_feature_pass_alone(where):
    """The pattern that Lightning documents for augmentation on the GPU."""
    seen = []

    def augment(self, batch, dataloader_idx):
        if self.trainer.training:
            batch[0] = batch[0] + 1000
        seen.append((self.trainer.training, bool(batch[0].mean() > 500)))
        return batch

    module, data = PlainModule(), pl.LightningDataModule.from_datasets(Vectors(), batch_size=16)
    owner = module if where == "module" else data
    owner.on_after_batch_transfer = augment.__get__(owner)
    callback = DivideConquerCallback(split_depth=1, every_n_epochs=1)
    trainer(callback, max_epochs=2).fit(module, datamodule=data)
    assert seen.count((False, False)) >= 12  # one look at all images, and one before the first step
    assert seen.count((True, True)) == len(seen) - seen.count((False, False)) >= 24


def test_after_the_feature_pass_the_trainer_trains_also_if_it_failed():
    class Fails(PlainModule):
        def forward(self, x):
            if not self.training and self.current_epoch:
                raise ArithmeticError
            return super().forward(x)

    class Spy(pl.Callback):
        def on_exception(self, trainer, module, exception):
            stages.append(trainer.training)

    stages = []
    with pytest.raises(ArithmeticError):
        trainer(DivideConquerCallback(split_depth=1, every_n_epochs=1), Spy()).fit(Fails(), loader())
    assert stages == [True]
