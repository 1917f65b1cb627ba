"""What the tests share: one thread, a random state, a folder, and the programs of the command line."""

import logging
import runpy
import signal
import sys
import warnings
from importlib import import_module

import pytest
import torch
from PIL import Image
from programs import ROOT


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    """Keep small tensors from being spread over threads, which is slower and competes with workers."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seeded(tmp_path, monkeypatch):
    """Start every test from the same random state, with a cache folder of its own."""
    torch.manual_seed(0)
    monkeypatch.setenv("DIVCONQ_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        warnings.filterwarnings("ignore", message=".*LeafSpec.*")
        yield
    assert not torch.is_autocast_enabled("cpu"), "a test left mixed precision switched on for those after it"


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    return tmp_path_factory.mktemp("workplace")


@pytest.fixture
def call(monkeypatch, capfd, workplace):
    """Run a program in this process, which takes a fraction of the time; return what `finish` does."""
    handlers, level, on_interrupt = logging.root.handlers[:], logging.root.level, signal.getsignal(signal.SIGINT)
    # What the program sets for itself is taken back after the test.
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    for name in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS"):
        monkeypatch.setenv(name, "0")
    monkeypatch.setenv("DIVCONQ_CACHE", str(workplace / "cache"))
    # A picture takes longer than all the rest of a tiny run; they are looked at elsewhere.
    blank = Image.new("RGB", (9, 9))
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda _, file, **__: blank.save(file, "PNG"))

    def call(script, *arguments):
        monkeypatch.setattr(sys, "argv", [script, *arguments])
        code = 0
        try:
            if script.startswith("divconq-"):
                scripts = import_module("divconq_pl.app.scripts")
                getattr(scripts, script.removeprefix("divconq-"))(ROOT / "conf")
            else:
                runpy.run_path(str(ROOT / script), run_name="__main__")
        except SystemExit as stop:
            code = stop.code
        return code, *capfd.readouterr()

    yield call
    for handler in set(logging.root.handlers) - set(handlers):
        handler.close()
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)
    signal.signal(signal.SIGINT, on_interrupt)
