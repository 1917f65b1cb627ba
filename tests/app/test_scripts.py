"""A command line is read, and refused, before anything that takes seconds is imported."""

import subprocess
import sys

import pytest
from programs import ROOT, refusal

SLOW = ["torch", "pytorch_lightning", "lightning_fabric", "torchmetrics", "torchvision", "matplotlib", "sklearn"]
CASES = [
    (["train.py", "--help"], 0, "Choose one of each group"),
    (["evaluate.py", "--help"], 0, "Evaluate a checkpoint"),
    (["train.py", "-sc", "install=bash"], 0, "hydra_bash_completion"),
    (["train.py", "lss=margin"], 2, "there is no 'lss'; did you mean 'loss'?"),
    (["train.py", "dataset.root=images"], 2, "for a folder of your own images add dataset=image_folder"),
    (["train.py", "loss=margn"], 2, "there is no loss=margn; did you mean 'loss=margin'?"),
    (
        ["train.py", "seed=1", "callbacks=null"],
        2,
        "no callbacks=null; did you mean 'callbacks=none'? callbacks has",
    ),
    (["train.py", "dataset=image_folder"], 2, "dataset.root is not given; add dataset.root=... to the command"),
    (["train.py", "backbone=timm"], 2, "backbone.name is not given; add backbone.name=... to the command"),
    (["train.py", "dataset=csv", "dataset.root=a/b"], 2, "dataset.root='a/b' does not exist: there is no 'a' in '"),
    (["train.py", "dataset=cub200", "dataset.root=a"], 2, "'; dataset.download=true fetches it, if it can be fetched"),
    (["train.py", "dataset=huggingface", "dataset.root=a/b"], 2, "; dataset.name=a/b would look for it on the Hub"),
    (["train.py", "ckpt_path=nowhere"], 2, "ckpt_path='nowhere' is not a file"),
    (["train.py", "ckpt_path=."], 2, "ckpt_path='.' holds no checkpoint"),
    (["evaluate.py"], 2, "no checkpoint given; use checkpoint=PATH"),
    (["evaluate.py", "checkpoint=nowhere"], 2, "checkpoint='nowhere' is not a file"),
    (["evaluate.py", "checkpoint=[nowhere/*.ckpt]"], 2, "checkpoint='nowhere/*.ckpt' leads to no checkpoint"),
    (["evaluate.py", "checkpoint=seen", "dataset=sop"], 2, "dataset.root is not given"),
]
READ = """
import runpy, sys
import divconq_pl
from divconq_pl import InputError
root, cases, slow = sys.argv[1], {cases}, {slow}
for (script, *arguments), code, _ in cases:
    sys.argv = [f"{{root}}/{{script}}", *arguments]
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as stop:
        assert (stop.code or 0) == code, (sys.argv, stop.code)
    else:
        assert code == 0, sys.argv
    imported = [name for name in slow if name in sys.modules]
    assert not imported, (sys.argv, imported)
"""


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """What the programs say to all of these command lines, in one process."""
    code = READ.format(cases=CASES, slow=SLOW)
    folder = tmp_path_factory.mktemp("empty")
    result = subprocess.run([sys.executable, "-c", code, str(ROOT)], capture_output=True, text=True, cwd=folder)
    assert result.returncode == 0, result.stderr
    return result.stdout, [line.removeprefix("error: ") for line in result.stderr.splitlines() if "error: " in line]


def test_nothing_slow_is_imported_to_show_help_or_to_refuse_a_command_line(said):
    out, errors = said
    assert all(text in out for _, code, text in CASES if code == 0)
    assert len(errors) == sum(code == 2 for _, code, _ in CASES)


def test_what_is_missing_is_named(said):
    for (arguments, _, message), line in zip([case for case in CASES if case[1]], said[1], strict=True):
        assert message in line, arguments


def test_help_may_be_cut_off_by_whoever_reads_it(tmp_path):
    command = f"{sys.executable} {ROOT / 'train.py'} --help | head -1"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=tmp_path)
    assert result.stdout.startswith("Train an image-retrieval embedding")
    assert result.stderr == ""


@pytest.fixture
def own(tmp_path):
    """A folder of a user's own configurations."""
    for group, name, text in (
        ("loss", "lifted", "_target_: pytorch_metric_learning.losses.GeneralizedLiftedStructureLoss\nneg_margin: 1\n"),
        (
            "experiment",
            "birds",
            "# @package _global_\ndefaults:\n  - override /loss: lifted\ntrainer:\n  max_epochs: 30\n",
        ),
    ):
        (tmp_path / "mine" / group).mkdir(parents=True)
        (tmp_path / "mine" / group / f"{name}.yaml").write_text(text)


@pytest.mark.usefixtures("own")
def test_configurations_of_ones_own_are_composed_and_listed_with_ours(call):
    code, out, _ = call("train.py", "--config-dir", "mine", "experiment=birds", "--help")
    assert code == 0
    assert "\nexperiment: birds, cars196_baseline" in out
    assert ", contrastive, lifted, margin, " in out
    assert "GeneralizedLiftedStructureLoss\n" in out
    assert "max_epochs: 30" in out
    line = refusal(call("train.py", "--config-dir", "mine", "experiment=birds", "loss.neg_margn=2"))
    assert line == "error: there is no 'loss.neg_margn'; did you mean 'loss.neg_margin'? loss has: neg_margin"


@pytest.mark.parametrize(
    ("line", "completed"),
    [
        ("divconq-train cal", ["callbacks.", "callbacks="]),
        ("divconq-train callbacks=e", ["callbacks=early_stopping", "callbacks=ema"]),
        ("divconq-train divide.split", ["divide.split_depth="]),
        ("divconq-train loss=triplet loss.m", ["loss.margin="]),
        ("divconq-train --config-dir mine loss=l", ["loss=lifted"]),
    ],
)
@pytest.mark.usefixtures("own")
def test_the_shell_is_told_how_a_line_may_go_on(call, monkeypatch, line, completed):
    monkeypatch.setenv("COMP_LINE", line)
    _, out, err = call("train.py", "-sc", "query=bash")
    assert out.split() == completed
    assert err == ""
