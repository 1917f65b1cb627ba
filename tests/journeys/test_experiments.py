"""The papers' recipes: they say what was published, and train."""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import trees
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import OmegaConf
from pytorch_metric_learning import losses
from torchvision.transforms import v2

from divconq_pl import DistanceWeightedMiner, FixedSubspaces, LearnedSubspaces, ZeroedSubspaces
from divconq_pl.app.evaluation import embed, measure
from divconq_pl.app.results import check_published, describe_selection, name_selection
from divconq_pl.app.table import print_results
from divconq_pl.lightning.learners import SUBSPACES

CONF = Path(__file__).parents[2] / "conf"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*is not as published"),
    pytest.mark.filterwarnings("error:.*could not be divided"),
]


class Recipe(NamedTuple):
    """What a recipe is to be; M images of a class in a batch, K learners, figures in percent."""

    epochs: int
    batch: int
    M: int
    d: int
    weight_decay: float
    K: int
    recall: float | None
    nmi: float | None = None
    marp: float | None = None


RECIPES = {
    "cub200_baseline": Recipe(50, 112, 4, 128, 4e-4, 1, 63.4, 68.2),
    "cars196_baseline": Recipe(70, 112, 4, 128, 4e-4, 1, 79.3, 67.2),
    "sop_baseline": Recipe(40, 112, 4, 128, 4e-4, 1, 76.1, 89.6),
    "inshop_baseline": Recipe(40, 112, 4, 128, 4e-4, 1, 84.5, 88.2),
    "vehicle_id_baseline": Recipe(40, 112, 4, 128, 4e-4, 1, None),
    "cub200_cvpr2019": Recipe(200, 80, 4, 128, 1e-4, 4, 65.90),
    "cars196_cvpr2019": Recipe(200, 80, 4, 128, 1e-4, 4, 84.6),
    "sop_cvpr2019": Recipe(200, 80, 4, 128, 1e-4, 8, 76.40),
    "inshop_cvpr2019": Recipe(200, 80, 4, 128, 1e-4, 8, 87.36),
    "vehicle_id_cvpr2019": Recipe(200, 80, 4, 128, 1e-4, 8, 91.54),
    "cub200_tpami2021_fixed": Recipe(180, 80, 4, 512, 1e-4, 4, 67.39, 68.60, 54.98),
    "cars196_tpami2021_fixed": Recipe(180, 80, 4, 512, 1e-4, 4, 87.22, 70.57, 65.89),
    "sop_tpami2021_fixed": Recipe(180, 80, 2, 512, 1e-4, 32, 79.50, 89.59, 79.32),
    "inshop_tpami2021_fixed": Recipe(180, 80, 2, 512, 1e-4, 32, 89.84, 89.76, 87.86),
    "vehicle_id_tpami2021_fixed": Recipe(180, 80, 2, 512, 1e-4, 32, 94.01, 90.78, 92.89),
    "cub200_tpami2021_learned": Recipe(180, 80, 4, 512, 1e-4, 4, 67.71, 69.84, 55.11),
    "cars196_tpami2021_learned": Recipe(180, 80, 4, 512, 1e-4, 4, 86.90, 70.10, 65.54),
    "sop_tpami2021_learned": Recipe(180, 80, 2, 512, 1e-4, 32, 79.80, 89.68, 79.60),
    "inshop_tpami2021_learned": Recipe(180, 80, 2, 512, 1e-4, 32, 90.49, 89.88, 88.50),
    "vehicle_id_tpami2021_learned": Recipe(180, 80, 2, 512, 1e-4, 32, 93.93, 90.70, 92.68),
}
# The step of the learning rate in the commands of sample_training_runs.sh: --tau.
TAU = {"cub200": 30, "cars196": 45, "sop": 30, "inshop": 25, "vehicle_id": 25}
# The authors' commands as published, option by option, and the key and the value that say the same here.
COMMANDS = {
    "sop_baseline": {
        "--n_epochs 40": ("trainer.max_epochs", 40),
        "--tau 30": ("module.lr_scheduler.milestones", [30]),
        "--loss marginloss": ("loss._target_", "pytorch_metric_learning.losses.MarginLoss"),
        "--sampling distance": ("miner._target_", "divconq_pl.losses.DistanceWeightedMiner"),
    },
    "inshop_cvpr2019": {
        "--random-seed=0": ("seed", 0),
        "--nb-clusters=8": ("divide.split_depth", 3),
        "--nb-epochs=200": ("trainer.max_epochs", 200),
        "--sz-batch=80": ("data.batch_size", 80),
        "--embedding-lr=1e-5 --backbone-lr=1e-5": ("module.optimizer.lr", 1e-5),
        "--embedding-wd=1e-4 --backbone-wd=1e-4": ("module.optimizer.weight_decay", 1e-4),
        "--finetune-epoch=190": ("divide.conquer_at", 190),
    },
    "sop_tpami2021_learned": {
        "-seed=4": ("seed", 4),
        "--sz-embedding=512": ("module.embedding_dim", 512),
        "--mod-epoch=2": ("divide.every_n_epochs", 2),
        "--nb-clusters=32": ("divide.split_depth", 5),
        "--nb-epochs=180": ("trainer.max_epochs", 180),
        "--batch-size=80": ("data.batch_size", 80),
        "--num-samples-per-class=2": ("data.images_per_class", 2),
        "--mod-epoch-freeze=1": ("divide.freeze_epochs", 1),
        "--sampler=distanceweighted": ("miner._target_", "divconq_pl.losses.DistanceWeightedMiner"),
        "--weight-decay=1e-4": ("module.optimizer.weight_decay", 1e-4),
        "--batch-sampler=adaptbalanced": ("divide.draw", "classes"),
        "--force-full-embedding-epoch=80": ("divide.merge_at", 80),
        "--mask-lr-mult=100": ("divide.subspaces.lr_factor", 100),
        "--masking-lambda=0.01": ("divide.subspaces.orthogonality_weight", 0.01),
        "--mask-wd-mult=1": ("divide.subspaces.weight_decay_factor", 1),
    },
}
DATASETS = dict.fromkeys(name.rpartition("_")[0].removesuffix("_tpami2021") for name in RECIPES)
ON_THE_COMMAND_LINE = ["cars196_tpami2021_learned", "inshop_baseline"]  # leaving one out; query and gallery
# A batch of 2 classes x 2 images, so that the tiny copies, of few training classes of 3 images, can be divided once.
TINY = [
    "backbone=small",
    "image_size=32",
    "data={batch_size: 4, images_per_class: 2, eval_batch_size: 16, num_workers: 0}",
    "module.embedding_dim=8",
    "evaluation.nmi_runs=1",
    "trainer={accelerator: cpu, max_epochs: 3, limit_train_batches: 2, enable_progress_bar: false}",
    "logger=none",
]
TINY_DIVIDE = "divide={split_depth: 1, warmup_epochs: 0, merge_at: 1}"


def data_set(name):
    return next(dataset for dataset in DATASETS if name.startswith(dataset))


@pytest.fixture(scope="module")
def copies(tmp_path_factory):
    """A tiny copy of each published data set."""
    roots = {name: tmp_path_factory.mktemp(name) for name in trees.WRITERS}
    for name, write in trees.WRITERS.items():
        # The classes of the usual ones differ less than the images of each, so that they can hardly be divided.
        write(roots[name], **({"train": range(81, 101)} if name == "cub200" else {}))
    return roots


@pytest.fixture
def composed(tmp_path, copies):
    """Compose a recipe as on the command line."""

    def make(name, *overrides):
        root = f"dataset.root={copies[data_set(name)]}"
        folder = f"hydra.runtime.output_dir={tmp_path / 'run'}"
        with initialize_config_dir(str(CONF), version_base="1.3"):
            cfg = compose("train", [f"experiment={name}", root, folder, *overrides], return_hydra_config=True)
        HydraConfig.instance().set_config(cfg)
        return cfg

    yield make
    HydraConfig.instance().cfg = None


def tiny(name):
    return TINY if "baseline" in name else [*TINY, TINY_DIVIDE]


def test_every_recipe_is_there():
    assert {path.stem for path in (CONF / "experiment").glob("*.yaml")} == {*RECIPES, "glyphs_orientation"}
    assert set(DATASETS) == set(trees.WRITERS) - {"market1501"}  # of which the papers tell nothing


@pytest.mark.parametrize("name", COMMANDS)
def test_a_recipe_follows_the_published_command_key_by_key(composed, name):
    cfg = composed(name)
    for option, (key, value) in COMMANDS[name].items():
        assert OmegaConf.select(cfg, key) == value, option


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_says_what_was_published(composed, name):
    cfg, recipe = composed(name), RECIPES[name]
    assert cfg.trainer.max_epochs == recipe.epochs
    assert (cfg.backbone.name, cfg.backbone.weights) == ("resnet50", "IMAGENET1K_V1")
    assert cfg.backbone.freeze_batchnorm is None  # which is to freeze it where there are weights
    cfg.num_classes = 8
    cfg.backbone.weights = None
    with torch.device("meta"):  # shapes without the arithmetic
        module = instantiate(cfg.module)
    assert module.embedding.in_features == 2048
    assert module.embedding.out_features == recipe.d
    optimizer = module.configure_optimizers()
    schedule = optimizer["lr_scheduler"]["scheduler"] if isinstance(optimizer, dict) else None
    optimizer = optimizer["optimizer"] if isinstance(optimizer, dict) else optimizer
    assert type(optimizer) is torch.optim.Adam
    backbone, embedding, *rest = optimizer.param_groups
    initial = [(group.get("initial_lr", group["lr"]), group["weight_decay"]) for group in (backbone, embedding)]
    assert initial == [(pytest.approx(1e-5), recipe.weight_decay)] * 2
    assert isinstance(module.loss, losses.MarginLoss)
    assert (module.loss.margin, cfg.loss.beta, module.loss.nu) == (0.2, 1.2, 0)
    assert isinstance(module.miner, DistanceWeightedMiner)
    # Roth and Brattoli draw negatives at any distance.
    assert (module.miner.cutoff, module.miner.nonzero_loss_cutoff > 2) == (0.5, recipe.K == 1)
    assert recipe.K == 1 or module.miner.nonzero_loss_cutoff == 1.2 + module.loss.margin
    assert module.miner.width is None  # what it sees: 2019 a slice, 2021 all coordinates

    figures = dict(cfg.published or {})
    assert bool(figures) == (recipe.recall is not None)
    shown = [figures.get(metric) for metric in ("recall_at_1", "nmi", "marp")]
    wanted = [None if value is None else pytest.approx(value / 100) for value in recipe[-3:]]
    assert shown == wanted
    assert check_published(figures) or not figures
    assert {int(key.rpartition("_")[2]) for key in figures if "recall" in key} <= set(module.recall_ks)
    assert [figures[key] for key in figures if "recall" in key] == sorted(
        figures[key] for key in figures if "recall" in key
    )
    assert bool(cfg.evaluation.nmi_runs) >= (recipe.nmi is not None)
    assert cfg.evaluation.nmi_runs in (0, 10)
    assert cfg.evaluation.marp == (recipe.marp is not None)

    data = instantiate(cfg.data)
    assert (data.batch_size, data.images_per_class, data.num_workers) == (recipe.batch, recipe.M, None)
    assert data.validate_on == "test"
    assert data.splits.val is None
    assert not any(isinstance(step, v2.RandomApply) for step in data.train_transform.transforms)

    if recipe.K == 1:
        assert "_target_" not in cfg.divide
        assert module.loss.beta.shape == (8,)
        assert [group["name"] for group in rest] == ["loss"]
        assert (rest[0]["initial_lr"], rest[0]["weight_decay"]) == (pytest.approx(5e-4), 0)
        assert (schedule.gamma, module.dropout.p) == (0.3, 0)
        assert dict(schedule.milestones) == {TAU[data_set(name)]: 1}
        return
    assert rest == []
    assert module.loss.beta.shape == (1,)
    assert module.dropout.p == 0.01
    settings = cfg.divide
    assert 2**settings.split_depth == recipe.K
    assert (settings.every_n_epochs, settings.allotment) == (2, "equal")
    assert (settings.draw, settings.start, settings.whole_classes) == ("classes", "same_seed", False)
    assert settings.cluster_on == "penultimate"
    assert settings.images_per_class == recipe.M
    kind = settings.subspaces
    subspaces = (SUBSPACES[kind] if isinstance(kind, str) else instantiate(kind))(recipe.d, settings.split_depth)
    if "cvpr2019" in name:
        advised = name.startswith("cub200")
        assert (settings.merge_at, settings.conquer_at) == ((26, 60) if advised else (80, 190))
        assert (settings.flat, settings.warmup_epochs, settings.freeze_epochs) == (True, 0, 0)
        assert (schedule is not None) == advised
        assert schedule is None or schedule.step_size == 30
    else:
        assert (settings.merge_at, settings.conquer_at) == (80, None)
        assert (settings.flat, settings.warmup_epochs, settings.freeze_epochs) == (False, None, 1)
        assert schedule is None
    if name.endswith("learned"):
        assert isinstance(subspaces, LearnedSubspaces)
        factors = (subspaces.lr_factor, subspaces.weight_decay_factor, subspaces.orthogonality_weight)
        assert factors == (100, 1, 0.01)
    else:
        assert type(subspaces) is (FixedSubspaces if "cvpr2019" in name else ZeroedSubspaces)


class Watch(pl.Callback):
    """Write down losses, and what each epoch is."""

    def __init__(self, divide):
        self.divide, self.losses, self.phases = divide, [], []

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.losses.append(float(outputs["loss"]))

    def on_train_epoch_end(self, trainer, module):
        self.phases.append(self.divide.stage.phase if self.divide else None)


@pytest.mark.parametrize("name", ["cub200_cvpr2019", "inshop_tpami2021_learned", "vehicle_id_baseline"])
def test_a_recipe_trains_and_is_shown_beside_the_published_figures(composed, capsys, name):
    cfg = composed(name, *tiny(name), *(["divide.conquer_at=2"] if "cvpr" in name else []))
    data = instantiate(cfg.data)
    cfg.num_classes = len(data.splits.train.classes)
    module, divide = instantiate(cfg.module), instantiate(cfg.divide) if "_target_" in cfg.divide else None
    before = [parameter.detach().clone() for parameter in module.parameters()]
    watch = Watch(divide)
    callbacks = [watch, divide] if divide else [watch]
    trainer = instantiate(cfg.trainer, callbacks=callbacks, logger=False, enable_checkpointing=False)
    trainer.fit(module, data)
    assert np.isfinite(watch.losses).all()
    last = {"baseline": [None] * 3, "cvpr2019": ["divided", "merged", "conquered"]}
    assert watch.phases == last.get(name.rpartition("_")[2], ["divided", "merged", "merged"])
    after = list(module.parameters())[: len(before)]
    assert all(not torch.equal(old, new) for old, new in zip(before, after, strict=True) if new.requires_grad)

    tested = measure(embed(trainer, module, data), data.tested, **cfg.evaluation)
    results = {**tested, "name": "own", "selection": name_selection(data.validate_on, validated=True)}
    print_results([results | check_published(cfg.published)], title=describe_selection([results]))
    check_table(capsys.readouterr().out, name, "own", tested)


def check_table(out, name, run, tested):
    """See that both rows are there, and that the table says how the epoch was chosen."""
    recipe = RECIPES[name]
    assert "chosen on these very classes, which inflates the figures" in " ".join(out.split())
    lines = [line.split() for line in out.splitlines()]
    (measured,) = (line for line in lines if line[:1] == [run])
    assert measured[1] == f"{100 * tested['test/recall_at_1']:.2f}"
    assert ("test/nmi" in tested) >= (recipe.nmi is not None)
    assert ("test/marp" in tested) == (recipe.marp is not None)
    source = {"baseline": "Roth and Brattoli", "cvpr2019": "CVPR 2019", "fixed": "TPAMI 2021", "learned": "TPAMI 2021"}
    rows = [line for line in out.splitlines() if line.strip().startswith(source[name.rpartition("_")[2]])]
    if recipe.recall is None:
        assert rows == []
    else:
        assert all(f"{value:.2f}" in rows[0].split() for value in recipe[-3:] if value is not None)


@pytest.mark.parametrize("name", ON_THE_COMMAND_LINE)
def test_a_recipe_runs_from_the_command_line_and_its_checkpoint_is_evaluated(call, copies, tmp_path, name):
    root = f"dataset.root={copies[data_set(name)]}"
    code, out, err = call("train.py", f"experiment={name}", root, *tiny(name), "hydra.run.dir=measured")
    assert code == 0, err
    found = json.loads((tmp_path / "measured" / "results.json").read_text())
    check_table(out, name, "measured", found)
    metrics = ["evaluation.nmi_runs=1", f"evaluation.marp={RECIPES[name].marp is not None}"]
    code, out, err = call("evaluate.py", "checkpoint=measured", *metrics, "json=again.json")
    assert code == 0, err
    again = json.loads((tmp_path / "again.json").read_text())
    tested = {key: value for key, value in found.items() if key.startswith("test/")}
    assert {key: again[key] for key in tested} == pytest.approx(tested)
    assert f"{RECIPES[name].recall:.2f}" in out


@pytest.mark.parametrize("paper", ["baseline", "cvpr2019", "tpami2021_fixed", "tpami2021_learned"])
def test_the_command_line_wins_over_a_recipe(composed, paper):
    changed = ["selection=validation", "miner=batch_hard", "module.embedding_dim=16", "backbone.weights=a.pth"]
    cfg = composed(f"cars196_{paper}", *changed)
    assert (cfg.data.validate_on, cfg.dataset.val_fraction, cfg.module.embedding_dim) == ("val", 0.2, 16)
    assert cfg.miner._target_.endswith("BatchHardMiner")
    assert cfg.backbone.weights == "a.pth"


def test_a_recipe_without_a_division_is_the_plain_loss_and_draws_query_and_gallery(call, copies, tmp_path):
    name = "inshop_tpami2021_fixed"
    short = [*TINY, "divide=none", "trainer.max_epochs=1", "hydra.run.dir=run"]
    code, out, err = call("train.py", f"experiment={name}", f"dataset.root={copies['inshop']}", *short)
    assert code == 0, err
    assert "no division: the plain loss" in out + err
    assert "division 1" not in out + err
    assert {path.name for path in (tmp_path / "run" / "pictures").iterdir()} == {"curves.png", "gallery.png"}


def test_weights_that_cannot_be_fetched_are_named_in_one_line(call, copies, monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("torch.hub.urlopen", lambda *_, **__: (_ for _ in ()).throw(OSError("no network")))
    code, out, err = call("train.py", "experiment=cub200_baseline", f"dataset.root={copies['cub200']}")
    assert code == 2
    assert "Traceback" not in out + err
    assert "fetch resnet50-0676ba61.pth on a machine with a network and put it into" in err.splitlines()[-1]
