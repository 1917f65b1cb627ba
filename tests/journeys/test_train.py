"""train.py and evaluate.py as a user runs them: what they leave, print and refuse."""

import csv
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from programs import ROOT, contents, refusal

import divconq_pl
from divconq_pl import DivideConquerModule
from divconq_pl.app.run_folders import RunFolders
from divconq_pl.data import Glyphs

TINY = [
    "dataset=glyphs",
    "dataset.num_classes=24",
    "dataset.size=16",
    "data.batch_size=16",
    "trainer.enable_progress_bar=false",
]
TESTED = {*(f"test/recall_at_{k}" for k in (1, 2, 4, 8)), "test/map_at_r", "test/r_precision"}
COUNTED = {"test/images", "test/classes", "per_class", "protocol"}
PATIENCE = 180  # seconds until a program counts as stuck


@pytest.fixture(scope="module")
def start(workplace):
    """Start a program in an empty folder, as from a shell."""
    source = str(Path(divconq_pl.__file__).resolve().parent.parent)
    environment = {
        **os.environ,
        "PYTHONPATH": source,
        "DIVCONQ_CACHE": str(workplace / "cache"),
        "OMP_NUM_THREADS": "1",
    }

    def start(script, *arguments):
        return subprocess.Popen(
            [sys.executable, str(ROOT / script), *arguments],
            cwd=workplace,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # A test run in the background has Ctrl-C switched off, and its children would inherit that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    return start


def finish(process):
    """Wait for the end of a program and return its exit code, standard output and standard error."""
    try:
        out, err = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    return process.returncode, out, err


@pytest.fixture(scope="module")
def sweep(start, workplace):
    """Two runs in one command, with what it printed."""
    arguments = ["-m", "divide=none,hierarchical", "trainer.max_epochs=4", "hydra.sweep.dir=sweep", *TINY]
    arguments += ["dataset.seed=2"]
    code, out, err = finish(start("train.py", *arguments))
    assert code == 0, err
    return workplace / "sweep", out


@pytest.fixture(scope="module")
def results(sweep):
    return [json.loads((sweep[0] / run / "results.json").read_text()) for run in "01"]


@pytest.mark.parametrize("run", [0, 1], ids=["plain", "divided"])
def test_results_have_the_documented_names(results, run):
    found = results[run]
    seconds = {"train/seconds", "division/seconds"}
    clusters = {
        f"division/{name}" for name in ("pairs_kept", "classes_per_cluster", "nmi_classes", "first_epoch") if run
    }
    assert set(found) == {
        *TESTED,
        *COUNTED,
        *seconds,
        *clusters,
        "val/recall_at_1",
        "last/val/recall_at_1",
        "last/epoch",
        "epoch",
        "seed",
        "selection",
        "overrides",
        "name",
    }
    assert all(0 <= found[name] <= 1 for name in (*TESTED, "val/recall_at_1"))
    assert found["test/recall_at_1"] <= found["test/recall_at_2"] <= found["test/recall_at_8"]
    assert found["test/map_at_r"] <= found["test/r_precision"]
    assert found["train/seconds"] > found["division/seconds"]
    assert (found["division/seconds"] > 0) == bool(run)
    assert found["seed"] == 0
    assert found["selection"] == "validation"
    assert found["overrides"][0] == ("divide=none", "divide=hierarchical")[run]
    assert {name.lower() for name in found["overrides"]} >= set(TINY)


@pytest.mark.parametrize("run", [0, 1], ids=["plain", "divided"])
def test_the_best_checkpoint_is_that_of_the_best_validated_epoch(sweep, results, run):
    folder = sweep[0] / str(run)
    with (folder / "csv" / "metrics.csv").open() as file:
        rows = [(int(r["epoch"]), float(r["val/recall_at_1"])) for r in csv.DictReader(file) if r["val/recall_at_1"]]
    assert [epoch for epoch, _ in rows] == [0, 1, 2, 3]
    best, recall = max(rows, key=lambda row: row[1])
    assert results[run]["val/recall_at_1"] == pytest.approx(recall)
    kept = {name: torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True) for name in ("best", "last")}
    assert kept["best"]["epoch"] == best == results[run]["epoch"]
    assert kept["last"]["epoch"] == 3
    assert len(list((folder / "checkpoints").iterdir())) == 2


@pytest.mark.parametrize(
    ("run", "pictures"),
    [(0, ["curves", "gallery"]), (1, ["clusters", "curves", "gallery", "tree"])],
    ids=["plain", "divided"],
)
def test_a_run_leaves_pictures_and_logs(sweep, run, pictures):
    folder = sweep[0] / str(run)
    found = sorted((folder / "pictures").iterdir())
    assert [path.name for path in found] == [f"{name}.png" for name in pictures]
    for path in found:
        with Image.open(path) as picture:
            picture.load()
            assert min(picture.size) > 100
    logged = b"".join(path.read_bytes() for path in (folder / "tensorboard").glob("events.*"))
    for tag in (b"train/loss", b"val/recall_at_1", b"test/map_at_r"):
        assert tag in logged
    assert (b"division/clusters" in logged) == bool(run)


@pytest.mark.parametrize("run", [0, 1], ids=["plain", "divided"])
def test_a_run_leaves_a_report_with_its_numbers(sweep, results, run):
    page = (sweep[0] / str(run) / "report.html").read_text()
    assert f"{100 * results[run]['test/recall_at_1']:.1f} %" in page
    assert page.count("Not shown") == (0, 3)[run == 0]
    assert "R@1, epoch 3" in page
    notes = json.loads((sweep[0] / str(run) / "notes.json").read_text())
    assert [noted["epoch"] for noted in notes["epochs"]] == [0, 1, 2, 3]
    assert ("of the plain loss" in page) == bool(run), "the plain run of the sweep stands beside it"


def test_a_run_prints_its_numbers_and_a_sweep_one_table_of_all(sweep, results):
    out = sweep[1]
    one, two = (f"{100 * found['test/recall_at_1']:.2f}" for found in results)
    assert out.count("Unseen classes, best epoch by validation: ") == 2
    assert f"divide=hierarchical against the plain loss: R@1 {float(one):.1f} -> {float(two):.1f}, " in out
    comparison = out[out.index("Results of sweep") :]
    rows = [line.split() for line in comparison.splitlines() if line.split()[:1] in (["none"], ["hierarchical"])]
    assert [row[:2] for row in rows] == [["none", one], ["hierarchical", two]]
    assert comparison.count("MAP@R") == 2  # and the difference to the plain loss
    assert out.index("Results of sweep") > out.index(f"everything of this run is in {sweep[0] / '1'}")
    for place, recall in enumerate((one, two)):
        assert re.search(rf"^ *{place} +{recall} ", out, re.MULTILINE)


def test_evaluation_gives_the_numbers_of_the_run(call, sweep, results, tmp_path):
    best = sweep[0] / "1" / "checkpoints" / "best.ckpt"
    code, out, _ = call("evaluate.py", f"checkpoint={best}", "json=again/numbers.json")
    assert code == 0
    again = json.loads((tmp_path / "again" / "numbers.json").read_text())
    assert set(again) == {*TESTED, *COUNTED, "name"}
    assert {name: again[name] for name in TESTED} == pytest.approx({name: results[1][name] for name in TESTED})
    assert f"{100 * results[1]['test/map_at_r']:.2f}" in out


def ranked_by_hand(embeddings, labels):
    """Recall@1 and MAP@R, leave-one-out, image by image."""
    recalls, precisions = [], []
    for i, row in enumerate(embeddings):
        order = [j for j in np.argsort(-(embeddings @ row), kind="stable") if j != i]
        hits = labels[order] == labels[i]
        relevant = hits.sum()
        recalls.append(hits[0])
        precisions.append(sum(hits[r] * hits[: r + 1].mean() for r in range(relevant)) / relevant)
    return np.mean(recalls), np.mean(precisions)


def cells(out, name):
    """Return what a table says after the name of a row."""
    lines = map(str.strip, out.splitlines())
    return next(line for line in lines if line.startswith(f"{name} ")).removeprefix(name).split()


def test_runs_of_a_sweep_are_evaluated_with_their_settings_and_only_repetitions_averaged(
    call, sweep, results, tmp_path
):
    code, out, err = call("evaluate.py", f"checkpoint={sweep[0]}", "json=all.json")
    assert code == 0, err
    written = json.loads((tmp_path / "all.json").read_text())
    for run, divide in (("0", "none"), ("1", "hierarchical")):
        for name in TESTED:
            assert written[f"{run}.{name}"] == pytest.approx(results[int(run)][name])
        assert cells(out, divide)[0] == f"{100 * results[int(run)]['test/recall_at_1']:.2f}"
    assert "separated" not in out
    line = refusal(call("evaluate.py", f"checkpoint={sweep[0]}", "export=all.npz"))
    assert "has other settings than the one before" in line


def test_repetitions_are_evaluated_apart_and_side_by_side(call, sweep, tmp_path):
    paths = [sweep[0] / "1" / "checkpoints" / f"{name}.ckpt" for name in ("best", "last")]
    given = f"checkpoint=[{','.join(map(str, paths))}]"
    code, out, err = call("evaluate.py", given, "json=all.json", "export=all.npz")
    assert code == 0, err
    written = json.loads((tmp_path / "all.json").read_text())
    recalls = [written[f"{path.name}.test/recall_at_1"] for path in paths]
    mean, deviation = 100 * np.mean(recalls), 100 * np.std(recalls, ddof=1)
    assert cells(out, "separated, mean")[:2] == [f"{mean:.2f}", f"±{deviation:.2f}"]

    with np.load(tmp_path / "all.npz", allow_pickle=False) as file:
        exported = dict(file)
    assert exported["embeddings"].shape == (len(exported["labels"]), 2 * 128)
    recall, precision = ranked_by_hand(exported["embeddings"].astype(float), exported["labels"])
    assert written["concatenated.test/recall_at_1"] == pytest.approx(recall)
    assert written["concatenated.test/map_at_r"] == pytest.approx(precision, rel=1e-4)
    assert cells(out, "concatenated")[0] == f"{100 * recall:.2f}"
    single = []
    for path in paths:
        assert call("evaluate.py", f"checkpoint={path}", f"export={path.stem}.npz")[0] == 0
        with np.load(tmp_path / f"{path.stem}.npz") as file:
            single.append(file["embeddings"])
    assert np.allclose(np.hstack(single) / 2**0.5, exported["embeddings"], atol=1e-6)


def test_an_export_names_every_image_and_is_never_overwritten(call, sweep, workplace, monkeypatch, tmp_path):
    best = f"checkpoint={sweep[0] / '1' / 'checkpoints' / 'best.ckpt'}"
    assert call("evaluate.py", best, "export=deep/embeddings.npz")[0] == 0
    (path,) = (tmp_path / "deep").iterdir()
    with np.load(path, allow_pickle=False) as file:
        exported = dict(file)
    test = Glyphs(workplace / "cache", num_classes=24, size=16, seed=2).splits().test
    assert exported["embeddings"].dtype == np.float32
    assert np.allclose(np.linalg.norm(exported["embeddings"], axis=1), 1, atol=1e-6)
    assert exported["labels"].tolist() == test.targets.tolist()
    assert exported["classes"].tolist() == test.classes
    assert exported["paths"].tolist() == [test.name_of(i) for i in range(len(test))]
    assert set(exported) == {"embeddings", "labels", "classes", "paths"}

    monkeypatch.setattr(
        "divconq_pl.lightning.module.DivideConquerModule.predict_step", None
    )  # refused before anything is done
    before = contents(tmp_path)
    line = refusal(call("evaluate.py", best, "export=deep/embeddings.npz"))
    assert "'deep/embeddings.npz' exists, and nothing is overwritten; choose another file" in line
    line = refusal(call("evaluate.py", best, "export=embeddings.csv"))
    assert "'embeddings.csv' has no suffix that says how to write it; use .npz or .parquet" in line
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    line = refusal(call("evaluate.py", best, "export=embeddings.parquet"))
    assert "needs pyarrow, which is not installed: pip install pyarrow, or use .npz" in line
    assert contents(tmp_path) == before


def test_other_images_are_evaluated_with_their_own_metrics(call, sweep, results, tmp_path):
    best = f"checkpoint={sweep[0] / '1' / 'checkpoints' / 'best.ckpt'}"
    metrics = "evaluation={recall_ks: [1, 3], nmi_runs: 2, marp: true, reid_draws: 2}"
    # Glyphs have one channel, as the network expects, whatever channels says.
    arguments = ["dataset=glyphs", "dataset.num_classes=20", "dataset.size=16", "dataset.seed=1", "channels=3"]
    code, out, err = call("evaluate.py", best, *arguments, metrics, "json=other.json")
    assert code == 0, err
    found = json.loads((tmp_path / "other.json").read_text())
    names = {"recall_at_1", "recall_at_3", "map_at_r", "r_precision", "marp", "nmi"}
    names |= {"reid_recall_at_1", "reid_recall_at_3"}
    assert set(found) == {"name", *COUNTED, *(f"test/{name}" for name in names)}
    assert found["test/marp"] > found["test/map_at_r"]
    assert found["test/map_at_r"] != results[1]["test/map_at_r"]
    heading = next(line.split() for line in out.splitlines() if "R@1" in line)
    assert " ".join(heading) == "run R@1 R@3 MAP@R R-prec mARP NMI re-id R@1 re-id R@3"


def folder_of_images(root):
    for name in ("a", "b", "c", "d"):
        for i in range(3):
            (root / name).mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (20, 20), (60 * i, 20, 30)).save(root / name / f"{i}.png")
    return root


def test_evaluation_refuses_images_that_do_not_fit(call, sweep, tmp_path):
    best = f"checkpoint={sweep[0] / '1' / 'checkpoints' / 'best.ckpt'}"
    images = f"dataset.root={folder_of_images(tmp_path / 'images')}"
    line = refusal(call("evaluate.py", best, "dataset=image_folder", images, "dataset.val_fraction=0"))
    assert "the images to evaluate on have 3 channel(s), but the network of the checkpoint takes 1" in line


def test_an_epoch_can_be_chosen_by_the_test_classes_which_is_said_beside_the_published_figure(call, tmp_path):
    paper = "published={source: 'Table 3 of [7]', recall_at_1: 0.9, nmi: 0.7}"
    quick = ["divide=none", "trainer.max_epochs=3", "logger=csv", "hydra.run.dir=run"]
    code, out, err = call("train.py", *TINY, *quick, "selection=best_test_epoch", paper)
    assert code == 0, err
    found = json.loads((tmp_path / "run" / "results.json").read_text())
    with (tmp_path / "run" / "csv" / "metrics.csv").open() as file:
        recalls = [float(row["val/recall_at_1"]) for row in csv.DictReader(file) if row["val/recall_at_1"]]
    assert len(recalls) == 3
    assert found["test/recall_at_1"] == pytest.approx(max(recalls))
    assert found["selection"] == "best_test_epoch"
    config = load(tmp_path / "run" / "checkpoints" / "best.ckpt")["divconq_pl_config"]
    assert (config["dataset"]["val_fraction"], config["data"]["validate_on"]) == (0, "test")

    code, again, err = call("evaluate.py", "checkpoint=run")
    assert code == 0, err
    titles = [" ".join(text.split()) for text in (out, again)]  # the width of the table breaks them into lines
    assert "Unseen classes, best epoch chosen on these very classes, which inflates the figures" in titles[0]
    assert "Unseen classes, by which the run chose its best epoch, which inflates the figures" in titles[1]
    for text in (out, again):
        published = cells(text, "Table 3 of [7]")
        assert published[0] == "90.00"
        assert published[6] == "70.00"


def test_every_test_image_is_embedded_once_for_metrics_logs_and_gallery(call, tmp_path, monkeypatch):
    embedded, drawn, step = [], [], DivideConquerModule.predict_step

    def counted(self, batch, *rest):
        rows = step(self, batch, *rest)
        embedded.append(rows)
        return rows

    monkeypatch.setattr(DivideConquerModule, "predict_step", counted)
    monkeypatch.setattr(DivideConquerModule, "test_step", None)
    monkeypatch.setattr("divconq_pl.app.pictures.draw_gallery", lambda folder, rows, parts, nearest: drawn.extend(rows))
    quick = ["divide=none", "trainer.max_epochs=1", "logger=csv", "hydra.run.dir=run", "data.eval_batch_size=16"]
    code, _, err = call("train.py", *TINY, *quick, "evaluation.marp=true", "evaluation.recall_ks=[1]")
    assert code == 0, err
    found = json.loads((tmp_path / "run" / "results.json").read_text())
    assert len(embedded) > 1
    assert torch.equal(torch.cat(embedded), drawn[0])
    rows = drawn[0].numpy().astype(float)
    labels = Glyphs(num_classes=24, size=16).splits().test.targets.numpy()
    recall, precision = ranked_by_hand(rows, labels)
    assert (found["test/recall_at_1"], found["test/map_at_r"]) == (pytest.approx(recall), pytest.approx(precision))
    with (tmp_path / "run" / "csv" / "metrics.csv").open() as file:
        *earlier, last = csv.DictReader(file)
    assert {key: float(last[key]) for key in found if key.startswith("test/")} == pytest.approx(
        {key: value for key, value in found.items() if key.startswith("test/")}
    )
    assert "test/marp" in found
    assert not any(row["test/marp"] for row in earlier)


def test_a_few_test_images_are_enough_for_a_gallery(call, tmp_path):
    few = ["divide=none", "trainer.max_epochs=1", "logger=none", "hydra.run.dir=run"]
    few += ["trainer.limit_test_batches=1", "data.eval_batch_size=16"]
    code, _, err = call("train.py", *TINY, *few)
    assert code == 0, err
    assert (tmp_path / "run" / "pictures" / "gallery.png").is_file()
    code, _, err = call("evaluate.py", "checkpoint=run", *few[-2:], "export=few.npz", "json=few.json")
    assert code == 0, err
    with np.load(tmp_path / "few.npz") as file:
        assert len(file["labels"]) == 16
    found, again = (json.loads((tmp_path / name).read_text()) for name in ("run/results.json", "few.json"))
    assert {name: again[name] for name in TESTED} == pytest.approx({name: found[name] for name in TESTED})


def test_without_validation_the_last_epoch_is_tested(call, tmp_path):
    quick = ["divide=none", "trainer.max_epochs=2", "logger=none", "hydra.run.dir=run"]
    code, out, err = call("train.py", *TINY, *quick, "selection=last_epoch")
    assert code == 0, err
    found = json.loads((tmp_path / "run" / "results.json").read_text())
    assert found["selection"] == "last_epoch"
    assert not any(name.startswith("val/") for name in found)
    assert "Unseen classes, last epoch" in out
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["last.ckpt"]
    code, out, err = call("evaluate.py", "checkpoint=run", "json=again.json")
    assert code == 0, err
    again = json.loads((tmp_path / "again.json").read_text())
    assert {name: again[name] for name in TESTED} == pytest.approx({name: found[name] for name in TESTED})


def test_evaluation_on_a_folder_gives_images_as_in_training(call, tmp_path):
    rng = np.random.default_rng(0)
    for c in range(15):
        (tmp_path / "photographs" / str(c)).mkdir(parents=True)
        for i in range(6):
            pixels = rng.integers(0, 256, (1, 1, 3)) + rng.integers(-60, 60, (40, 50, 3))
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(tmp_path / "photographs" / str(c) / f"{i}.png")
    folder = ["dataset=image_folder", "dataset.root=photographs", "data.num_workers=0"]
    folder += ["trainer.enable_progress_bar=false"]
    # A network whose weights expect another mean, interpolation and size than ImageNet's usual ones.
    network = ["backbone=timm", "backbone.name=test_vit.r160_in1k", "image_size=48", "data.batch_size=16"]
    assert call("train.py", *folder, *network, "divide=none", "trainer.max_epochs=1", "hydra.run.dir=run")[0] == 0
    best = "checkpoint=run/checkpoints/best.ckpt"
    assert call("evaluate.py", best, "json=own.json")[0] == 0
    folder += ["dataset.test_fraction=0.3"]  # the share that the run was tested on; by default all images are taken
    assert call("evaluate.py", best, *folder, "json=named.json")[0] == 0
    usual = "preprocessing={_target_: divconq_pl.data.Preprocessing}"
    assert call("evaluate.py", best, *folder, usual, "json=x")[0] == 0
    own, named, other = (json.loads((tmp_path / name).read_text()) for name in ("own.json", "named.json", "x"))
    assert own == named != other


# Many characters: long epochs, so that Ctrl-C comes in the middle of one.
LONG = [*TINY, "dataset.num_classes=240", "logger=csv", "divide={split_depth: 1, warmup_epochs: 0}"]


@pytest.fixture(scope="module")
def interrupted(start, workplace):
    """A run that was stopped by Ctrl-C after its first epoch."""
    process = start("train.py", *LONG, "trainer.max_epochs=200", "hydra.run.dir=interrupted")
    deadline = time.monotonic() + PATIENCE
    while not (workplace / "interrupted" / "checkpoints" / "last.ckpt").exists():
        assert process.poll() is None, process.communicate()[1]
        if time.monotonic() > deadline:
            process.kill()
        time.sleep(0.05)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    return workplace / "interrupted", *finish(process)


def load(path):
    return torch.load(path, weights_only=True)


def batches_done(checkpoint):
    progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
    return progress["total"]["completed"], progress["current"]["completed"]


def test_an_interrupt_keeps_the_middle_of_the_epoch_and_leaves_the_best_alone(interrupted):
    folder, code, out, err = interrupted
    assert code == 130, err
    assert "Traceback" not in err
    path = folder / "checkpoints" / "interrupted.ckpt"
    typed = shlex.split(re.search(r"interrupted; go on with: python \S*train\.py (.*)", out)[1])
    assert typed == [*LONG, "trainer.max_epochs=200", f"ckpt_path={path}"]
    kept, best = load(path), load(folder / "checkpoints" / "best.ckpt")
    assert batches_done(kept)[1] > 0
    assert batches_done(kept)[0] > batches_done(best)[0]
    per_epoch = batches_done(best)[0] // (best["epoch"] + 1)
    assert batches_done(best)[0] == per_epoch * (best["epoch"] + 1)  # written at the end of an epoch
    assert batches_done(kept)[0] % per_epoch != 0
    assert not (folder / "results.json").exists()


def test_an_interrupted_run_goes_on_where_it_was(interrupted, call, tmp_path):
    path = interrupted[0] / "checkpoints" / "interrupted.ckpt"
    kept, best = load(path), load(interrupted[0] / "checkpoints" / "best.ckpt")
    epochs = kept["epoch"] + 1
    arguments = [*LONG, f"trainer.max_epochs={epochs}", f"ckpt_path={path}", "hydra.run.dir=resumed"]
    code, out, _ = call("train.py", *arguments)
    assert code == 0
    assert f"everything of this run is in {tmp_path / 'resumed'}" in out
    last = load(tmp_path / "resumed" / "checkpoints" / "last.ckpt")
    assert last["global_step"] == epochs * batches_done(best)[0] // (best["epoch"] + 1)
    with (tmp_path / "resumed" / "csv" / "metrics.csv").open() as file:
        assert min(int(row["step"]) for row in csv.DictReader(file)) >= kept["global_step"]
    assert json.loads((tmp_path / "resumed" / "results.json").read_text())["name"] == "resumed"


def test_a_wrong_name_gives_one_line_and_nothing_else(call, tmp_path):
    code, out, err = call("train.py", "loss=margn")
    assert (code, out) == (2, "")
    assert not list(tmp_path.iterdir())
    losses = "arcface, contrastive, margin, multi_similarity, ntxent, proxy_anchor, proxy_nca, triplet"
    assert err == f"error: there is no loss=margn; did you mean 'loss=margin'? loss has: {losses}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["divide.splt_depth=2"],
            r"no 'divide\.splt_depth'; did you mean 'divide\.split_depth'\? divide has: .*warmup",
        ),
        (["lss=margin"], r"no 'lss'; did you mean 'loss'\? the configuration has: backbone, .* trainer$"),
        (["loss=triplet", "loss.beta=1"], r"no 'loss\.beta'; it is in loss=margin, mul.*; loss has: margin$"),
        (["divide=none", "divide.splt_depth=1"], r"no 'divide\.splt_depth'; did you mean 'divide\.split_depth'\?"),
        (
            ["-m", "divide=flatt,none"],
            r"no divide=flatt; did you mean 'divide=flat'\? divide has: clusters, flat, hier",
        ),
        (["dataset=image_folder"], r"error: dataset\.root is not given; add dataset\.root=\.\.\. to the command$"),
        (["dataset=cars196"], r"error: dataset\.root is not given; add dataset\.root=\.\.\. to the command$"),
        ([*TINY, "backbone=torchvision"], r"error: backbone\.name is not given; add backbone\.name=\.\.\. to"),
        (
            ["dataset=image_folder", "dataset.root=nowhere"],
            r"root='nowhere' does not exist: there is no 'nowhere' in",
        ),
        ([*TINY, "data.batch_size=18"], r"batch_size=18 cannot hold .* use images_per_class=2, batch_size=16 or"),
        (
            [*TINY, "module.embedding_dim=30"],
            r"width 30 cannot be cut into 4 equal subspaces .* use a width of 28 or 32",
        ),
        (["dataset.num_classes=-1"], r"num_classes=-1"),
        (
            [*TINY, "backbone=torchvision", "backbone.name=resnet51"],
            r"unknown backbone 'resnet51': torchvision has resnet50",
        ),
        (["published={recall_at_1: 0.9}"], r"published needs a source and figures"),
        (["module.nmi_runs=10"], r"no 'module\.nmi_runs'; did you mean 'evaluation\.nmi_runs'\?"),
        (["module={embedding_dim: 8, marp: true}"], r"no 'module\.marp'; did you mean 'evaluation\.marp'\?"),
        (["module.loss_lr_factor=2"], r"no 'module\.loss_lr_factor'; .*module has: .* parameter_groups"),
        (
            ["++evaluation.nmi=10"],
            r"no 'evaluation\.nmi'; evaluation has: cross_camera, map_at_r, marp, nmi_runs, .*, rerank$",
        ),
        (
            ["divide.subspaces=fixd"],
            r"divide\.subspaces='fixd' must be 'fixed', 'learned', 'zeroed', 'random' or a mapping",
        ),
        (
            ["dataset=vehicle_id", "dataset.root=.", "dataset.val_fraction=abc"],
            r"dataset\.val_fraction='abc' must",
        ),
        (
            ["module.parameter_groups.loss.lr=abc"],
            r"module\.parameter_groups\.loss\.lr='abc' must be a number or null$",
        ),
        (
            ["+module.parameter_groups.los.lr=1", *TINY],
            r"there is no part parameter_groups\.los; a module has: backbone,",
        ),
        (["ckpt_path=nowhere.ckpt"], r"ckpt_path='nowhere\.ckpt' is not a file"),
        pytest.param(
            [*TINY, "trainer.accelerator=gpu"],
            r"error: No supported gpu backend found!$",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU"),
        ),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_what_is_wrong_with_the_input_is_said_in_one_line(call, arguments, message):
    line = refusal(call("train.py", *arguments, "trainer.enable_progress_bar=false", "logger=none"))
    assert re.search(message, line), line


@pytest.mark.parametrize(
    ("arguments", "key"),
    [(["hydra.run.dir=old"], r"hydra\.run\.dir"), (["-m", "seed=0,1", "hydra.sweep.dir=old"], r"hydra\.sweep\.dir")],
    ids=["run", "sweep"],
)
def test_a_folder_that_holds_something_is_left_as_it_is(call, tmp_path, arguments, key):
    (tmp_path / "old" / "checkpoints").mkdir(parents=True)
    (tmp_path / "old" / "checkpoints" / "best.ckpt").write_text("precious")
    before = contents(tmp_path / "old")
    line = refusal(call("train.py", *arguments))
    assert re.search(rf"folder 'old' is not empty, and nothing is overwritten; choose another {key}=", line)
    assert contents(tmp_path / "old") == before


def test_a_further_process_of_a_run_takes_the_folder_that_the_first_one_fills(tmp_path, monkeypatch, capsys):
    (tmp_path / "results.json").touch()
    config = OmegaConf.create({"hydra": {"run": {"dir": str(tmp_path)}}})
    monkeypatch.setenv("LOCAL_RANK", "1")
    RunFolders().on_run_start(config)
    monkeypatch.setenv("LOCAL_RANK", "0")
    with pytest.raises(SystemExit):
        RunFolders().on_run_start(config)


def test_a_folder_that_cannot_be_written_is_refused(call, tmp_path):
    (tmp_path / "file").write_text("")
    line = refusal(call("train.py", "hydra.run.dir=file/run"))
    assert re.search(r"folder 'file/run' cannot be written \(Not a directory\); choose another hydra\.run\.dir=", line)


def test_evaluation_says_what_is_wrong_with_a_checkpoint(call, sweep):
    best = f"checkpoint={sweep[0] / '0' / 'checkpoints' / 'best.ckpt'}"
    for arguments, message in (
        ([], r"no checkpoint given; use checkpoint=PATH"),
        (["checkpoint=nowhere.ckpt"], r"checkpoint='nowhere\.ckpt' is not a file"),
        (
            [f"checkpoint={sweep[0] / '0' / 'results.json'}"],
            r"results\.json' is damaged or not a checkpoint of train\.py",
        ),
        ([best, "backbone=small", "channels=3"], r"shape \(32, 1, 3, 3\) instead of \(32, 3, 3, 3\)"),
        (
            [best, "backbone=torchvision", "backbone.name=resnet18", "channels=1"],
            r"does not fit \w+: .* is missing, .* and \d+ more",
        ),
        ([best, "dataset=image_folder", "dataset.root=nowhere"], r"root='nowhere' does not exist"),
        (["checkpoint=[]"], r"no checkpoint given"),
        (["checkpoint=nowhere/*.ckpt"], r"checkpoint='nowhere/\*\.ckpt' leads to no checkpoint"),
        ([best, "module.nmi_runs=10"], r"no 'module\.nmi_runs'; did you mean 'evaluation\.nmi_runs'\?"),
        ([best, "checkpont=x"], r"no 'checkpont'; did you mean 'checkpoint'\?"),
    ):
        line = refusal(call("evaluate.py", *arguments))
        assert re.search(message, line), line


@pytest.mark.parametrize("script", ["train.py", "evaluate.py"])
def test_help_lists_the_groups_and_their_choices(call, script):
    code, out, err = call(script, "--help")
    assert code == 0
    assert err == ""
    listed, _, _ = out.partition("_target_")
    groups = dict(reversed(re.findall(r"^([\w/]+): (\w+(?:, \w+)*)$", listed, re.MULTILINE)))  # before the values
    folders = {path.name for path in (ROOT / "conf").iterdir() if path.is_dir()}
    used = folders if script == "train.py" else {"dataset", "backbone", "trainer"}
    for name in used:
        assert groups[name].split(", ") == sorted(path.stem for path in (ROOT / "conf" / name).glob("*.yaml"))
    assert not [name for name in groups if "/" in name or name in folders - used]  # what choices share is no choice
    assert f"python {script}" in out
    assert "$" not in re.sub(r"\$\{.*?\}", "", out)  # no placeholder is left
    assert max(len(line) for line in out.splitlines() if not line.startswith("experiment: ")) <= 140


def stopped(*_, **__):
    raise KeyboardInterrupt


def test_ctrl_c_at_any_time_gives_its_own_exit_code(call, sweep, monkeypatch):
    monkeypatch.setattr("divconq_pl.lightning.module.DivideConquerModule.predict_step", stopped)
    best = sweep[0] / "1" / "checkpoints" / "best.ckpt"
    assert call("evaluate.py", f"checkpoint={best}")[0] == 130
    monkeypatch.setattr("pytorch_lightning.seed_everything", stopped)
    assert call("train.py")[0] == 130
