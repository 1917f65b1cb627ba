"""What is installed is what the floors need: the base below, an extra for what stands on it."""

import ast
import re
import subprocess
import sys
from configparser import ConfigParser
from functools import cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "divconq_pl"
BASE, REPORT = ("core", "metrics", "losses", "lightning"), ("report",)
APPLICATION = ("backbones", "data", "inference", "search", "app")
SETUP = ConfigParser(interpolation=None)
SETUP.read(ROOT / "setup.cfg")
ONLY_NAMED = {"tensorboard"}
"""Needed without being imported: by Lightning's TensorBoardLogger of conf/logger."""
TRAINING = """
import sys
sys.path[:0] = sys.argv[1:]
import pytorch_lightning as pl
import torch
from pytorch_metric_learning import losses
from torch.utils.data import DataLoader, TensorDataset

from divconq_pl import DivideConquerCallback, DivideConquerModule, LearnedSubspaces

labels = torch.arange(8).repeat_interleave(8)
images = TensorDataset(labels[:, None] + torch.randn(64, 12), labels)
for subspaces in ("fixed", LearnedSubspaces):
    backbone = torch.nn.Sequential(torch.nn.Linear(12, 16), torch.nn.ReLU())
    backbone.out_features = 16
    module = DivideConquerModule(backbone, 8, losses.ContrastiveLoss())
    before = module.embedding.weight.detach().clone()
    divide = DivideConquerCallback(split_depth=1, every_n_epochs=1, warmup_epochs=0, subspaces=subspaces)
    loader = DataLoader(images, batch_size=16, shuffle=True)
    pl.Trainer(
        callbacks=[divide], max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False
    ).fit(module, loader, loader)
    assert divide.history and not torch.equal(before, module.embedding.weight)
"""


def requirements(extra=None):
    """Return what setup.cfg names for the base or for an extra, extras of our own resolved."""
    text = SETUP["options"]["install_requires"] if extra is None else SETUP["options.extras_require"][extra]
    for requirement in map(Requirement, text.split()):
        if requirement.name == "divconq-pl":
            for own in requirement.extras:
                yield from requirements(own)
        else:
            yield requirement


def names(extra=None):
    return {canonicalize_name(requirement.name) for requirement in requirements(extra)}


def imports_of(*floors):
    """Return what the files of some floors import from elsewhere: when they are imported, and later or perhaps."""
    at_once, later = set(), set()
    files = [file for floor in floors for file in (PACKAGE / floor).rglob("*.py")]
    files += PACKAGE.glob("*.py") if floors == BASE else []
    for file in files:
        body = ast.parse(file.read_text()).body
        for node in body:
            found = set(imported(node))
            (at_once if isinstance(node, (ast.Import, ast.ImportFrom)) else later).update(found)
    outside = at_once | later
    outside -= {"divconq_pl", *sys.stdlib_module_names}
    return at_once & outside, (later - at_once) & outside


def imported(node):
    for part in ast.walk(node):
        if isinstance(part, ast.ImportFrom):
            yield part.module.split(".")[0]
        elif isinstance(part, ast.Import):
            yield from (name.name.split(".")[0] for name in part.names)


@cache
def distributions():
    return packages_distributions()


def bringing(module):
    """Return the names of the distributions that bring a module."""
    return {canonicalize_name(name) for name in distributions().get(module, ())}


@pytest.mark.parametrize(
    ("floors", "extra"), [(BASE, None), (REPORT, "report"), (APPLICATION, "app")], ids=["base", "report", "app"]
)
def test_a_floor_imports_what_setup_declares_for_it_and_all_of_that(floors, extra):
    below = (names() if extra else set()) | (names("report") if extra == "app" else set())
    needed = [bringing(module) for module in imports_of(*floors)[0]]
    declared = names(extra) | below
    assert all(alternatives & declared for alternatives in needed)
    used = set().union(*needed) | below | ONLY_NAMED
    assert declared <= used | below, "declared, but not used"


def test_what_is_imported_only_when_it_is_asked_for_is_an_extra():
    every = set().union(*(names(extra) for extra in SETUP["options.extras_require"])) | names()
    for module in imports_of(*BASE, *REPORT, *APPLICATION)[1] - {
        "typing_extensions"
    }:  # that one only for the type checker
        assert bringing(module) & every or module not in distributions(), module


@pytest.mark.parametrize("extra", ["cpu", "gpu", "test"])
def test_the_documented_extras_bring_the_application(extra):
    assert names(extra) >= names("app")


def test_the_wheel_holds_every_folder_of_the_package_and_the_configuration():
    folders = {path.parent.relative_to(ROOT / "src") for path in PACKAGE.rglob("__init__.py")}
    packages = {".".join(folder.parts) for folder in folders} | {"divconq_pl.conf"}
    assert set(SETUP["options"]["packages"].split()) == packages
    patterns = SETUP["options.package_data"]["divconq_pl.conf"].split(", ")
    held = {file for pattern in patterns for file in (ROOT / "conf").glob(pattern)}
    assert held == set((ROOT / "conf").rglob("*.yaml"))


def test_a_plain_install_has_no_package_of_the_application_in_it():
    assert not names() & names("app")


@pytest.fixture(scope="module")
def plain_install(tmp_path_factory):
    """A folder with links to what `pip install divconq-pl` brings, and to nothing else."""
    folder = tmp_path_factory.mktemp("plain install")
    seen, waiting = set(), [(requirement.name, frozenset()) for requirement in requirements()]
    while waiting:
        name, extras = waiting.pop()
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        try:
            found = distribution(name)
        except PackageNotFoundError:  # for another platform
            continue
        for part in {file.parts[0] for file in found.files} - {"..", "__pycache__"}:
            if not (folder / part).exists():
                (folder / part).symlink_to(found.locate_file(part))
        for requirement in map(Requirement, found.requires or ()):
            if any(requirement.marker is None or requirement.marker.evaluate({"extra": e}) for e in ("", *extras)):
                waiting.append((requirement.name, frozenset(requirement.extras)))
    return folder


def run(code, *arguments):
    # -I and -S: neither the folder of the tests nor anything else that is installed is looked at.
    return subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, *map(str, arguments)], capture_output=True, text=True
    )


@pytest.mark.slow
def test_the_callback_trains_with_what_a_plain_install_brings(plain_install, tmp_path):
    there = {file.name.lower() for file in plain_install.iterdir()}
    assert not there & {"hydra", "omegaconf", "torchvision", "matplotlib", "tensorboard", "rich", "pil", "faiss"}
    result = run(TRAINING, plain_install, ROOT / "src")
    assert result.returncode == 0, result.stderr


@pytest.mark.slow
@pytest.mark.parametrize("part", APPLICATION)
def test_a_part_that_is_not_installed_says_what_to_install(plain_install, part):
    code = f"import sys; sys.path[:0] = sys.argv[1:]; import divconq_pl.{part}"
    said = run(code, plain_install, ROOT / "src").stderr.splitlines()[-1]
    assert re.fullmatch(
        rf'ModuleNotFoundError: divconq_pl\.{part} needs .*torchvision.*: pip install "divconq-pl\[app\]"', said
    )


@pytest.mark.parametrize("part", APPLICATION)
def test_a_part_looks_for_all_the_packages_that_it_imports(monkeypatch, part):
    asked = []
    monkeypatch.setattr("divconq_pl.extras.require_packages", lambda part, extra, *packages: asked.extend(packages))
    exec((PACKAGE / part / "__init__.py").read_text(), {"__name__": import_module(f"divconq_pl.{part}").__name__})
    application = names("app")
    assert {module for module in imports_of(part)[0] if bringing(module) & application} <= set(asked)
