"""A stranger's folder of any shape trains and is evaluated, or is told in one line what to type instead."""

import json
import os
import re
import warnings

import numpy as np
import pytest
from PIL import Image
from programs import contents, refusal

QUICK = [
    "dataset=image_folder",
    "image_size=16",
    "data.num_workers=0",
    "module.embedding_dim=16",
    "trainer.max_epochs=1",
    "trainer.enable_progress_bar=false",
    "logger=none",
]


def fill(folder, classes, images, first=0, ending="png"):
    """Write a folder of classes, each of them noise around a colour of its own."""
    for c in range(first, first + classes):
        rng = np.random.default_rng(c)
        colour = rng.integers(0, 256, (1, 1, 3))
        (folder / f"class {c}").mkdir(parents=True)
        for i in range(images):
            pixels = (colour + rng.integers(-60, 60, (24, 20, 3))).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"class {c}" / f"{i}.{ending}")
    return folder


@pytest.fixture(scope="module")
def trained_on(workplace):
    return fill(workplace / "trained on", 12, 6)


@pytest.fixture
def checkpoint(call, trained_on, workplace):
    """A network that was trained for an epoch, once for all tests."""
    folder = workplace / "trained"
    if not (folder / "results.json").exists():
        outcome = call("train.py", *QUICK, "divide=none", f"dataset.root='{trained_on}'", f"hydra.run.dir='{folder}'")
        assert outcome[0] == 0, outcome[2]
    return f"checkpoint='{folder}'"


def evaluate(call, checkpoint, folder, *more):
    """Return what is said, and the results."""
    code, out, err = call(
        "evaluate.py", checkpoint, "dataset=image_folder", f"dataset.root='{folder}'", "json=r.json", *more
    )
    assert code == 0, err
    with open("r.json") as file:
        return " ".join((out + err).split()), json.load(file)


def test_a_folder_is_evaluated_whole(call, checkpoint, tmp_path):
    out, found = evaluate(call, checkpoint, fill(tmp_path / "other", 16, 8))
    assert (found["test/images"], found["test/classes"]) == (128, 16)
    assert "Unseen classes: 128 images of 16 classes" in out
    _, again = evaluate(call, checkpoint, tmp_path / "other", "dataset.test_fraction=1.0")
    assert again == found
    _, share = evaluate(call, checkpoint, tmp_path / "other", "dataset.test_fraction=0.3")
    assert (share["test/images"], share["test/classes"]) == (40, 5)


@pytest.mark.parametrize("parts", [["test"], ["train", "test"], ["query", "gallery"], ["train", "query", "gallery"]])
def test_parts_of_a_folder_are_evaluated_whole(call, checkpoint, tmp_path, parts):
    for part in parts:
        fill(tmp_path / "parts" / part, 5, 3 if part == "query" else 4, first=100 if part != "train" else 0)
    out, found = evaluate(call, checkpoint, tmp_path / "parts")
    assert (found["test/images"], found["test/classes"]) == (20, 5)
    assert found.get("test/queries") == (15 if "query" in parts else None)
    said = "15 queries in 20 images of 5 classes" if "query" in parts else "20 images of 5 classes"
    assert f"Unseen classes: {said}" in out


@pytest.mark.parametrize("kind", ["image_folder", "flat", "csv"])
def test_a_single_class_and_images_without_any_are_embedded_and_not_measured(call, checkpoint, tmp_path, kind):
    flat = fill(tmp_path / "one", 1, 6) / "class 0"
    (tmp_path / "list.csv").write_text("\n".join(["path", *(f"one/class 0/{i}.png" for i in range(6))]))
    root = {"image_folder": flat.parent, "flat": flat, "csv": tmp_path / "list.csv"}[kind]
    data = ["dataset=csv"] if kind == "csv" else []
    out, found = evaluate(call, checkpoint, root, *data, "export=one.npz")
    assert "Embedded 6 images of a single class, in which there is nothing to measure: see one.npz" in out
    assert "100.00" not in out
    assert found == {"name": found["name"], "test/images": 6, "test/classes": 1, "protocol": "open"}
    with np.load("one.npz") as file:
        assert len(file["embeddings"]) == 6
        assert [path.rpartition("/")[2] for path in file["paths"]] == [f"{i}.png" for i in range(6)]
        assert file["classes"].tolist() == ["unlabelled" if kind == "csv" else "class 0"]
    line = refusal(call("evaluate.py", checkpoint, *(data or ["dataset=image_folder"]), f"dataset.root='{root}'"))
    assert "so there is nothing to measure" in line
    assert line.endswith("export=FILE writes their embeddings")


def test_images_of_trained_classes_are_tested_by_protocols_of_their_own(call, tmp_path):
    fill(tmp_path / "data" / "train", 4, 12)
    fill(tmp_path / "data" / "test", 5, 3)  # one of them is new
    root, run = f"dataset.root='{tmp_path / 'data'}'", tmp_path / "run"
    line = refusal(call("train.py", *QUICK, root))
    assert "4 classes" in line
    assert line.endswith("use protocol=closed to test on new images of these classes")
    code, out, err = call("train.py", *QUICK, root, "divide=none", "protocol=closed", f"hydra.run.dir='{run}'")
    assert code == 0, err
    assert "New images of classes that were trained on, best epoch by validation: 12 images of 4" in " ".join(
        out.split()
    )
    found = json.loads((run / "results.json").read_text())
    assert (found["protocol"], found["test/images"], found["test/classes"]) == ("closed", 12, 4)
    assert sum(row["images"] * row["recall_at_1"] for row in found["per_class"]) == 12 * found["test/recall_at_1"]
    code, out, err = call("evaluate.py", f"checkpoint='{run}'", "protocol=train_gallery", "json=r.json")
    assert code == 0, err
    assert "looked for among the training images: 12 queries in 40 images of 4 classes" in " ".join(out.split())
    assert json.loads((tmp_path / "r.json").read_text())["protocol"] == "train_gallery"
    line = refusal(call("train.py", "protocol=closed"))
    assert line.endswith("use it with dataset=image_folder, csv or huggingface")


def test_queries_in_the_gallery_are_warned_of_where_they_are_evaluated(call, checkpoint, tmp_path):
    fill(tmp_path / "noise" / "query", 4, 3)
    fill(tmp_path / "noise" / "gallery", 4, 3)
    said, _ = evaluate(call, checkpoint, tmp_path / "noise")
    assert "12 of 12 queries are also in the gallery" in said


def test_names_that_are_not_utf_8_train_and_are_exported(call, checkpoint, tmp_path):
    fill(tmp_path / "odd", 7, 4)
    os.rename(tmp_path / "odd" / "class 3", os.fsencode(tmp_path / "odd") + b"/caf\xe9")
    for name in "012":
        old = os.fsencode(tmp_path / "odd" / "class 2" / f"{name}.png")
        os.rename(old, old.replace(b".png", b"\xff.png"))
    _, found = evaluate(call, checkpoint, tmp_path / "odd", "export=odd.parquet")
    assert found["test/classes"] == 7
    pq = pytest.importorskip("pyarrow.parquet")
    table = pq.read_table("odd.parquet")
    assert table["class"].to_pylist()[:4] == [r"caf\xe9"] * 4
    assert sum(path.endswith(r"\xff.png") for path in table["path"].to_pylist()) == 3
    code, _, err = call("train.py", *QUICK, "dataset.root=odd", "hydra.run.dir=run")
    assert code == 0, err
    line = refusal(call("train.py", *QUICK, os.fsdecode(b"dataset.root=caf\xe9")))
    assert line == r"error: 'dataset.root=caf\xe9' is not UTF-8, as a command has to be; rename that file or folder"


@pytest.mark.parametrize(("classes", "images"), [(40, 10), (20, 6), (8, 3)])
def test_a_small_folder_trains_with_the_defaults(call, tmp_path, classes, images):
    fill(tmp_path / "small", classes, images)
    code, _, err = call("train.py", *QUICK, "dataset.root=small", "hydra.run.dir=run", "trainer.max_epochs=4")
    assert code == 0, err
    assert re.search(r"training images of \d+ classes are few, so the training takes", err)
    asked = ["data.batch_size=64", "divide.split_depth=4", "module.embedding_dim=64"]
    line = refusal(call("train.py", *QUICK, "dataset.root=small", *asked))
    assert re.search(r"an epoch of \d batches cannot serve|cannot be divided into 16 clusters", line)


def test_a_division_is_compared_with_none_at_the_same_depth(call, tmp_path, trained_on):
    arguments = [*QUICK, f"dataset.root='{trained_on}'", "divide.split_depth=1", "hydra.sweep.dir=sweep"]
    code, out, err = call("train.py", "-m", "divide=none,hierarchical", *arguments)
    assert code == 0, err
    assert "divide=none divides nothing, so divide.split_depth=1 is without effect" in err
    assert re.search(r"Results of sweep.*images of\s+4\s+classes", " ".join(out.split()))


def test_a_folder_without_image_folder_is_told_what_to_type(call, tmp_path):
    before = contents(fill(tmp_path / "MYFOLDER", 3, 2))
    for data in ([], ["dataset=glyphs"]):
        line = refusal(call("train.py", "dataset.root=MYFOLDER", *data))
        assert line.endswith("; for a folder of your own images add dataset=image_folder")
    assert contents(tmp_path / "MYFOLDER") == before


def test_bad_images_are_named_before_the_training(call, tmp_path, monkeypatch):
    file = fill(tmp_path / "images", 10, 4, ending="jpg") / "class 7" / "2.jpg"
    file.write_bytes(file.read_bytes()[:400])
    monkeypatch.setattr("divconq_pl.lightning.module.DivideConquerModule.training_step", None)
    line = refusal(call("train.py", *QUICK, "dataset.root=images"))
    pattern = r"error: cannot read the image 'images/class 7/2\.jpg': .*; dataset\.on_bad_image=skip leaves out .*"
    assert re.fullmatch(pattern, line)


def test_black_images_are_refused_before_the_training(call, tmp_path):
    for c in range(10):
        (tmp_path / "cells" / str(c)).mkdir(parents=True)
        for i in range(4):
            cells = np.random.default_rng(i).integers(0, 4096, (20, 20)).astype(np.uint16)
            Image.fromarray(cells).save(tmp_path / "cells" / str(c) / f"{i}.png")
    line = refusal(call("train.py", *QUICK, "dataset.root=cells"))
    assert "40 images of 16 bits" in line
    assert "give dataset.white_level=4095" in line
    code, _, err = call("train.py", *QUICK, "dataset.root=cells", "dataset.white_level=4095", "hydra.run.dir=run")
    assert code == 0, err


def test_validation_classes_of_one_image_each_are_refused_beforehand(call, tmp_path):
    for part, images in (("train", 4), ("val", 1), ("test", 4)):
        fill(tmp_path / "images" / part, 6, images, first={"train": 0, "val": 20, "test": 40}[part])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*have a single image")
        line = refusal(call("train.py", *QUICK, "dataset.root=images"))
        assert "each of the 6 images to validate on is the only one of its class" in line
        assert "use selection=last_epoch" in line
        arguments = [*QUICK, "dataset.root=images", "selection=last_epoch", "hydra.run.dir=run"]
        code, _, err = call("train.py", *arguments)
    assert code == 0, err
