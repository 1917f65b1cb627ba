"""One line in projects of all kinds: each trains as the documentation says, or is refused before its first step."""

import random

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_metric_learning import losses
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from toys import CLASSES, PER_CLASS, WIDTH, PlainModule, Vectors, loader, same, trainer, weights
from witnesses import Unique, assert_divided, fit

from divconq_pl import InputError


def lines(caplog):
    return [record.getMessage() for record in caplog.records]


@pytest.fixture(autouse=True)
def _log(caplog):
    caplog.set_level("INFO", logger="pytorch_lightning.utilities.rank_zero")


class Project(pl.LightningModule):
    """A backbone and an embedding layer, and nothing else yet."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(12, 20), nn.ReLU())
        self.head = nn.Linear(20, WIDTH)

    def forward(self, x):
        return self.head(self.backbone(x))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-2)


class ReIdentification(Project):
    """A triplet loss on the features, and cross entropy on them behind a normalisation: the usual strong baseline."""

    def __init__(self):
        super().__init__()
        self.bottleneck = nn.BatchNorm1d(WIDTH)
        self.bottleneck.bias.requires_grad_(False)
        self.classifier = nn.Linear(WIDTH, CLASSES, bias=False)
        self.triplet = losses.TripletMarginLoss(margin=0.3)

    def training_step(self, batch, batch_idx):
        features, labels = self(batch[0]), batch[1]
        return self.triplet(features, labels) + F.cross_entropy(self.classifier(self.bottleneck(features)), labels)


class ClassifierOnly(Project):
    """Plain cross entropy; what the classifier is given is the embedding."""

    def __init__(self):
        super().__init__()
        self.classifier = nn.Linear(WIDTH, CLASSES)
        self.criterion = nn.CrossEntropyLoss(label_smoothing=0.1)

    def training_step(self, batch, batch_idx):
        return self.criterion(self.classifier(F.dropout(self(batch[0]), 0.1)), batch[1])


class ArcHead(nn.Module):
    """An additive angular margin, as it is found in a hundred repositories."""

    def __init__(self, centres=1):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(CLASSES * centres, WIDTH))
        self.centres = centres

    def forward(self, z, labels):
        cosine = F.linear(F.normalize(z), F.normalize(self.weight)).view(len(z), CLASSES, self.centres).amax(2)
        angle = cosine.clamp(-1 + 1e-6, 1 - 1e-6).acos() + 0.2 * F.one_hot(labels, CLASSES)
        return 16 * angle.cos()


class Landmarks(Project):
    def __init__(self, centres=1):
        super().__init__()
        self.arc = ArcHead(centres)

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self.arc(self(batch[0]), batch[1]), batch[1])


class LabelsInForward(Landmarks):
    """``forward`` takes labels in training and gives logits."""

    def forward(self, x, labels=None):
        z = self.head(self.backbone(x))
        return z if labels is None else self.arc(z, labels)

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self(batch[0], batch[1]), batch[1])


class CentreLoss(nn.Module):
    def __init__(self):
        super().__init__()
        self.centres = nn.Parameter(torch.randn(CLASSES, WIDTH))

    def forward(self, labels, z):
        return (z - self.centres[labels]).square().sum(1).mean()


class Whales(Project):
    """A loss of the library beside a hand-written centre loss."""

    def __init__(self):
        super().__init__()
        self.loss, self.centre = losses.ContrastiveLoss(), CentreLoss()

    def training_step(self, batch, batch_idx):
        z = self(batch[0])
        return self.loss(z, batch[1]) + 0.1 * self.centre(batch[1], z)


class Speakers(Project):
    """No forward at all; noise is added in the training step."""

    forward = pl.LightningModule.forward

    def __init__(self):
        super().__init__()
        self.loss = losses.NTXentLoss()

    def training_step(self, batch, batch_idx):
        x = batch[0] + 0.01 * torch.randn_like(batch[0]) if self.training else batch[0]
        return self.loss(F.normalize(self.head(self.backbone(x))), batch[1])


class SelfSupervised(Project):
    """Two views of each item, and labels only for the evaluation; what is kept is in front of the projector."""

    named = "head"

    def __init__(self):
        super().__init__()
        self.projector = nn.Sequential(nn.Linear(WIDTH, 20), nn.ReLU(), nn.Linear(20, 8))

    def training_step(self, batch, batch_idx):
        a, b = (F.normalize(self.projector(self(batch[0] + 0.1 * torch.randn_like(batch[0])))) for _ in range(2))
        return F.cross_entropy(a @ b.T / 0.2, torch.arange(len(a)))


class Projected(Project):
    """A loss of the library behind a projector, which is as wide as the embedding that is kept, or not."""

    named, width = "head", WIDTH

    def __init__(self):
        super().__init__()
        self.projector = nn.Sequential(nn.Linear(WIDTH, 20), nn.ReLU(), nn.Linear(20, self.width))
        self.loss, self.seen = losses.SupConLoss(), set()

    def training_step(self, batch, batch_idx):
        projected = self.projector(self(batch[0]))
        self.loss.register_forward_pre_hook(lambda _, given: self.seen.add(given[0].shape[1]))
        return self.loss(projected, batch[1])


class ProjectedNarrowly(Projected):
    width = 8


class Queue(Project):
    """A queue of past embeddings and an encoder that follows by momentum."""

    def __init__(self):
        super().__init__()
        self.slow = nn.Linear(12, WIDTH)
        self.slow.requires_grad_(False)
        self.register_buffer("queue", F.normalize(torch.randn(64, WIDTH)))
        self.pointer, self.recent, self.loss = 0, [], losses.ContrastiveLoss()

    def training_step(self, batch, batch_idx):
        for parameter in self.slow.parameters():
            parameter.data.mul_(0.99)
        z = self(batch[0])
        negatives = (F.normalize(z) @ self.queue.clone().T).logsumexp(1).mean()
        with torch.no_grad():
            self.queue[self.pointer : self.pointer + len(z)] = F.normalize(self.slow(batch[0]))
        self.pointer = (self.pointer + len(z)) % len(self.queue)
        self.recent.append(z.detach())
        loss = self.loss(z, batch[1]) + 0.1 * negatives
        self.log("loss", loss)
        return loss


class Auxiliary(Project):
    """A classifier that comes last and is only used for a side task, and one that is not used at all."""

    def __init__(self):
        super().__init__()
        self.side, self.unused = nn.Linear(20, 5), nn.Linear(20, 10)
        self.loss = losses.ContrastiveLoss()

    def training_step(self, batch, batch_idx):
        hidden = self.backbone(batch[0])
        return self.loss(self.head(hidden), batch[1]) + F.cross_entropy(self.side(hidden), batch[1] % 5)


class LossOfTheMoment(Project):
    """An unused loss, and another that is made in each step."""

    def __init__(self):
        super().__init__()
        self.loss = losses.ContrastiveLoss()

    def training_step(self, batch, batch_idx):
        return losses.TripletMarginLoss()(self(batch[0]), batch[1])


class TurnedLoss(losses.ContrastiveLoss):
    """Works with embeddings of one width only, which it does not tell by a weight of its own."""

    def forward(self, embeddings, labels, *others):
        return super().forward(embeddings @ torch.eye(WIDTH).flip(0), labels, *others)


class Turned(PlainModule):
    def __init__(self):
        super().__init__()
        self.loss = TurnedLoss()


class FlipsInEvaluation(PlainModule):
    def forward(self, x):
        z = super().forward(x)
        return z if self.training else (z + super().forward(x.flip(-1))) / 2


MASKED = (
    ReIdentification,
    ClassifierOnly,
    Landmarks,
    LabelsInForward,
    Whales,
    SelfSupervised,
    Queue,
    LossOfTheMoment,
    Projected,
    ProjectedNarrowly,
)
SLICED = (Speakers, Auxiliary, FlipsInEvaluation)


@pytest.mark.parametrize("subspaces", ["fixed", "zeroed", "random", "learned"])
@pytest.mark.parametrize("project", [*MASKED, *SLICED], ids=lambda project: project.__name__)
def test_each_learner_trains_its_own_subspace(project, subspaces, caplog):
    if subspaces != "fixed" and project not in (ReIdentification, Landmarks, Auxiliary):
        pytest.skip("one of each kind is enough")
    callback, module = Unique(subspaces=subspaces, embedding=getattr(project, "named", None)), project()
    _, batches = fit(callback, module, max_epochs=3)
    assert_divided(batches, [1, 2], "fixed" if subspaces in ("fixed", "zeroed") else "learned")
    if subspaces == "random":
        assert all(len(set(batch["rows"])) <= WIDTH // 2 for batch in batches if batch["phase"] == "divided")
    assert sum("it is masked" in line for line in lines(caplog)) == (project in MASKED)
    assert callback.subspaces.width == WIDTH
    if isinstance(module, Projected):
        assert module.seen == {module.width}


def test_a_loss_of_one_width_trains_with_zeroed_coordinates():
    _, batches = fit(Unique(subspaces="zeroed"), Turned(), max_epochs=3)
    assert_divided(batches, [1, 2])


def test_the_consumer_is_named(caplog):
    fit(Unique(), ReIdentification(), max_epochs=2)
    (said,) = (line for line in lines(caplog) if "is masked" in line)
    assert "the 16-wide embedding given by 'head' also goes into 'bottleneck' (BatchNorm1d)" in said


@pytest.mark.parametrize(
    ("project", "weight_dims"),
    [
        (Landmarks, {"ArcHead": {"weight": 1}}),
        (Landmarks, {"arc": {"weight": 1}}),
        (lambda: Landmarks(centres=3), {"ArcHead": {"weight": 1}}),
        (Whales, {"CentreLoss": {"centres": 1}}),
        (ReIdentification, {"classifier": {"weight": 1}}),
    ],
    ids=["by class", "by name", "sub-centres", "centre loss", "behind a normalisation"],
)
def test_a_head_that_is_declared_is_cut_exactly(project, weight_dims, caplog):
    module, changed = project(), set()
    name = next(n for n, p in module.named_parameters() if p.ndim == 2 and not n.startswith(("backbone", "head")))

    class Spy(pl.Callback):
        def on_after_backward(self, trainer, module):
            gradient = dict(module.named_parameters())[name].grad
            if callback.learner is not None:
                changed.add((callback.learner, *gradient.abs().sum(0).nonzero().flatten().tolist()))

    callback = Unique(weight_dims=weight_dims)
    _, batches = fit(callback, module, Spy(), max_epochs=3)
    assert_divided(batches, [1, 2])
    assert changed == {(0, *range(8)), (1, *range(8, 16))}
    assert not any("is masked" in line for line in lines(caplog))


class Stateful(Queue):
    """Remembers in every way there is, and draws random numbers of every kind."""

    def __init__(self):
        super().__init__()
        self.norm, self.memory = nn.BatchNorm1d(12), losses.CrossBatchMemory(losses.ContrastiveLoss(), WIDTH, 48)
        self.counts, self.generator, self.drawn = {"steps": 0}, torch.Generator().manual_seed(0), []

    def forward(self, x):
        return super().forward(F.dropout(self.norm(x), 0.1, self.training))

    def training_step(self, batch, batch_idx):
        self.counts["steps"] += 1
        self.made_late = self.counts["steps"]
        numbers = (random.random(), np.random.rand(), torch.rand(()).item(), torch.rand((), generator=self.generator))
        self.drawn.append([float(number) for number in numbers])
        return super().training_step(batch, batch_idx) + self.memory(self(batch[0]), batch[1])


@pytest.mark.parametrize("workers", [0, 2])
def test_the_rehearsal_leaves_nothing_behind(workers):
    """The reference: the same training without the callback, which is in its first epochs that with it."""
    runs = []
    for callbacks in ([], [Unique(warmup_epochs=2)]):
        pl.seed_everything(5)
        module = Stateful()
        fitted = trainer(*callbacks, max_epochs=2)
        fitted.fit(module, loader(num_workers=workers))
        runs.append((module, fitted))
    (plain, _), (rehearsed, _) = runs
    assert same(weights(plain), weights(rehearsed))
    assert plain.drawn == rehearsed.drawn
    assert (plain.counts, plain.pointer, plain.made_late) == (rehearsed.counts, rehearsed.pointer, rehearsed.made_late)
    assert all(map(torch.equal, plain.recent, rehearsed.recent))
    assert plain.memory.queue_idx == rehearsed.memory.queue_idx
    assert runs[0][1].logged_metrics == runs[1][1].logged_metrics
    assert vars(plain).keys() == vars(rehearsed).keys()
    assert not [name for name, part in rehearsed.named_modules() if part._forward_hooks or part._forward_pre_hooks]


def test_a_project_that_masks_goes_on_exactly(tmp_path):
    module, whole, part = ReIdentification(), tmp_path / "whole", tmp_path / "part"
    initial, ended = weights(module), []
    for folder, resume in ((whole, None), (part, whole / "step=30.ckpt")):
        module = ReIdentification()
        module.load_state_dict(initial)
        pl.seed_everything(1)
        keep = ModelCheckpoint(folder, filename="{step}", save_top_k=-1, every_n_train_steps=1)
        fit(Unique(), module, keep, max_epochs=4, resume=resume, enable_checkpointing=True)
        ended.append(weights(module))
    assert same(*ended)
    assert ended[0]["bottleneck.running_var"].min() > 1e-3, "masked coordinates do not enter running statistics"


class Keywords(Project):
    """The encoder takes a dictionary, as those of transformers do, and gives one."""

    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.tokens, self.layer = nn.Embedding(50, 20), nn.Linear(20, 20)

        def forward(self, input_ids, attention_mask=None):
            return {"last_hidden_state": self.layer(self.tokens(input_ids)).relu()}

    def __init__(self):
        super().__init__()
        self.backbone, self.loss = self.Encoder(), losses.MultiSimilarityLoss()

    def forward(self, **text):
        hidden, mask = self.backbone(**text)["last_hidden_state"], text["attention_mask"][..., None]
        return self.head((hidden * mask).sum(1) / mask.sum(1))

    def training_step(self, batch, batch_idx):
        return self.loss(self(**batch["text"]), batch["topic"])


class Sentences(Dataset):
    """Tokens whose class is known to the collate function only."""

    def __len__(self):
        return CLASSES * PER_CLASS

    def __getitem__(self, i):
        generator = torch.Generator().manual_seed(i)
        return [2 * (i // PER_CLASS) + int(torch.randint(3, (), generator=generator)) for _ in range(3 + i % 3)], i

    @staticmethod
    def collate(items):
        ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(tokens) for tokens, _ in items], batch_first=True)
        topics = torch.tensor([i // PER_CLASS for _, i in items])
        return {"text": {"input_ids": ids, "attention_mask": (ids > 0).long()}, "topic": topics, "numbers": topics + 7}


class Graphs:
    """Several graphs in one: atoms, bonds, which graph an atom is of, and the graphs' classes."""

    def __init__(self, x, bonds, graph, y):
        self.x, self.bonds, self.graph, self.y = x, bonds, graph, y

    def to(self, device, **options):
        return Graphs(*(tensor.to(device) for tensor in vars(self).values()))


class Molecules(Dataset):
    """Graphs of three to five atoms, which batches put together."""

    def __len__(self):
        return CLASSES * PER_CLASS

    def __getitem__(self, i):
        atoms = torch.randn(3 + i % 3, 12, generator=torch.Generator().manual_seed(i)) + i // PER_CLASS
        return atoms, i // PER_CLASS

    @staticmethod
    def collate(items):
        sizes = torch.tensor([len(atoms) for atoms, _ in items])
        graph = torch.arange(len(items)).repeat_interleave(sizes)
        bonds = torch.stack([torch.arange(len(graph) - 1), torch.arange(1, len(graph))])
        bonds = bonds[:, graph[bonds[0]] == graph[bonds[1]]]
        return Graphs(torch.cat([atoms for atoms, _ in items]), bonds, graph, torch.tensor([y for _, y in items]))


class Chemistry(Project):
    """Messages along bonds, summed over each graph."""

    def __init__(self):
        super().__init__()
        self.loss = losses.MultiSimilarityLoss()

    def forward(self, batch):
        atoms = self.backbone(batch.x)
        atoms = atoms.index_add(0, batch.bonds[1], atoms[batch.bonds[0]])
        return self.head(atoms.new_zeros(len(batch.y), 20).index_add(0, batch.graph, atoms))

    def training_step(self, batch, batch_idx):
        return self.loss(self(batch), batch.y)


class PooledOutside(Project):
    """The descriptor is pooled by a function, from maps of features."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Unflatten(1, (3, 2, 2)), nn.Conv2d(3, 20, 1), nn.ReLU(), nn.Conv2d(20, WIDTH, 1)
        )
        self.loss = losses.MultiSimilarityLoss()
        del self.head

    def forward(self, x):
        return F.normalize(self.backbone(x).clamp(min=1e-6).pow(3).mean((2, 3)).pow(1 / 3))

    def training_step(self, batch, batch_idx):
        return self.loss(self(batch[0]), batch[1])


class PooledOverTime(PooledOutside):
    """Frames of a recording, pooled by a function; there are more of them than coordinates, or as many."""

    frames = WIDTH + 4

    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Unflatten(1, (12, 1)), nn.Conv1d(12, 20, 1), nn.ReLU())
        self.head = nn.Conv1d(20, WIDTH, 1)

    def forward(self, x):
        return self.head(self.backbone(x).expand(-1, -1, self.frames)).mean(2)


class AsManyFrames(PooledOverTime):
    frames = WIDTH


class Bypassed(Project):
    """``forward`` classifies, as for a demonstration; the training does without it."""

    def __init__(self):
        super().__init__()
        self.classifier, self.loss = nn.Linear(12, 3), losses.ContrastiveLoss()

    def forward(self, x):
        return self.classifier(x).argmax(1)

    def training_step(self, batch, batch_idx):
        return self.loss(self.head(self.backbone(batch[0])), batch[1])


class Embeds(Unique):
    def embed(self, module, batch):
        return module.backbone(batch[0])[:, :7]


@pytest.mark.parametrize("project", [PooledOverTime, AsManyFrames])
@pytest.mark.parametrize("subspaces", ["fixed", "zeroed"])
def test_coordinates_may_come_before_time(project, subspaces, caplog):
    _, batches = fit(Unique(subspaces=subspaces), project(), max_epochs=3)
    assert_divided(batches, [1, 2])
    assert not any("is masked" in line for line in lines(caplog))


@pytest.mark.parametrize(
    ("project", "callback", "data", "layer", "features"),
    [
        (Keywords, Unique, "sentences", "head", 20),
        (PooledOutside, Unique, "vectors", "backbone", WIDTH),
        (Bypassed, Unique, "vectors", "head", 20),
        (Chemistry, Unique, "molecules", "head", 20),
        (Speakers, Unique, "vectors", "head", 20),
        (PlainModule, Embeds, "vectors", "head", 7),
    ],
)
def test_features_are_found_where_the_training_step_goes(project, callback, data, layer, features):
    widths = []

    def cluster(rows, num_clusters, *, seed):
        widths.append(rows.shape[1])
        return torch.arange(len(rows)) // PER_CLASS % num_clusters

    sets = {"sentences": Sentences, "molecules": Molecules}
    train = loader() if data == "vectors" else loader(sets[data](), collate_fn=sets[data].collate)
    callback = callback(clustering=cluster)
    trainer(callback, max_epochs=2).fit(project(), train)
    assert callback._learners.name == layer
    assert set(widths) == {features}
    assert callback.history[0]["classes"] == [CLASSES // 2] * 2


class Views(Vectors):
    def __getitem__(self, i):
        return self.values[i] + 0.1 * torch.randn(12), self.values[i]

    targets = labels = None

    def __len__(self):
        return len(self.values)

    def __init__(self):
        self.values = Vectors().values


class Identities(Dataset):
    """One item for each class: several images of it."""

    def __len__(self):
        return CLASSES

    def __getitem__(self, i):
        return Vectors().values[PER_CLASS * i : PER_CLASS * i + 4], torch.full((4,), i)

    @staticmethod
    def collate(items):
        return tuple(torch.cat(part) for part in zip(*items, strict=True))


class SeveralLabels(Vectors):
    def __init__(self):
        super().__init__()
        self.several = F.one_hot(self.targets, CLASSES)
        del self.targets

    def __len__(self):
        return len(self.values)

    def __getitem__(self, i):
        return self.values[i], self.several[i]


class TwoViews(Project):
    def training_step(self, batch, batch_idx):
        a, b = (F.normalize(self(view)) for view in batch[:2])
        return F.cross_entropy(a @ b.T / 0.2, torch.arange(len(a)))


class Triplets(Dataset):
    """An anchor, a positive and a negative, and nothing that tells their classes."""

    def __len__(self):
        return CLASSES * PER_CLASS

    def __getitem__(self, i):
        return tuple(torch.randn(3, 12, generator=torch.Generator().manual_seed(i)))


class OfTriplets(Project):
    def training_step(self, batch, batch_idx):
        return F.triplet_margin_loss(*map(self, batch))


class Sums(PlainModule):
    def training_step(self, batch, batch_idx):
        return self.loss(self(batch[0]), batch[1] if batch[1].ndim == 1 else batch[1].argmax(1))


class Unreached(PlainModule):
    """The layer that is called ``embedding`` has no part in the training."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Linear(20, 8)


@pytest.mark.parametrize(
    ("project", "train", "settings", "message"),
    [
        (Sums, DataLoader(Identities(), batch_size=8, collate_fn=Identities.collate), {}, "32 labels for 8 indices"),
        (Sums, loader(SeveralLabels()), {}, r"labels of shape \(16, 24\) for 16 items; .*one class for each"),
        (TwoViews, loader(Views()), {}, r"labels of shape \(16, 12\) for 16 items.*batch_labels"),
        (OfTriplets, loader(Triplets()), {}, r"labels of shape \(16, 12\) for 16 items.*batch_labels"),
        (Turned, loader(), {}, "fails where its losses .* cannot be multiplied .*; use subspaces='zeroed'"),
        (Unreached, loader(), {"embedding": "embedding"}, "8 wide, .* is 16 wide and comes from 'head'"),
        (PlainModule, loader(), {"weight_dims": {"Centres": {"c": 0}}}, "names 'Centres', and PlainModule has no"),
    ],
)
def test_what_cannot_be_divided_is_refused_before_the_first_step(project, train, settings, message):
    module, stepped = project(), []

    class Spy(pl.Callback):
        def on_before_optimizer_step(self, trainer, module, optimizer):
            stepped.append(optimizer)

    divide = trainer(Unique(**settings), Spy(), max_epochs=2)
    with pytest.raises(InputError, match=message):
        divide.fit(module, train)
    assert not stepped


class Adversarial(Project):
    """Two optimisers that the module steps by itself, one of them not by Lightning's hand."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.critic, self.loss, self.steps = nn.Linear(WIDTH, 1), losses.ContrastiveLoss(), []

    def configure_optimizers(self):
        self.own = torch.optim.Adam(self.critic.parameters(), lr=1e-2)
        embedder = torch.optim.Adam([*self.backbone.parameters(), *self.head.parameters()], lr=1e-2)
        return [embedder, self.own], [torch.optim.lr_scheduler.StepLR(embedder, 2)]

    def training_step(self, batch, batch_idx):
        embedder, _ = self.optimizers()
        z = self(batch[0])
        self.own.zero_grad()
        self.critic(z.detach()).square().mean().backward()
        self.own.step()
        self.toggle_optimizer(embedder)
        embedder.zero_grad()
        self.manual_backward(self.loss(z, batch[1]) - 0.1 * self.critic(z).mean())
        self.clip_gradients(embedder, gradient_clip_val=1.0, gradient_clip_algorithm="norm")
        embedder.step()
        self.untoggle_optimizer(embedder)
        self.lr_schedulers().step()
        self.log("loss", z.mean())


def test_a_module_that_steps_its_optimisers_by_itself_is_rehearsed_without_a_step(caplog):
    runs = []
    for callbacks in ([], [Unique(warmup_epochs=2)]):
        pl.seed_everything(5)
        fitted = trainer(*callbacks, max_epochs=2)
        fitted.fit(module := Adversarial(), loader())
        runs.append((weights(module), [p.requires_grad for p in module.parameters()], fitted.global_step))
    assert same(runs[0][0], runs[1][0])
    assert runs[0][1:] == runs[1][1:]
    assert any("also goes into 'critic' (Linear)" in line for line in lines(caplog))
    callback = Unique()
    trainer(callback, max_epochs=2).fit(Adversarial(), loader())
    assert callback._learners.name == "head"


class OwnRate(Whales):
    """Centres with an optimiser of their own, whose gradients are scaled before its step."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.classifier = nn.Linear(WIDTH, CLASSES)

    def configure_optimizers(self):
        network = [p for name, p in self.named_parameters() if "centre" not in name]
        return torch.optim.Adam(network, lr=1e-2), torch.optim.SGD(self.centre.parameters(), lr=0.5)

    def training_step(self, batch, batch_idx):
        optimizers, z = self.optimizers(), self(batch[0])
        for optimizer in optimizers:
            optimizer.zero_grad()
        self.manual_backward(F.cross_entropy(self.classifier(z), batch[1]) + 0.1 * self.centre(batch[1], z))
        for centres in self.centre.parameters():
            centres.grad *= 10
        for optimizer in optimizers:
            optimizer.step()


def test_a_step_that_uses_its_gradients_is_rehearsed(caplog):
    callback = Unique()
    _, batches = fit(callback, OwnRate(), max_epochs=3)
    assert callback._learners.name == "head"
    assert not any("cannot be tried out" in line for line in lines(caplog))
    assert_divided(batches, [1, 2])


class JoinsLater(ReIdentification):
    """The cross entropy joins when the features are good enough."""

    def training_step(self, batch, batch_idx):
        if self.current_epoch:
            return super().training_step(batch, batch_idx)
        return self.triplet(self(batch[0]), batch[1])


def test_a_consumer_that_joins_later_is_found_in_the_first_step_since_a_division(caplog):
    _, batches = fit(Unique(), JoinsLater(), max_epochs=3)
    assert_divided(batches, [1, 2])
    assert sum("is masked" in line for line in lines(caplog)) == 1


class LeavesLater(PlainModule):
    """From the second epoch on the embedding has no part in the loss."""

    def training_step(self, batch, batch_idx):
        return self.backbone(batch[0]).mean() if self.current_epoch else super().training_step(batch, batch_idx)


def test_a_divided_epoch_that_trains_no_subspace_ends_in_its_first_step():
    with pytest.raises(
        InputError, match=r"no loss in LeavesLater was called in the first divided step of epoch 1.*'head'"
    ):
        trainer(Unique(), max_epochs=2).fit(LeavesLater(), loader())
