"""Every configuration composes and builds what its name says."""

from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import trees
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning_fabric.utilities.exceptions import MisconfigurationException
from PIL import Image
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from pytorch_metric_learning import miners

from divconq_pl import DivideConquerCallback, DivideConquerModule
from divconq_pl.data import RetrievalDataModule
from divconq_pl.report import SELECTIONS

CONF = Path(__file__).parent.parent / "conf"
GROUPS = {folder.name: sorted(p.stem for p in folder.glob("*.yaml")) for folder in CONF.iterdir() if folder.is_dir()}
CHOICES = [(group, name) for group, names in GROUPS.items() for name in names]
USUAL_MINER = {
    "margin": miners.DistanceWeightedMiner,
    "triplet": miners.TripletMarginMiner,
    "multi_similarity": miners.MultiSimilarityMiner,
}
RECALL_KS = {
    "cub200": [1, 2, 4, 8],
    "cars196": [1, 2, 4, 8],
    "sop": [1, 10, 100, 1000],
    "inshop": [1, 10, 20, 30, 40, 50],
    "vehicle_id": [1, 5],
}
WRITE = {
    "cub200": trees.write_cub,
    "cars196": trees.write_cars_all_in_one,
    "sop": trees.write_sop,
    "inshop": trees.write_inshop,
    "vehicle_id": trees.write_vehicle_id,
}
pytestmark = pytest.mark.filterwarnings("ignore:.*is not as published")


@pytest.fixture(scope="module")
def copies(tmp_path_factory):
    """A tiny copy of each published data set."""
    roots = {name: tmp_path_factory.mktemp(name) for name in WRITE}
    for name, write in WRITE.items():
        write(roots[name])
    return roots


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Eight classes of four noisy pictures."""
    root, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for c in range(8):
        (root / f"class {c}").mkdir()
        for i in range(4):
            pixels = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / f"class {c}" / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def glyph_cache(tmp_path_factory):
    return tmp_path_factory.mktemp("glyphs")


@pytest.fixture
def composed(tmp_path, images, copies, glyph_cache):
    """Compose a configuration as on the command line, with small data."""

    def make(*overrides, config="train"):
        named = [o.removeprefix("dataset=") for o in overrides if o.startswith("dataset=")]
        if named and named[-1] != "glyphs":
            root = {"image_folder": images, **copies}[named[-1]]
            data = [f"dataset.root={root}", "data.train_transform.size=32"]
        else:
            data = [f"dataset.root={glyph_cache}", "dataset.size=16"]
            data += [] if any("dataset.num_classes=" in o for o in overrides) else ["dataset.num_classes=12"]
        folder = f"hydra.runtime.output_dir={tmp_path / 'run'}"
        with initialize_config_dir(str(CONF), version_base="1.3"):
            cfg = compose(config, [folder, *data, *overrides], return_hydra_config=True)
        HydraConfig.instance().set_config(cfg)
        cfg.num_classes = 6
        return cfg

    yield make
    HydraConfig.instance().cfg = None


def needed(group, name):
    """Return what a choice does not work without."""
    return ["backbone.name=mobilenet_v3_small"] if (group, name) == ("backbone", "torchvision") else []


def test_every_group_of_the_documentation_is_there():
    assert set(GROUPS) >= {"dataset", "loss", "miner", "backbone", "divide", "trainer", "logger", "experiment"}


@pytest.mark.parametrize(("group", "name"), [pytest.param(*choice, id="=".join(choice)) for choice in CHOICES])
def test_every_choice_builds_a_whole_run(composed, group, name):
    cfg = composed(f"{group}={name}", *needed(group, name))
    data = instantiate(cfg.data)
    assert isinstance(data, RetrievalDataModule)
    cfg.num_classes = len(data.splits.train.classes)
    module = instantiate(cfg.module)
    assert isinstance(module, DivideConquerModule)
    checkpoint, callbacks, loggers = (instantiate(cfg[key]) for key in ("checkpoint", "callbacks", "logger"))
    assert isinstance(instantiate(cfg.divide), DivideConquerCallback) or name == "none"
    assert all(isinstance(callback, pl.Callback) for callback in (checkpoint, *callbacks.values()))
    if (group, name) != ("trainer", "gpu"):
        trainer = instantiate(cfg.trainer, callbacks=[*callbacks.values(), checkpoint], logger=list(loggers.values()))
        assert isinstance(trainer, pl.Trainer)
    tested = data.test_dataloader()
    images, labels = next(iter(tested[0] if isinstance(tested, list) else tested))
    module.eval()
    assert module(images[:2]).shape == (2, 128)
    assert len(labels) == len(images)


@pytest.mark.parametrize("name", GROUPS["dataset"])
def test_a_data_set_gives_disjoint_classes_and_batches_of_them(composed, name):
    data = instantiate(composed(f"dataset={name}", "data.batch_size=4", "data.images_per_class=2").data)
    splits = data.splits
    test = splits.test[0] if isinstance(splits.test, tuple) else splits.test
    parts = [set(part.classes) for part in (splits.train, splits.val, test)]
    assert len(set.union(*parts)) == sum(map(len, parts))
    images, labels = next(iter(data.train_dataloader()))
    size, channels = (16, 1) if name == "glyphs" else (32, 3)
    assert images.shape == (4, channels, size, size)
    assert sorted(np.unique(labels, return_counts=True)[1]) == [2, 2]


@pytest.mark.parametrize("name", GROUPS["loss"])
def test_a_loss_is_named_as_in_pytorch_metric_learning_and_brings_its_usual_miner(composed, name):
    module = instantiate(composed(f"loss={name}").module)
    assert type(module.loss).__name__.lower().startswith(name.replace("_", ""))
    assert type(module.miner) is USUAL_MINER.get(name, type(None))
    assert type(instantiate(composed("miner=batch_hard", f"loss={name}").module.miner)) is miners.BatchHardMiner


def test_no_miner_can_be_asked_for(composed):
    assert composed("loss=margin", "miner=none").module.miner is None


@pytest.mark.parametrize("name", GROUPS["miner"])
def test_a_miner_is_named_as_in_pytorch_metric_learning(composed, name):
    miner = instantiate(composed(f"miner={name}").module).miner
    if name == "semihard":
        assert miner.type_of_triplets == name
    else:
        assert type(miner).__name__.lower() == {"none": "nonetype"}.get(name, f"{name.replace('_', '')}miner")


@pytest.mark.parametrize("name", GROUPS["backbone"])
def test_a_backbone_follows_the_images_channels(composed, name):
    for dataset, channels in (("glyphs", 1), ("image_folder", 3)):
        backbone = instantiate(composed(f"dataset={dataset}", f"backbone={name}", *needed("backbone", name)).backbone)
        assert next(backbone.parameters()).shape[1] == channels
    assert backbone.eval()(torch.zeros(1, 3, 64, 64)).shape == (1, backbone.out_features)


def test_loggers_write_into_the_run_folder(composed, tmp_path):
    kinds = {"csv": [CSVLogger], "tensorboard": [TensorBoardLogger], "default": [CSVLogger, TensorBoardLogger]}
    for name in GROUPS["logger"]:
        loggers = instantiate(composed(f"logger={name}").logger).values()
        assert [type(logger) for logger in loggers] == kinds.get(name, [])
        assert all(Path(logger.log_dir).parent == tmp_path / "run" for logger in loggers)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_is_asked_for_and_missed(composed):
    with pytest.raises(InstantiationException) as raised:
        instantiate(composed("trainer=gpu").trainer)
    assert isinstance(raised.value.__cause__, MisconfigurationException)


@pytest.mark.parametrize("name", GROUPS["experiment"])
def test_an_experiment_wins_over_the_defaults_and_loses_to_the_command_line(composed, name):
    cfg = composed(f"experiment={name}", "dataset.num_classes=13")
    assert cfg != composed("dataset.num_classes=13")
    assert cfg.dataset.num_classes == 13


@pytest.mark.parametrize("name", GROUPS["selection"])
def test_the_epoch_is_chosen_by_what_the_selection_says(composed, name):
    assert name in SELECTIONS
    data = instantiate(composed(f"selection={name}").data)
    plain = instantiate(composed().data).splits
    assert data.validates == (name != "last_epoch")
    assert data.splits.test.classes == plain.test.classes
    if name == "validation":
        assert data.val_dataloader().dataset.classes == plain.val.classes
        assert data.splits.train.classes == plain.train.classes
    else:
        assert set(data.splits.train.classes) == {*plain.train.classes, *plain.val.classes}
    if name == "best_test_epoch":
        assert data.val_dataloader().dataset.classes == plain.test.classes


@pytest.mark.parametrize("dataset", GROUPS["dataset"])
def test_folds_hold_out_other_classes_and_keep_the_test(composed, dataset):
    folds = [
        instantiate(composed(f"dataset={dataset}", f"dataset.fold={fold}", "dataset.num_folds=2").data).splits
        for fold in range(2)
    ]
    tests = [parts.test if isinstance(parts.test, tuple) else (parts.test,) for parts in folds]
    assert [part.classes for part in tests[0]] == [part.classes for part in tests[1]]
    assert folds[0].train.classes == folds[1].val.classes
    assert folds[0].val.classes == folds[1].train.classes


@pytest.mark.parametrize("group", ["dataset", "backbone", "trainer"])
def test_evaluation_composes_with_the_same_choices(group):
    for name in GROUPS[group]:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            cfg = compose("evaluate", [f"{group}={name}", *needed(group, name)])
        assert cfg[group]._target_
        if group == "backbone":
            assert instantiate(cfg.backbone).out_features


@pytest.mark.parametrize("name", GROUPS["dataset"])
def test_an_evaluation_takes_the_ks_of_its_data_set(name):
    for overrides, ks in (([], RECALL_KS.get(name)), (["module.recall_ks=[3]"], [3])):
        with initialize_config_dir(str(CONF), version_base="1.3"):
            cfg = compose("evaluate", [f"dataset={name}", "dataset.root=somewhere", *overrides])
        assert cfg.module.recall_ks == ks
        assert cfg.dataset.root == "somewhere"
        assert cfg.data.test_transform


@pytest.mark.parametrize("name", RECALL_KS)
def test_a_published_data_set_trains_and_is_tested_as_usual(composed, name):
    cfg = composed(
        f"dataset={name}",
        "divide={split_depth: 1, warmup_epochs: 0, conquer_at: null}",
        "data={batch_size: 4, images_per_class: 2, eval_batch_size: 8}",
        "module.embedding_dim=8",
        "trainer={accelerator: cpu, max_epochs: 1, limit_train_batches: 2, enable_progress_bar: false}",
        "logger=none",
    )
    data = instantiate(cfg.data)
    module, divide = instantiate(cfg.module), instantiate(cfg.divide)
    before = [parameter.detach().clone() for parameter in module.backbone.parameters()]
    trainer = instantiate(cfg.trainer, callbacks=[divide], logger=False, enable_checkpointing=False)
    trainer.fit(module, data)
    assert not all(map(torch.equal, before, module.backbone.parameters()))
    assert trainer.callback_metrics["val/recall_at_1"] >= 0
    tested = trainer.test(module, data, verbose=False)[0]
    assert [key for key in tested if "recall" in key] == [f"test/recall_at_{k}" for k in RECALL_KS[name]]


class Watch(pl.Callback):
    """Write down losses and the loss's own weights."""

    def __init__(self, divide):
        self.divide, self.losses, self.depths, self.pull = divide, [], [], 0.0

    def on_train_start(self, trainer, module):
        self.owned = [parameter.detach().clone() for parameter in module.loss.parameters()]

    def on_after_backward(self, trainer, module):
        self.pull += float(module.embedding.weight.grad.abs().sum())

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.losses.append(float(outputs["loss"]))
        self.depths.append(self.divide.stage.depth if self.divide.learner is not None else 0)


@pytest.mark.parametrize("depth", [0, 2])
@pytest.mark.parametrize("name", GROUPS["loss"])
def test_every_loss_trains_at_every_depth(composed, name, depth):
    cfg = composed(
        f"loss={name}",
        f"divide.split_depth={depth}",
        "divide={warmup_epochs: 0, every_n_epochs: 1, conquer_at: null}",
        "dataset.num_classes=24",
        "data.batch_size=16",
        "module.embedding_dim=16",
        "trainer={accelerator: cpu, limit_train_batches: 2, limit_val_batches: 0, enable_progress_bar: false}",
        f"trainer.max_epochs={max(depth, 1)}",
    )
    data = instantiate(cfg.data)
    cfg.num_classes = len(data.splits.train.classes)
    module, divide = instantiate(cfg.module), instantiate(cfg.divide)
    watch = Watch(divide)
    # The callback forgets the learner at a batch's end, so whoever wants to know it comes first.
    trainer = instantiate(cfg.trainer, callbacks=[watch, divide], logger=False, enable_checkpointing=False)
    trainer.fit(module, data)
    assert np.isfinite(watch.losses).all()
    assert watch.depths == ([1, 1, 2, 2] if depth else [0, 0])
    assert watch.pull > 0
    assert all(not torch.equal(old, new) for old, new in zip(watch.owned, module.loss.parameters(), strict=True))
