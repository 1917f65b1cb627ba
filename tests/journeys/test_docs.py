"""What README, CONTRIBUTING and the examples say, works."""

import re
import runpy
import shlex
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
CONF = str(ROOT / "conf")


def blocks(language, text=README):
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def commands(script):
    """Return the arguments of every call of a script in the README."""
    lines = [line.partition("#")[0] for block in blocks("bash") for line in block.splitlines()]
    return [shlex.split(line.partition(f"python {script}")[2]) for line in lines if f"python {script}" in line]


@pytest.mark.parametrize("code", blocks("python"), ids=lambda code: code.strip().splitlines()[-1][:40])
def test_the_readmes_python_runs(code):
    exec(compile(code, "README.md", "exec"), {"__name__": "readme"})


@pytest.mark.parametrize("arguments", commands("train.py"), ids=" ".join)
def test_the_readmes_train_commands_compose(arguments):
    overrides = [argument for argument in arguments if not argument.startswith("-")]
    with initialize_config_dir(CONF, version_base="1.3"):
        for choice in _sweep(overrides):
            assert compose("train", choice).module._target_


def _sweep(overrides):
    """Return the overrides of every run of a sweep over comma-separated values."""
    runs = [[]]
    for override in overrides:
        key, _, values = override.partition("=")
        runs = [[*run, f"{key}={value}"] for run in runs for value in values.split(",")]
    return runs


@pytest.mark.parametrize("arguments", commands("evaluate.py"), ids=" ".join)
def test_the_readmes_evaluate_commands_compose(arguments):
    with initialize_config_dir(CONF, version_base="1.3"):
        assert compose("evaluate", arguments).checkpoint


def test_the_readme_lists_every_choice_of_every_group():
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", README, re.MULTILINE))
    recipes = re.findall(r"^\| `(\w+)`", README[README.index("## The papers' recipes") :], re.MULTILINE)
    published = {f"{dataset}_{recipe}" for dataset in re.findall(r"`(\w+)`", rows["dataset"]) for recipe in recipes}
    for folder in (ROOT / "conf").iterdir():
        if folder.is_dir():
            named = set(re.findall(r"`(\w+)`", rows[folder.name]))
            named |= published if folder.name == "experiment" else set()
            assert {path.stem for path in folder.glob("*.yaml")} <= named, folder.name


def test_the_readmes_defaults_are_those_of_the_configuration():
    with initialize_config_dir(CONF, version_base="1.3"):
        divide = OmegaConf.to_container(compose("train").divide, resolve=False)
    section = README[README.index("What decides how it goes") : README.index("Your own images")]
    rows = re.findall(r"^\| `(\w+)` \| ([^|]*) \|", section, re.MULTILINE)
    words = {"never": None, "one period": None, "false": False}
    assert len(rows) >= 8
    for key, value in rows:
        assert divide[key] == words.get(value, yaml.safe_load(value)), key


def test_the_tests_that_the_page_on_reliability_names_are_there():
    page = (ROOT / "docs" / "reliability.md").read_text()
    names = set(re.findall(r"\btest_\w+(?:\.py)?", page))
    paths = list((ROOT / "tests").rglob("test_*.py"))
    files = {path.name for path in paths}
    tests = set(re.findall(r"^def (test_\w+)", "\n".join(path.read_text() for path in paths), re.MULTILINE))
    assert len(names) > 20
    # The page cuts long names short.
    unknown = [
        n for n in names if n not in files | tests and not any(f"{n}..." in page and t.startswith(n) for t in tests)
    ]
    assert not unknown


def test_the_commands_for_a_fresh_machine_are_those_of_ci():
    assert 'pip install -e ".[cpu]" && python train.py' in README
    assert 'pip install -e ".[cpu,test]" && pytest' in README
    assert '-e ".[cpu,test]"' in (ROOT / ".ci" / "run").read_text()


def test_contributings_configuration_is_the_one_that_is_there():
    (snippet,) = blocks("yaml", (ROOT / "CONTRIBUTING.md").read_text())
    theirs = yaml.safe_load((ROOT / "conf" / "loss" / "triplet.yaml").read_text())
    assert yaml.safe_load(snippet) == theirs


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.stem)
def test_the_examples_run(path):
    if path.stem == "lightning_package":
        pytest.importorskip("lightning")
    divide = runpy.run_path(str(path))["main"]()
    assert divide.history
    assert divide.stage.phase == "merged"
