"""The module by itself is a plain one for deep metric learning."""

import csv
from functools import partial

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import LearningRateMonitor
from pytorch_lightning.loggers import CSVLogger
from pytorch_metric_learning import losses, miners
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from toys import CLASSES, Vectors, loader, trainer

from divconq_pl import DivideConquerModule, InputError

SGD = partial(torch.optim.SGD, lr=0.1)


def backbone(inputs=12, width=20):
    network = nn.Sequential(nn.Linear(inputs, width), nn.ReLU())
    network.out_features = width
    return network


def module(loss=None, miner=None, **options):
    return DivideConquerModule(backbone(), 16, loss or losses.ContrastiveLoss(), miner, **options)


class Values(Vectors):
    """Pairs of image and label, as the module takes them."""

    def __getitem__(self, i):
        return super().__getitem__(i)[:2]


class Steps(pl.Callback):
    """Write down batches and losses."""

    def __init__(self):
        self.batches, self.losses = [], []

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.batches.append(batch[:2])
        self.losses.append(outputs["loss"].item())


@pytest.mark.parametrize("miner", [None, miners.BatchHardMiner()])
def test_the_loss_is_that_of_pytorch_metric_learning_by_hand(miner):
    mine, steps, loss = module(losses.TripletMarginLoss(), miner, optimizer=partial(SGD, lr=0.0)), Steps(), None
    trainer(steps, max_epochs=1, limit_train_batches=3).fit(mine, loader(Values()))
    assert len(steps.losses) == 3
    first, layer = mine.backbone[0], mine.embedding
    for (values, labels), logged in zip(steps.batches, steps.losses, strict=True):
        hidden = (values @ first.weight.T + first.bias).clamp(min=0)
        embeddings = hidden @ layer.weight.T + layer.bias
        pairs = miner(embeddings, labels) if miner else None
        loss = losses.TripletMarginLoss()(embeddings, labels, pairs).item()
        assert logged == pytest.approx(loss, rel=1e-5)
    assert loss > 0


def hidden_signal(seed):
    """Classes that differ in two of twelve coordinates only, with more noise in the others."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(10).repeat_interleave(20)
    values = torch.randn(200, 12, generator=generator)
    angle = labels * 2 * torch.pi / 10
    values[:, :2] = torch.stack([angle.cos(), angle.sin()], 1) + 0.05 * torch.randn(200, 2, generator=generator)
    return TensorDataset(values, labels)


def test_it_learns():
    mine = module(losses.TripletMarginLoss(), optimizer=partial(torch.optim.Adam, lr=1e-2))
    fitted, test = trainer(max_epochs=15), DataLoader(hidden_signal(1), 64)
    before = fitted.test(mine, test, verbose=False)[0]["test/recall_at_1"]
    fitted.fit(mine, DataLoader(hidden_signal(0), 50, shuffle=True))
    after = fitted.test(mine, test, verbose=False)[0]["test/recall_at_1"]
    assert before < 0.4
    assert after > 0.9


def groups_of(mine, *callbacks):
    fitted = trainer(*callbacks, max_epochs=1, limit_train_batches=1)
    fitted.fit(mine, loader(Values()))
    return {group["name"]: group for group in fitted.optimizers[0].param_groups}


def test_every_part_may_have_settings_of_its_own():
    mine = module(
        losses.ProxyAnchorLoss(CLASSES, 16),
        optimizer=partial(torch.optim.AdamW, lr=1e-3, weight_decay=0.5),
        parameter_groups={"embedding": {"lr": 0.01}, "loss": {"lr": 0.1, "weight_decay": 0.0, "eps": None}},
    )
    groups = groups_of(mine)
    rates = {name: (group["lr"], group["weight_decay"], group["eps"]) for name, group in groups.items()}
    assert rates == {"backbone": (1e-3, 0.5, 1e-8), "embedding": (0.01, 0.5, 1e-8), "loss": (0.1, 0.0, 1e-8)}
    members = {name: {id(parameter) for parameter in group["params"]} for name, group in groups.items()}
    assert members["backbone"] == set(map(id, mine.backbone.parameters()))
    assert members["embedding"] == set(map(id, mine.embedding.parameters()))
    assert members["loss"] == {id(mine.loss.proxies)}
    assert sum(len(group["params"]) for group in groups.values()) == len(list(mine.parameters()))


def test_unknown_parts_and_settings_are_refused_by_name():
    parts = r"^there is no part parameter_groups\.los; a module has: backbone, embedding, loss$"
    with pytest.raises(InputError, match=parts):
        module(parameter_groups={"los": {"lr": 0.1}})
    mine = module(parameter_groups={"embedding": {"momentum": 0.9}})
    with pytest.raises(InputError, match=r"^parameter_groups\.embedding\.momentum is not a setting of Adam, .* lr, "):
        mine.configure_optimizers()


def trained(make, state=None, **options):
    """Train three epochs from the same start; give the weights and the Trainer."""
    torch.manual_seed(0)
    mine = module(losses.TripletMarginLoss(), optimizer=make)
    fitted = trainer(**{"max_epochs": 3, **options})
    fitted.fit(mine, DataLoader(Values(), 50), ckpt_path=state)
    return torch.cat([parameter.detach().flatten() for parameter in mine.parameters()]), fitted


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW, partial(torch.optim.SGD, momentum=0.9)])
def test_the_optimiser_is_fused_with_the_same_results_within_rounding(kind):
    fused, fitted = trained(partial(kind, lr=1e-3))
    assert all(group["fused"] for group in fitted.optimizers[0].param_groups)
    plain, fitted = trained(partial(kind, lr=1e-3, fused=False))
    assert not any(group["fused"] for group in fitted.optimizers[0].param_groups)
    torch.testing.assert_close(fused, plain, rtol=1e-4, atol=1e-6)
    torch.manual_seed(0)
    untrained = torch.cat([parameter.detach().flatten() for parameter in module().parameters()])
    assert (plain - untrained).abs().max() > 1e-3


def test_whoever_decided_on_the_optimisers_loops_is_obeyed():
    class Own(torch.optim.Adam):
        """May step in its own way."""

    for make in (partial(torch.optim.Adam, foreach=True), torch.optim.RMSprop, Own):
        assert not any(group.get("fused") for group in groups_of(module(optimizer=make)).values())


def test_a_training_goes_on_with_the_step_that_it_began_with(tmp_path):
    _, fitted = trained(partial(torch.optim.Adam, lr=1e-3, fused=False), max_epochs=1)
    fitted.save_checkpoint(tmp_path / "older.ckpt")
    content = torch.load(tmp_path / "older.ckpt", weights_only=True)
    for group in content["optimizer_states"][0]["param_groups"]:
        group["fused"] = None  # as it was written before there was a choice
    torch.save(content, tmp_path / "older.ckpt")
    whole, _ = trained(partial(torch.optim.Adam, lr=1e-3, fused=False))
    gone_on, fitted = trained(partial(torch.optim.Adam, lr=1e-3), tmp_path / "older.ckpt")
    assert torch.equal(gone_on, whole)
    assert not any(group["fused"] for group in fitted.optimizers[0].param_groups)


@pytest.mark.parametrize("options", [{"gradient_clip_val": 0.1}, {"precision": "bf16-mixed", "gradient_clip_val": 0.1}])
def test_a_fused_optimiser_may_have_its_gradients_clipped(options):
    fused, _ = trained(partial(torch.optim.SGD, lr=0.1), **options)
    plain, _ = trained(partial(torch.optim.SGD, lr=0.1, fused=False), **options)
    torch.testing.assert_close(fused, plain, rtol=1e-3, atol=1e-5)


class Readings(Steps):
    """Read after each step what a progress bar, and a callback, can read."""

    def __init__(self):
        super().__init__()
        self.read = []

    def on_train_batch_end(self, trainer, module, *rest):
        super().on_train_batch_end(trainer, module, *rest)
        values = trainer.callback_metrics["train/loss"], trainer.progress_bar_metrics["train/loss"]
        self.read.append([float(value) for value in values])


def test_each_step_logs_its_loss(tmp_path):
    readings, logger = Readings(), CSVLogger(tmp_path)
    trainer(readings, max_epochs=2, logger=logger, log_every_n_steps=1).fit(module(optimizer=SGD), loader(Values()))
    assert readings.read == [pytest.approx([loss] * 2) for loss in readings.losses]
    with open(logger.experiment.metrics_file_path) as file:
        written = [row["train/loss"] for row in csv.DictReader(file)]
    assert [float(loss) for loss in written] == pytest.approx(readings.losses)
    assert len(readings.losses) > 2
    assert len(set(readings.losses)) == len(readings.losses)


def test_parts_without_parameters_have_no_group():
    assert list(groups_of(module(optimizer=SGD))) == ["backbone", "embedding"]


def test_the_papers_optimiser_is_the_default():
    groups = groups_of(module())
    assert {(group["lr"], group["weight_decay"]) for group in groups.values()} == {(1e-5, 1e-4)}


def test_a_schedule_of_the_learning_rate_is_stepped_once_an_epoch(tmp_path):
    decay = partial(torch.optim.lr_scheduler.ExponentialLR, gamma=0.1)
    monitor = LearningRateMonitor("epoch")
    fitted = trainer(monitor, max_epochs=3, logger=CSVLogger(tmp_path))
    fitted.fit(module(optimizer=SGD, lr_scheduler=decay), loader(Values()))
    assert monitor.lrs["lr-SGD/backbone"] == pytest.approx([0.1, 0.01, 0.001])


def test_what_a_loss_owns_is_trained_and_saved(tmp_path):
    mine = module(losses.ProxyAnchorLoss(CLASSES, 16), optimizer=SGD)
    before = mine.loss.proxies.detach().clone()
    fitted = trainer(max_epochs=1)
    fitted.fit(mine, loader(Values()))
    assert (mine.loss.proxies != before).any(1).all()
    fitted.save_checkpoint(tmp_path / "kept.ckpt")
    kept = torch.load(tmp_path / "kept.ckpt", weights_only=True)["state_dict"]["loss.proxies"]
    assert torch.equal(kept, mine.loss.proxies)


@pytest.mark.parametrize("collate", [None, lambda items: torch.stack([values for values, _ in items])])
def test_prediction_gives_embeddings_of_length_one(collate):
    mine, data = module(dropout=0.5), Values()
    predicted = trainer().predict(mine, DataLoader(data, 50, collate_fn=collate))
    embeddings = torch.cat(predicted)
    assert embeddings.shape == (len(data), 16)
    raw = mine.embedding(mine.backbone(data.values))
    assert torch.allclose(embeddings, raw / raw.square().sum(1, keepdim=True).sqrt(), atol=1e-6)


def recall_and_map(query, query_labels, gallery, gallery_labels, ks, leave_one_out):
    """Rank by cosine, image by image."""
    query, gallery = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (query, gallery))
    recalls, precisions = {k: [] for k in ks}, []
    for i, (image, label) in enumerate(zip(query, query_labels, strict=True)):
        order = [j for j in np.argsort(-(gallery @ image), kind="stable") if not (leave_one_out and j == i)]
        hits = [bool(gallery_labels[j] == label) for j in order]
        relevant = sum(hits)
        for k in ks:
            recalls[k].append(any(hits[:k]))
        precisions.append(sum(hits[r] * sum(hits[: r + 1]) / (r + 1) for r in range(relevant)) / relevant)
    return {f"test/recall_at_{k}": np.mean(recalls[k]) for k in ks} | {"test/map_at_r": np.mean(precisions)}


@pytest.mark.parametrize("two", [False, True], ids=["leave one out", "query and gallery"])
def test_the_test_ranks_by_the_full_embedding(two):
    torch.manual_seed(3)
    mine = module(recall_ks=(1, 5))
    labels = torch.arange(8).repeat_interleave(6)
    centres = 0.7 * torch.randn(8, 12)[labels]
    data = [TensorDataset(torch.randn(48, 12) + centres, labels) for _ in range(1 + two)]
    # Batches of different sizes, so that a mean over batches would not do.
    tested = trainer().test(mine, [DataLoader(part, size) for part, size in zip(data, (20, 7), strict=False)])[0]
    rows = [mine(part.tensors[0]).detach().numpy() for part in data]
    expected = recall_and_map(rows[0], labels, rows[-1], labels, (1, 5), leave_one_out=not two)
    assert 0.2 < expected["test/recall_at_1"] < 0.9
    for name, value in expected.items():
        assert tested[name] == pytest.approx(value, abs=1e-6), name
    assert set(tested) == {*expected, "test/r_precision"}


@pytest.mark.parametrize("two", [False, True], ids=["leave one out", "query and gallery"])
def test_validation_computes_what_the_test_does(two):
    mine = module(optimizer=partial(SGD, lr=0.0))
    loaders = [DataLoader(Values(seed=seed), 50) for seed in range(1, 2 + two)]
    fitted = trainer(max_epochs=1)
    fitted.fit(mine, loader(Values()), loaders)
    validated = {n: float(v) for n, v in fitted.callback_metrics.items() if n.startswith("val/")}
    tested = fitted.test(mine, loaders, verbose=False)[0]
    assert validated == pytest.approx({name.replace("test/", "val/"): value for name, value in tested.items()})


def test_the_sanity_check_leaves_nothing_for_the_first_validation():
    logged = []
    for sanity in (0, 2):
        torch.manual_seed(0)
        fitted = trainer(max_epochs=1, num_sanity_val_steps=sanity)
        fitted.fit(module(optimizer=partial(SGD, lr=0.0)), loader(Values()), DataLoader(Values(seed=1), 50))
        logged.append({name: float(v) for name, v in fitted.callback_metrics.items() if name.startswith("val/")})
    assert logged[0] == logged[1]
    assert "val/recall_at_1" in logged[0]


class Spy(nn.Module):
    """See in which precision a loss or miner is called."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.seen = inner, []

    def forward(self, embeddings, labels, *rest):
        self.seen.append((embeddings.dtype, torch.is_autocast_enabled("cpu")))
        return self.inner(embeddings, labels, *rest)


def test_the_loss_is_computed_in_single_precision_under_mixed_precision():
    loss, miner, embedded = Spy(losses.TripletMarginLoss()), Spy(miners.MultiSimilarityMiner()), []
    mine = module(loss, miner)
    mine.embedding.register_forward_hook(lambda layer, inputs, output: embedded.append(output.dtype))
    trainer(max_epochs=1, limit_train_batches=2, precision="bf16-mixed").fit(mine, loader(Values()))
    assert embedded == [torch.bfloat16] * 2
    assert loss.seen == miner.seen == [(torch.float32, False)] * 2


def test_features_are_dropped_in_training_only():
    mine = module(dropout=0.5)
    ones = torch.ones(1, 12)
    assert not torch.equal(mine(ones), mine(ones))
    mine.eval()
    assert torch.equal(mine(ones), mine.embedding(mine.backbone(ones)))


@pytest.mark.parametrize("width", [None, "20"])
def test_a_backbone_has_to_say_how_wide_its_features_are(width):
    network = nn.Sequential(nn.Linear(12, 20))
    if width is not None:
        network.out_features = width
    with pytest.raises(InputError, match="the backbone Sequential has no out_features; set it to the width"):
        DivideConquerModule(network, 16, losses.ContrastiveLoss())


def test_an_embedding_without_coordinates_is_refused():
    with pytest.raises(InputError, match="embedding_dim=0 must be at least 1"):
        DivideConquerModule(backbone(), 0, losses.ContrastiveLoss())


def test_a_miner_that_breaks_on_diverged_embeddings_is_not_to_blame():
    def broken(*_):
        raise RuntimeError("broken")

    mine = module(miner=nn.Module())
    mine.miner.forward = broken
    batch = torch.rand(4, 12), torch.tensor([0, 0, 1, 1])
    with pytest.raises(RuntimeError, match="broken"):
        mine.training_step(batch, 0)
    nn.init.constant_(mine.embedding.weight, float("nan"))
    with pytest.raises(InputError, match="the embeddings have become NaN or infinite"):
        mine.training_step(batch, 0)


def test_an_optimizer_that_cannot_be_made_is_said():
    mine = module(optimizer=partial(torch.optim.Adam, lr=-1))
    with pytest.raises(InputError, match="the optimizer or its lr_scheduler cannot be made: Invalid learning rate: -1"):
        mine.configure_optimizers()
