"""A training that is killed again and again ends where an undisturbed one ends."""

import json
import multiprocessing
import os
import random
import runpy
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
KILLS = 10
SIGNALS = [signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT]
ARGUMENTS = [
    "dataset=glyphs",
    "dataset.num_classes=120",
    "dataset.size=16",
    "data.batch_size=16",
    "divide=learned",
    "divide.every_n_epochs=1",
    "divide.merge_at=5",
    "divide.conquer_at=6",
    "divide.clustering=torch",
    "trainer.max_epochs=8",
    "trainer.accelerator=cpu",
    "trainer.enable_progress_bar=false",
    "+callbacks.steps={_target_: divconq_pl.app.saving.CarriedCheckpoint, dirpath: '${checkpoint.dirpath}', "
    "filename: steps, every_n_train_steps: 7, enable_version_counter: false}",
    "logger=none",
]


def train(folder, arguments):
    """Run train.py as a program in a process that has torch loaded already."""
    os.chdir(folder)
    os.environ["DIVCONQ_CACHE"] = str(folder / "cache")
    output = os.open(folder / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    torch.set_num_threads(1)
    sys.argv = ["train.py", *arguments]
    sys.path.insert(0, str(ROOT))
    runpy.run_path(str(ROOT / "train.py"), run_name="__main__")


def newest(folder):
    """Return the checkpoint that a user would go on with."""
    found = [path for path in folder.glob("part*/checkpoints/*.ckpt") if path.stem != "best"]
    return max(found, key=lambda path: path.stat().st_mtime_ns, default=None)


def outcome(last, folder):
    """Return what a run has left: its last and its best weights, its masks and divisions, and its test results."""
    last, best = (torch.load(path, weights_only=True) for path in (last, folder / "checkpoints" / "best.ckpt"))
    divide = last["callbacks"]["DivideConquerCallback"]
    tensors = [
        *last["state_dict"].values(),
        *best["state_dict"].values(),
        *divide["learners"]["values"].values(),
        divide["assignment"],
    ]
    results = json.loads((folder / "results.json").read_text())
    sizes = [(summary["epoch"], summary["sizes"]) for summary in divide["history"]]
    return tensors, sizes, last["global_step"], {k: v for k, v in results.items() if k.startswith(("test/", "val/"))}


def test_a_training_killed_ten_times_ends_as_if_nothing_had_been(tmp_path):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["divconq_pl", "divconq_pl.app.command", "divconq_pl.app.train", "faiss"])

    def start(name, *arguments):
        process = context.Process(target=train, args=(tmp_path, [*ARGUMENTS, f"hydra.run.dir={name}", *arguments]))
        process.start()
        return process

    def finish(process):
        process.join()
        assert process.exitcode == 0, (tmp_path / "output.txt").read_text()

    began = time.monotonic()
    finish(start("undisturbed"))
    seconds = time.monotonic() - began

    seed = random.randrange(2**32)
    print(f"python random.Random({seed}) draws the moments")  # for a failure to be looked into
    rng = random.Random(seed)
    kills = parts = 0
    while True:
        resume = [] if (path := newest(tmp_path)) is None else [f"ckpt_path={path}"]
        process = start(folder := f"part{parts}", *resume)
        parts += 1
        if kills == KILLS:
            break
        process.join(rng.uniform(0, seconds / 8))
        if process.is_alive():
            begun = (tmp_path / folder).exists()  # while Python starts, Ctrl-C is not the program's to handle
            os.kill(process.pid, rng.choice(SIGNALS) if begun else signal.SIGKILL)
            process.join()
            kills += 1
        if process.exitcode == 0:  # it was quicker; it has to do its part again
            shutil.rmtree(tmp_path / folder)
        else:
            assert process.exitcode in (130, -signal.SIGKILL, -signal.SIGTERM), (tmp_path / "output.txt").read_text()
    finish(process)

    tensors, *rest = outcome(newest(tmp_path), tmp_path / folder)
    straight, *others = outcome(tmp_path / "undisturbed" / "checkpoints" / "last.ckpt", tmp_path / "undisturbed")
    assert rest == others
    assert all(map(torch.equal, tensors, straight))
