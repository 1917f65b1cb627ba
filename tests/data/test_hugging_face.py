"""A data set of the datasets library is read by the names of its columns and splits; only a named one is fetched."""

import io
import pickle
import socket
import sys
import threading
import time

import numpy as np
import pytest
from PIL import Image

from divconq_pl.data import HuggingFace, hugging_face_tables
from divconq_pl.errors import InputError

datasets = pytest.importorskip("datasets")
COLOURS = {name: (40 * i, 255 - 40 * i, 10) for i, name in enumerate("abcdef")}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))

    def fetch(*arguments, **options):
        raise AssertionError("a network was asked for")

    monkeypatch.setattr("socket.socket.connect", fetch)


def png(colour):
    file = io.BytesIO()
    Image.new("RGB", (8, 6), colour).save(file, format="png")
    return {"bytes": file.getvalue(), "path": None}


def make(classes="abcdef", images=3, label="label", image="image"):
    """Make a table of images, with classes numbered as the library does it: by their place among all."""
    names = [name for name in classes for _ in range(images)]
    features = datasets.Features({image: datasets.Image(), label: datasets.ClassLabel(names=list(COLOURS))})
    return datasets.Dataset.from_dict({image: [png(COLOURS[n]) for n in names], label: names}, features=features)


def save(data, folder):
    (datasets.DatasetDict(data) if isinstance(data, dict) else data).save_to_disk(str(folder))
    return folder


def check_colours(data):
    for i, label in enumerate(data.targets.tolist()):
        assert data.image(i).getpixel((0, 0)) == COLOURS[data.classes[label]]


def test_the_classes_of_a_single_split_are_split_at_random(tmp_path):
    source = HuggingFace(save(make(), tmp_path / "saved"))
    splits = source.splits()
    parts = [splits.train, splits.val, splits.test]
    assert sorted(name for part in parts for name in part.classes) == list(COLOURS)
    for part in parts:
        check_colours(part)
    assert len(source.evaluated()) == 18
    check_colours(pickle.loads(pickle.dumps(source.evaluated())))  # as workers get it


def test_splits_are_the_parts_of_their_names(tmp_path):
    tables = {"train": make("ab"), "validation": make("cd"), "test": make("ef"), "extra": make("a")}
    saved = save(tables, tmp_path / "s")
    with pytest.warns(UserWarning, match="the splits extra of .* are ignored"):
        splits = HuggingFace(saved).splits()
    assert [data.classes for data in (splits.train, splits.val, splits.test)] == [["a", "b"], ["c", "d"], ["e", "f"]]
    assert HuggingFace(saved, split="train+extra").evaluated().targets.bincount().tolist() == [6, 3]


def test_query_and_gallery(tmp_path):
    saved = save({"query": make("ef", 1), "gallery": make("def", 2), "train": make("ab")}, tmp_path / "s")
    query, gallery = HuggingFace(saved).evaluated()
    assert query.classes == gallery.classes == ["d", "e", "f"]
    check_colours(query)
    check_colours(gallery)


def test_the_same_classes_in_training_and_test_are_told_how_to_be_split(tmp_path):
    saved = save({"train": make(), "test": make(images=1)}, tmp_path / "s")
    with pytest.raises(InputError, match=r"6 classes .*: a, b, c, \.\.\.; .* dataset\.split=train\+test to read both"):
        HuggingFace(saved).splits()
    splits = HuggingFace(saved, split="train+test").splits()
    assert sum(map(len, (splits.train, splits.val, splits.test))) == 24
    assert len(HuggingFace(saved).evaluated()) == 6


@pytest.mark.parametrize("kind", ["folder of parquet", "parquet", "folder of images"])
def test_what_else_load_dataset_reads(tmp_path, kind):
    root = tmp_path / "data"
    root.mkdir()
    if kind == "folder of images":
        for name, colour in COLOURS.items():
            (root / name).mkdir()
            Image.new("RGB", (8, 6), colour).save(root / name / "0.png")
            Image.new("RGB", (8, 6), colour).save(root / name / "1.png")
    else:
        make().to_parquet(str(root / "all.parquet"))
    data = HuggingFace(root / "all.parquet" if kind == "parquet" else root).evaluated()
    assert data.classes == list(COLOURS)
    check_colours(data)


def test_columns_of_other_names_and_labels_that_are_names(tmp_path):
    table = make(image="photo", label="kind").map(lambda row: {"who": "x" if row["kind"] < 3 else "y"})
    saved = save(table, tmp_path / "s")
    assert HuggingFace(saved).evaluated().classes == list(COLOURS)
    assert HuggingFace(saved, label="who", image="photo").evaluated().classes == ["x", "y"]
    for wrong in ({"label": "what"}, {"image": "what"}):
        with pytest.raises(InputError, match=r"='what': there is no such column.* photo, kind, who"):
            HuggingFace(saved, **wrong).evaluated()


def test_images_are_decoded_as_any_other(tmp_path):
    file = io.BytesIO()
    Image.fromarray(np.full((6, 8), 4095, np.uint16)).save(file, format="png")
    table = datasets.Dataset.from_dict({"image": [{"bytes": file.getvalue(), "path": None}] * 2, "label": ["a", "b"]})
    saved = save(table.cast_column("image", datasets.Image()), tmp_path / "s")
    assert HuggingFace(saved).evaluated().image(0).getpixel((0, 0)) == (16, 16, 16)
    assert HuggingFace(saved, white_level=4095).evaluated().image(0).getpixel((0, 0)) == (255, 255, 255)
    with pytest.raises(InputError, match="max_megapixels=-1 must be above 0"):
        HuggingFace(saved, max_megapixels=-1)


def test_what_cannot_be_read_is_named_or_left_out(tmp_path):
    images = [png(COLOURS["a"]), {"bytes": b"no image", "path": None}, png(COLOURS["b"]), None]
    table = datasets.Dataset.from_dict({"image": images, "label": ["a", "a", "b", "b"]})
    saved = save({"test": table.cast_column("image", datasets.Image()), "train": make("cd")}, tmp_path / "s")
    whole = HuggingFace(saved).evaluated()
    for row in (1, 3):
        with pytest.raises(InputError, match=rf"cannot read the image '.*s test\[{row}\]'"):
            whole.image(row)
    with pytest.warns(UserWarning, match=r"2 images of .* are left out: .*s test\[1\], "):
        data = HuggingFace(saved, on_bad_image="skip").evaluated()
    check_colours(data)
    assert [data.name_of(i).rpartition(" ")[2] for i in range(len(data))] == ["test[0]", "test[2]"]


def test_images_without_labels_can_be_embedded_only(tmp_path):
    source = HuggingFace(save(make().remove_columns("label"), tmp_path / "s"))
    assert source.evaluated().classes == ["unlabelled"]
    with pytest.raises(InputError, match=r"no column of labels that is known; name it, dataset\.label=COLUMN"):
        source.splits()


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ([["a", "b"], ["a"]], r"holds \['a', 'b'\]; several labels of an image cannot be used"),
        (["a", None], "1 of 2 images have no label in the column label"),
    ],
)
def test_labels_that_cannot_be_used(tmp_path, column, message):
    table = datasets.Dataset.from_dict({"image": [png((0, 0, 0))] * 2, "label": column})
    with pytest.raises(InputError, match=message):
        HuggingFace(save(table.cast_column("image", datasets.Image()), tmp_path / "s")).evaluated()


def test_what_is_not_there_is_said_in_one_line(tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"give one of them, dataset\.root=PATH .* or dataset\.name=OWNER/NAME"):
        HuggingFace()
    with pytest.raises(InputError, match=r"'owner/birds' does not exist; dataset\.name=owner/birds would look for it"):
        HuggingFace("owner/birds")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"'.*empty' cannot be read by the datasets library: \w"):
        HuggingFace(tmp_path / "empty").evaluated()
    with pytest.raises(InputError, match=r"split='trian': .* has no 'trian', only all; join names"):
        HuggingFace(save(make(), tmp_path / "s"), split="trian").evaluated()

    def fail(*arguments, **options):
        raise ConnectionError("Couldn't reach 'owner/birds' on the Hub\n(details)")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    monkeypatch.setattr(hugging_face_tables, "is_reachable", lambda address: True)
    with pytest.raises(InputError, match=r"^name='owner/birds' cannot be loaded .* \(Couldn't [^\n]*Hub\); without"):
        HuggingFace(name="owner/birds").evaluated()
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match=r'not installed here: pip install "divconq-pl\[huggingface\]"'):
        HuggingFace(name="owner/birds").evaluated()


def test_without_a_network_the_hub_is_not_tried_again_and_again(monkeypatch):
    for place in ("huggingface_hub.constants.HF_HUB_OFFLINE", "datasets.config.HF_HUB_OFFLINE"):
        monkeypatch.setattr(place, False)  # and what it becomes is taken back
    monkeypatch.setattr(hugging_face_tables, "is_reachable", lambda address: False)
    began = time.monotonic()
    with pytest.raises(InputError, match=r"^name='owner/birds' cannot be loaded .*; without a network, give"):
        HuggingFace(name="owner/birds").evaluated()
    assert time.monotonic() - began < 5


def test_a_place_that_does_not_answer_is_given_up(monkeypatch):
    monkeypatch.undo()  # this one asks for a network, within this machine
    monkeypatch.setattr("urllib.request.getproxies", dict)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert hugging_face_tables.is_reachable(f"http://127.0.0.1:{port}")
    assert not hugging_face_tables.is_reachable(f"http://127.0.0.1:{port}")
    monkeypatch.setattr(hugging_face_tables, "_PATIENCE", 0.1)
    asleep = threading.Event()
    monkeypatch.setattr(socket, "create_connection", lambda *arguments, **options: asleep.wait(2) and socket.socket())
    began = time.monotonic()
    assert not hugging_face_tables.is_reachable("https://huggingface.co")  # as where the lookup of a name hangs
    assert time.monotonic() - began < 1
    asleep.set()
