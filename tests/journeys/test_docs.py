"""What README, the pages of docs/, CONTRIBUTING and the examples say, works."""

import re
import runpy
import shlex
from pathlib import Path

import numpy as np
import pytest
import yaml
from checkpoints import write_checkpoint
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from PIL import Image
from pixels import draw_images

ROOT = Path(__file__).parents[2]
CONF = str(ROOT / "conf")
README = (ROOT / "README.md").read_text()
PAGES = {path.name: path.read_text() for path in sorted((ROOT / "docs").glob("*.md"))} | {"README.md": README}
EVERYTHING = "\n".join(PAGES.values())

NEED_A_RUN = {"searching.md"}
"""Pages whose Python begins with a trained network; tests/search and tests/inference do what they show."""


def blocks(language, text):
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def commands(program):
    """Return the arguments of every call of a program on any page, each once."""
    lines = [line.partition("#")[0] for block in blocks("bash", EVERYTHING) for line in block.splitlines()]
    lines = [line for line in lines if "-sc install=" not in line and "<TAB>" not in line]  # shell completion
    calls = [re.split(rf"(?:python {program}\.py|divconq-{program})\b", line, maxsplit=1) for line in lines]
    return [shlex.split(call) for call in sorted({call[1] for call in calls if len(call) > 1})]


def overrides(arguments):
    """Return what a command line sets."""
    return [argument for argument in arguments if "=" in argument and not argument.startswith("-")]


@pytest.mark.parametrize("page", [n for n, text in PAGES.items() if "```python" in text and n not in NEED_A_RUN])
def test_the_python_of_each_page_runs_from_top_to_bottom(page):
    some = {"embeddings": np.eye(12, dtype="float32"), "paths": np.array([f"{i}.png" for i in range(12)])}
    np.savez("embeddings.npz", **some)  # which a page has the reader export
    write_checkpoint(Path("run", "checkpoints", "best.ckpt"))
    (photo,) = draw_images(Path("photos"), 1).rglob("*.png")
    Image.open(photo).convert("RGB").save("query.jpg")
    names = {"__name__": "page"}
    for code in blocks("python", PAGES[page]):
        exec(compile(code, page, "exec"), names)


@pytest.mark.parametrize(
    "arguments", [a for a in commands("train") if not any(part.startswith("--config-dir") for part in a)], ids=" ".join
)
def test_every_train_command_composes(arguments):
    with initialize_config_dir(CONF, version_base="1.3"):
        for choice in _runs_with_every_value(overrides(arguments)):
            assert compose("train", choice).module._target_


def _runs_with_every_value(overrides):
    """Return the overrides of as many runs of a sweep as it takes to see each of its comma-separated values."""
    split = [override.partition("=") for override in overrides]
    choices = [[values] if values[:1] in ("[", "{") else values.split(",") for _, _, values in split]
    return [
        [f"{key}={values[run % len(values)]}" for (key, _, _), values in zip(split, choices, strict=True)]
        for run in range(max(map(len, choices), default=1))
    ]


@pytest.mark.parametrize("arguments", commands("evaluate"), ids=" ".join)
def test_every_evaluate_command_composes(arguments):
    with initialize_config_dir(CONF, version_base="1.3"):
        assert compose("evaluate", overrides(arguments)).checkpoint


@pytest.mark.parametrize("arguments", commands("export"), ids=" ".join)
def test_every_export_command_composes(arguments):
    with initialize_config_dir(CONF, version_base="1.3"):
        assert compose("export", overrides(arguments)).checkpoint


@pytest.mark.parametrize("arguments", commands("search"), ids=" ".join)
def test_every_search_command_composes(arguments):
    with initialize_config_dir(CONF, version_base="1.3"):
        assert compose("search", overrides(arguments)).index


def test_every_choice_of_every_group_is_listed():
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", PAGES["command-line.md"] + PAGES["sweeps.md"], re.MULTILINE))
    recipes = re.findall(r"^\| `(\w+)`", PAGES["papers.md"], re.MULTILINE)
    published = {f"{dataset}_{recipe}" for dataset in re.findall(r"`(\w+)`", rows["dataset"]) for recipe in recipes}
    for folder in (ROOT / "conf").iterdir():
        if folder.is_dir():
            named = set(re.findall(r"`(\w+)`", rows[folder.name]))
            named |= published if folder.name == "experiment" else set()
            assert {path.stem for path in folder.glob("*.yaml")} <= named, folder.name


def test_the_defaults_of_a_division_are_those_of_the_configuration():
    with initialize_config_dir(CONF, version_base="1.3"):
        divide = OmegaConf.to_container(compose("train").divide, resolve=False)
    page = PAGES["command-line.md"]
    section = page[page.index("## What decides how it goes") : page.index("## Networks and images")]
    rows = re.findall(r"^\| `(\w+)` \| ([^|]*) \|", section, re.MULTILINE)
    words = {"never": None, "one period": None, "false": False}
    assert len(rows) >= 8
    for key, value in rows:
        assert divide[key] == words.get(value, yaml.safe_load(value)), key


def test_the_readme_is_short_and_its_figures_are_those_of_the_results():
    assert len(README.splitlines()) <= 90
    results = PAGES["results.md"].replace("+", "")
    for figure in re.findall(r"\d\d\.\d", README[README.index("## Results") : README.index("## Where to go on")]):
        assert figure in results, figure


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "benchmarks/README.md"])
def test_what_a_page_outside_of_the_site_links_to_is_there(page):
    for link in re.findall(r"\]\((?!https?:)([^)#]+)", (ROOT / page).read_text()):
        assert (ROOT / page).parent.joinpath(link).exists(), link


def test_the_tests_that_the_page_on_reliability_names_are_there():
    page = PAGES["reliability.md"]
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
    assert 'pip install -e ".[cpu,test]" && pytest' in PAGES["install.md"]
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
