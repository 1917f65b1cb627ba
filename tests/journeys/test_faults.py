"""What happens when a disk fills up, a folder vanishes, a worker dies or an image turns unreadable in mid-training."""

import errno
import os
import re
import resource
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from programs import contents, refusal
from torch.utils.data import get_worker_info

from divconq_pl.app.interruption import NoticeDeadWorkers
from divconq_pl.app.saving import AtomicCheckpointIO
from divconq_pl.data.dataset import ArrayDataset, FileDataset
from divconq_pl.files import write_atomically
from divconq_pl.lightning.module import DivideConquerModule

QUICK = [
    "dataset=glyphs",
    "dataset.num_classes=14",
    "dataset.size=16",
    "dataset.images_per_class=8",
    "data.batch_size=8",
    "data.images_per_class=2",
    "divide={split_depth: 1, warmup_epochs: 0}",
    "trainer.max_epochs=3",
    "trainer.enable_progress_bar=false",
    "logger=none",
    "hydra.run.dir=run",
]


@pytest.fixture
def limit():
    """Let no file grow beyond some bytes, so that the system refuses to write in the middle of a file."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def load(path):
    return torch.load(path, weights_only=True)


def test_a_checkpoint_that_does_not_fit_on_the_disk_leaves_the_last_one(tmp_path, limit):
    writer, path = AtomicCheckpointIO(), tmp_path / "a" / "last.ckpt"
    writer.save_checkpoint({"state_dict": {"w": torch.zeros(3)}}, path)
    before = contents(path.parent)
    limit(100_000)
    with pytest.raises(OSError, match=r"cannot be written: File too large: '.*a/last\.ckpt'") as refused:
        writer.save_checkpoint({"state_dict": {"w": torch.ones(100_000)}}, path)
    assert refused.value.errno == errno.EFBIG
    assert contents(path.parent)["last.ckpt"] == before["last.ckpt"]
    assert [entry.name for entry in path.parent.iterdir()] == ["last.ckpt"]


def test_a_checkpoint_whose_writer_is_killed_leaves_the_last_one(tmp_path):
    path = tmp_path / "last.ckpt"
    path.write_bytes(b"whole")

    def killed(file):
        file.write(b"half")
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:
        write_atomically(path, killed)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert path.read_bytes() == b"whole"
    assert not list(tmp_path.glob("*.ckpt"))[1:], "what is half is not taken for a checkpoint"


def test_checkpoints_do_not_pass_through_the_folder_for_temporary_files(tmp_path, monkeypatch):
    """It may be on another disk, from which nothing can be moved in one step."""
    monkeypatch.setattr("tempfile.mkstemp", None)
    AtomicCheckpointIO().save_checkpoint({}, tmp_path / "a.ckpt")
    assert load(tmp_path / "a.ckpt") == {}


@pytest.mark.parametrize("kind", ["folder", "device"])
def test_what_is_no_file_is_not_replaced(tmp_path, kind):
    path = tmp_path / "place"
    path.mkdir() if kind == "folder" else os.mkfifo(path)
    with pytest.raises(OSError, match="cannot be written: it is not a file"):
        write_atomically(path, lambda file: file.write(b""))
    assert not path.is_file()


def test_a_full_disk_ends_a_run_in_one_line_with_its_last_checkpoint_whole(call, tmp_path, monkeypatch, limit):
    save, saved = AtomicCheckpointIO.save_checkpoint, []

    def save_until_full(self, checkpoint, path, storage_options=None):
        if saved.count(str(path)) == 1:
            limit(100_000)
        saved.append(str(path))
        save(self, checkpoint, path, storage_options)

    monkeypatch.setattr(AtomicCheckpointIO, "save_checkpoint", save_until_full)
    code, out, err = call("train.py", *QUICK, "selection=last_epoch")
    assert code == 1
    assert "Traceback" not in err
    line = err.splitlines()[-1]
    assert re.fullmatch(r"error: '.*run/checkpoints/last\.ckpt' cannot be written: File too large", line), line
    (kept,) = (tmp_path / "run" / "checkpoints").iterdir()
    assert load(kept)["epoch"] == 0
    assert f"selection=last_epoch ckpt_path={kept}" in out


def full(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    ("what", "file"),
    [
        ("divconq_pl.app.plots._save.write_atomically", "run/pictures/tree.png"),
        ("divconq_pl.app.results.write_atomically", "run/results.json"),
        ("pytorch_lightning.loggers.csv_logs.ExperimentWriter.save", "the disk fails"),
    ],
)
def test_a_disk_that_fills_up_elsewhere_leaves_checkpoints_whole(call, tmp_path, monkeypatch, what, file):
    atomic = "write_atomically" in what
    monkeypatch.setattr(what, (lambda path, _: write_atomically(path, full)) if atomic else full)
    code, _, err = call("train.py", *QUICK, "trainer.max_epochs=1", "logger=csv")
    assert code == 1
    line = err.splitlines()[-1]
    assert line.startswith("error: ")
    assert file in line
    assert "No space left on device" in line
    kept = [path.name for path in tmp_path.rglob("*.ckpt") if load(path)]
    assert sorted(kept) == (["best.ckpt", "last.ckpt"] if atomic else [])
    assert not (tmp_path / "run" / "results.json").exists()
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_failure_of_the_program_is_not_taken_for_one_of_the_disk(call, monkeypatch):
    step = DivideConquerModule.training_step

    def broken(self, *batch):
        if self.global_step:
            raise ZeroDivisionError
        return step(self, *batch)

    monkeypatch.setattr("divconq_pl.lightning.module.DivideConquerModule.training_step", broken)
    with pytest.raises(ZeroDivisionError):
        call("train.py", *QUICK)
    monkeypatch.setattr(AtomicCheckpointIO, "save_checkpoint", full)
    with pytest.raises(OSError, match="No space left") as failed:
        call("train.py", *QUICK[:-1], "hydra.run.dir=other")
    assert isinstance(failed.value.__context__, ZeroDivisionError)


def test_a_run_folder_that_vanishes_is_made_again_or_named(call, tmp_path, monkeypatch):
    folder = tmp_path / "run"

    def vanish(self):
        if self.current_epoch == 1:
            shutil.rmtree(folder)

    monkeypatch.setattr("divconq_pl.lightning.module.DivideConquerModule.on_train_epoch_start", vanish, raising=False)
    code, _, err = call("train.py", *QUICK, "selection=last_epoch")
    assert code == 0, err
    assert load(folder / "checkpoints" / "last.ckpt")["epoch"] == 2


def test_results_that_cannot_be_where_they_are_wanted(call, tmp_path, trained):
    (tmp_path / "there").mkdir()
    (tmp_path / "file").write_text("")
    for place in ("there", "file/results.json", "a" * 300):
        line = refusal(call("evaluate.py", f"checkpoint={trained}", f"json={place}"))
        assert re.search(rf"'{place}' cannot be written: ", line), line


@pytest.fixture
def trained(call, tmp_path):
    arguments = [*QUICK, "trainer.max_epochs=1", "selection=last_epoch", f"hydra.run.dir={tmp_path / 'trained'}"]
    assert call("train.py", *arguments)[0] == 0
    return tmp_path / "trained" / "checkpoints" / "last.ckpt"


def in_epoch_1(dataset):
    """Tell whether a worker reads a training image of the second epoch."""
    return get_worker_info() is not None and dataset._seed is not None and int(dataset._epoch) == 1


def test_a_worker_that_dies_leaves_a_checkpoint_to_go_on_from(call, tmp_path, monkeypatch):
    kill_at = tmp_path / "images read"
    read = ArrayDataset.__getitems__

    def die(self, indices):
        if in_epoch_1(self):
            with kill_at.open("a") as file:
                file.write("." * len(indices))
            if kill_at.stat().st_size >= 30:
                os.kill(os.getpid(), signal.SIGKILL)
        return read(self, indices)

    arguments = [*QUICK[:-1], "selection=last_epoch", "data.num_workers=1"]
    with monkeypatch.context() as patch:
        patch.setattr(ArrayDataset, "__getitems__", die)
        with pytest.raises((RuntimeError, ConnectionError), match=r"DataLoader worker .* exited|Connection reset"):
            call("train.py", *arguments, "hydra.run.dir=run")
    kept = tmp_path / "run" / "checkpoints" / "interrupted.ckpt"
    assert load(kept)["epoch"] == 1
    code, _, err = call("train.py", *arguments, f"ckpt_path={kept}", "hydra.run.dir=resumed")
    assert code == 0, err
    assert call("train.py", *arguments, "hydra.run.dir=whole")[0] == 0
    resumed, whole = (load(tmp_path / name / "checkpoints" / "last.ckpt") for name in ("resumed", "whole"))
    assert resumed["global_step"] == whole["global_step"]
    for name, value in whole["state_dict"].items():
        assert torch.equal(resumed["state_dict"][name], value), name


def test_the_death_of_a_worker_is_said_and_torch_has_its_handler_back():
    callback, handler = NoticeDeadWorkers(), lambda *_: None
    before = signal.signal(signal.SIGCHLD, handler)
    try:
        callback.on_train_batch_start(None, None, None, 0)
        assert signal.getsignal(signal.SIGCHLD) == signal.SIG_DFL
        callback.on_train_batch_start(None, None, None, 1)
        callback.teardown(None, None, stage="fit")
        assert signal.getsignal(signal.SIGCHLD) is handler
    finally:
        signal.signal(signal.SIGCHLD, before)
    with pytest.warns(UserWarning, match="a process that loads images has died"):
        callback.on_exception(None, None, ConnectionResetError())


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_turns_unreadable_is_named_and_a_checkpoint_left(call, tmp_path, monkeypatch, workers):
    rng = np.random.default_rng(0)
    for c in range(10):
        (tmp_path / "images" / str(c)).mkdir(parents=True)
        for i in range(8):
            pixels = rng.integers(0, 256, (20, 20, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / str(c) / f"{i}.png")
    read, broken = FileDataset._image, []

    def spoil(self, row):
        if self._seed is not None and int(self._epoch) == 1:
            broken.append(self._files[row])
            if len(broken) == 10:
                Path(self._files[row]).write_bytes(b"\x89PNG\r\n\x1a\nno more")
        return read(self, row)

    monkeypatch.setattr(FileDataset, "_image", spoil)
    images = [*QUICK[4:], "dataset=image_folder", "dataset.root=images", "image_size=16", "selection=last_epoch"]
    outcome = call("train.py", *images, f"data.num_workers={workers}")
    line = refusal(outcome)
    assert re.fullmatch(r"error: cannot read the image 'images/\d/\d\.png': .*", line), line
    assert len(line) < 200
    kept = tmp_path / "run" / "checkpoints" / ("interrupted.ckpt")
    assert f"ckpt_path={kept}" in outcome[1]
    assert load(kept)["epoch"] == 1
