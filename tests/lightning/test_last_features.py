"""What training has made of the images is clustered in place of what a pass over them makes."""

from functools import partial

import pytest
import torch
from pytorch_metric_learning import losses
from stops import KeepAtException, Stop, StopAt, fit
from torch import nn
from toys import CLASSES, PER_CLASS, PlainModule, Vectors, loader, same, trainer, weights

from divconq_pl import DivideConquerCallback, InputError

IMAGES = CLASSES * PER_CLASS


class Remembering(PlainModule):
    """Writes down what it made of each image, before and after the embedding layer, and what it was shown apart."""

    def __init__(self, **options):
        super().__init__(dropout=0.3, **options)
        self.backbone.insert(1, nn.BatchNorm1d(20))
        self.made, self.looked_at = {}, 0

    def forward(self, x):
        penultimate = self.backbone(x)
        embeddings = self.head(penultimate)
        self.last = penultimate.detach(), embeddings.detach()
        self.looked_at += 0 if self.training else len(x)
        return embeddings

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        for place, image in enumerate(batch[2].tolist()):
            self.made[image] = [values[place] for values in self.last]
        return loss


class OfItsOwn(Remembering):
    """Has no loss of the library's, so the output of its embedding layer is narrowed."""

    def __init__(self):
        super().__init__()
        del self.loss
        self.loss = lambda z, labels, _: losses.ContrastiveLoss()(z, labels)

    def forward(self, x):
        penultimate = self.backbone(x)
        embeddings = self.head(penultimate)
        full = nn.functional.linear(penultimate, self.head.weight, self.head.bias)
        self.last = penultimate.detach(), full.detach()
        self.looked_at += 0 if self.training else len(x)
        return embeddings


def divide(module, *, side=0, limit=1.0, workers=0, **settings):
    """Train, and return for each division the features and what they must be, and how many images it looked at."""
    data, found = Vectors(), []

    def cluster(features, num_clusters, *, seed):
        looked_at, made = module.looked_at, dict(module.made)
        module.eval()
        with torch.no_grad():
            penultimate = module.backbone(data.values)
            rest = [penultimate, nn.functional.linear(penultimate, module.head.weight, module.head.bias)][side]
        module.train()
        expected = [made[i][side] if i in made else rest[i] for i in range(IMAGES)]
        expected = nn.functional.normalize(torch.stack(expected))
        found.append((features.clone(), expected, looked_at, len(made)))
        module.looked_at, module.made = 0, {}
        return torch.arange(len(features)) * num_clusters // len(features)

    callback = DivideConquerCallback(
        split_depth=1, every_n_epochs=1, merge_at=3, features="training", clustering=cluster, **settings
    )
    train = loader(data, num_workers=workers)
    trainer(callback, max_epochs=5, limit_train_batches=limit).fit(module, train)
    return found, callback


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (Remembering, {}),
        (Remembering, {"side": 1, "cluster_on": "embedding", "workers": 2}),
        (partial(Remembering, loss=losses.ContrastiveLoss()), {"subspaces": "learned", "limit": 5}),
        (OfItsOwn, {"side": 1, "cluster_on": "embedding", "subspaces": "learned"}),
        (Remembering, {"limit": 5, "feature_store": True}),
    ],
    ids=["penultimate", "embedding", "learned", "narrowed output", "in a file"],
)
def test_what_is_divided_is_what_training_made_of_each_image_and_a_pass_of_the_others(make, options, tmp_path):
    if options.get("feature_store"):
        options = {**options, "feature_store": tmp_path}
    module = make()
    found, callback = divide(module, **options)
    first, *others = found
    assert first[2] == IMAGES, "the batches of the user's own loader are not looked at"
    assert len(others) == 3
    for features, expected, looked_at, made in others:
        assert features.dtype == torch.float16
        assert torch.allclose(features.float(), expected, atol=1e-3)
        assert looked_at == IMAGES - made
        assert made >= (60 if "limit" in options else 0.9 * IMAGES)
    assert len(callback.history) == 4


def test_a_compiled_network_shows_them_too():
    plain, compiled = Remembering(), Remembering()
    compiled.load_state_dict(plain.state_dict())
    torch.compiler.reset()
    compiled.head.compile(backend="eager")
    torch.manual_seed(0)
    expected, _ = divide(plain)
    torch.manual_seed(0)
    found, _ = divide(compiled)
    torch.compiler.reset()
    assert len(found) == len(expected) == 4
    assert all(torch.equal(f[0], e[0]) and f[2] == e[2] for f, e in zip(found, expected, strict=True))


class Twice(PlainModule):
    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx) + self(batch[0]).square().mean()


class TwoViews(PlainModule):
    def training_step(self, batch, batch_idx):
        images, labels, _ = batch
        return self.loss(self(torch.cat([images, images + 0.1])), torch.cat([labels, labels]))


class Unlabelled(Vectors):
    """A data set of which only the batches tell the classes."""

    def __getattribute__(self, name):
        if name == "targets" and "ready" in vars(self):
            raise AttributeError(name)
        return super().__getattribute__(name)

    def __getitem__(self, i):
        return self.values[i], vars(self)["targets"][i], i

    def __len__(self):
        return IMAGES


def unlabelled():
    data = Unlabelled()
    data.ready = True
    return loader(data)


class FirstOfTwo(PlainModule):
    def training_step(self, batch, batch_idx):
        return super().training_step(batch[0], batch_idx)


@pytest.mark.parametrize(
    ("make", "data", "says"),
    [
        (Twice, loader, r"ran 2 times in a step of 16 images and made tensors of shape \(16, 20\) and \(16, 20\); use"),
        (
            TwoViews,
            loader,
            r"ran 1 times in a step of 16 images and made tensors of shape \(32, 20\); use features",
        ),
        (PlainModule, unlabelled, "Unlabelled does not tell their classes; .* or use features='exact'"),
        (FirstOfTwo, lambda: [loader(), loader()], "needs a single training loader, .* use features='exact'"),
    ],
    ids=["two passes", "two views", "no labels", "two loaders"],
)
def test_what_cannot_be_noted_is_refused_in_words(make, data, says):
    options = {"split_depth": 1, "every_n_epochs": 1, "merge_at": None}
    trainer(DivideConquerCallback(**options), max_epochs=3).fit(make(), data())
    with pytest.raises(InputError, match=says):
        trainer(DivideConquerCallback(**options, features="training"), max_epochs=3).fit(make(), data())


def test_batchnorm_that_takes_away_what_tells_clusters_apart_is_told_of(recwarn):
    def told(make):
        recwarn.clear()
        options = {"split_depth": 1, "every_n_epochs": 1, "merge_at": None, "features": "training"}
        trainer(DivideConquerCallback(**options), max_epochs=1).fit(make(), loader())
        return any("BatchNorm layers in training mode" in str(warning.message) for warning in recwarn)

    class Frozen(Remembering):
        def train(self, mode=True):
            super().train(mode)
            self.backbone[1].eval()
            return self

    assert told(Remembering)
    assert not told(PlainModule)
    assert not told(Frozen)


def test_a_second_fit_of_the_same_callback_knows_nothing_of_the_first():
    callback = DivideConquerCallback(split_depth=1, every_n_epochs=1, merge_at=None, features="training")
    ends = []
    for _ in range(2):
        torch.manual_seed(0)
        module = PlainModule()
        trainer(callback, max_epochs=4).fit(module, loader())
        ends.append(weights(module))
    assert same(*ends)


TRAINING = {"divide": {"features": "training"}}


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    """A run that was never stopped, and the folder of all its checkpoints."""
    folder = tmp_path_factory.mktemp("whole_run")
    return fit(folder, **TRAINING)[0], folder


@pytest.mark.parametrize(("before", "step"), [(True, 14), (True, 31), (False, 25)])
@pytest.mark.parametrize("hook", ["on_train_batch_start", "on_after_backward", "on_train_batch_end"])
def test_a_batch_that_failed_is_noted_when_it_is_run_again(whole_run, hook, step, before, tmp_path):
    straight, _ = whole_run
    with pytest.raises(Stop):
        fit(None, None, StopAt(hook, step), KeepAtException(tmp_path), before=before, **TRAINING)
    resumed, _ = fit(None, tmp_path / "exception.ckpt", seed=9, **TRAINING)
    assert same(weights(straight), weights(resumed))


def test_a_checkpoint_carries_what_the_next_division_asks_for_and_no_more(whole_run):
    def carried(name):
        path = whole_run[1] / f"{name}.ckpt"
        return torch.load(path, weights_only=True)["callbacks"]["DivideConquerCallback"]["features"]

    assert carried("012-epoch") is None, "no batch of the user's own loader is noted"
    early, late = carried("014-step"), carried("024-epoch")
    assert len(early["images"]) <= 2 * 16 < 0.8 * IMAGES < len(late["images"]) <= IMAGES
    assert late["rows"].dtype == torch.float16
    assert late["rows"].shape == (len(late["images"]), 20)
    assert len(carried("025-step")["images"]) <= 16, "the division at epoch 2 begins anew"
    assert carried("048-epoch") is None, "after the last division nothing is noted"
