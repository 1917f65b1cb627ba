"""A command line is read, and refused, before anything that takes seconds is imported."""

import subprocess
import sys

import pytest
from programs import ROOT

SLOW = ["torch", "pytorch_lightning", "lightning_fabric", "torchmetrics", "torchvision", "matplotlib", "sklearn"]
CASES = [
    (["train.py", "--help"], 0, "Choose one of each group"),
    (["evaluate.py", "--help"], 0, "Evaluate a checkpoint"),
    (["train.py", "-sc", "install=bash"], 0, "hydra_bash_completion"),
    (["train.py", "lss=margin"], 2, "there is no 'lss'; did you mean 'loss'?"),
    (["train.py", "dataset.root=images"], 2, "for a folder of your own images add dataset=image_folder"),
    (["train.py", "loss=margn"], 2, "there is no loss=margn; did you mean 'loss=margin'?"),
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
