"""An index is what its folder of images is, after each build that has ended, and its neighbours are the nearest."""

import os
import signal
import sqlite3

import numpy as np
import pytest
import torch
from filelock import FileLock
from pixels import Embedder, draw_image, draw_images

from divconq_pl import InputError
from divconq_pl.metrics.reidentification import rerank
from divconq_pl.search import ImageIndex, Model, building, nearest
from divconq_pl.search.building import update_index

MODEL = Model("a1b2c3d4e5f6", "best.ckpt")


@pytest.fixture(autouse=True)
def _few_at_once(monkeypatch):
    monkeypatch.setattr(building, "CHUNK", 4)
    monkeypatch.setattr("divconq_pl.search.store.BLOCK", 7)


@pytest.fixture
def images(tmp_path):
    return draw_images(tmp_path / "images", 30)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "index"


def expected(images, query, k, metric=None):
    """Return path and distance of the images that are nearest, by comparing with each in turn."""
    files = sorted(images.rglob("*.png"))
    row = Embedder()([str(query)])[0]
    distances = [float((Embedder()([str(file)])[0] - row).norm()) for file in files]
    return sorted(zip(distances, files, strict=True))[:k]


def check(index, images, query, k=5):
    (found,) = index.query(Embedder()([str(query)]), k)
    truth = expected(images, query, k)
    assert [match.path for match in found] == [path for _, path in truth]
    assert [match.distance for match in found] == pytest.approx([distance for distance, _ in truth], abs=1e-3)


def kill_during(build):
    """Run a build in another process, which is killed while it is at work."""
    child = os.fork()
    if not child:
        try:
            build()
        finally:
            os._exit(0)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def test_the_nearest_are_found(images, folder):
    index = ImageIndex.build(folder, images, Embedder(), MODEL)
    assert len(index) == 30
    for query in sorted(images.rglob("*.png"))[::7]:
        check(index, images, query)
    assert len(index.query(Embedder()([str(query)]), 100)[0]) == 30


def test_an_image_of_the_index_does_not_find_itself(images, folder):
    index = ImageIndex.build(folder, images, Embedder(), MODEL)
    query = sorted(images.rglob("*.png"))[4]
    own = index.query(Embedder()([str(query)]), 1)[0][0]
    assert own.path == query
    assert [match.path for match in index.query_own(own.number, 4)] == [p for _, p in expected(images, query, 5)][1:]


def test_only_new_and_changed_files_are_embedded_and_those_gone_are_not_found(images, folder):
    index = ImageIndex.build(folder, images, Embedder(), MODEL)
    files = sorted(images.rglob("*.png"))
    random = np.random.default_rng(1)
    new = draw_image(images / "new" / "new.png", random)
    draw_image(files[3], random)
    os.utime(files[3], ns=(1, 1))
    files[8].unlink()
    embed = Embedder()
    changes = index.update(embed)
    assert changes == (1, 1, 1, 30, ())
    assert sorted(embed.files) == sorted([str(files[3]), str(new)])
    for query in (new, files[3], files[9]):
        check(index, images, query)  # that was open before, too
        check(ImageIndex(folder), images, query)
    assert index.update(embed) == (0, 0, 0, 30, ())
    assert len(embed.files) == 2


def test_a_killed_build_goes_on_and_is_no_index_before_its_end(images, folder):
    kill_during(lambda: update_index(folder, images, Embedder(11, kill), MODEL))
    with pytest.raises(InputError, match="has not ended; start it again, and it goes on"):
        ImageIndex(folder)
    embed = Embedder()
    assert update_index(folder, images, embed, MODEL) == (30, 0, 0, 30, ())
    assert len(embed.files) == 22  # two chunks of four were written
    check(ImageIndex(folder), images, sorted(images.rglob("*.png"))[2])


def test_a_first_build_that_was_killed_starts_over_with_another_model(images, folder):
    kill_during(lambda: update_index(folder, images, Embedder(11, kill), MODEL))
    embed = Embedder()
    update_index(folder, images, embed, Model("another"))
    assert len(embed.files) == 30


def test_a_killed_update_leaves_what_was_there_before(images, folder, monkeypatch):
    index = ImageIndex.build(folder, images, Embedder(), MODEL)
    query = sorted(images.rglob("*.png"))[5]
    row = Embedder()([str(query)])
    before = index.query(row, 30)
    draw_images(images / "more", 9, seed=2)
    query.unlink()
    kill_during(lambda: update_index(folder, images, Embedder(5, kill), MODEL))
    with monkeypatch.context() as patch:
        patch.setattr("divconq_pl.search.store.Store._write_state", lambda *_: kill())  # after rows were removed
        kill_during(lambda: update_index(folder, images, Embedder(), MODEL))
    assert ImageIndex(folder).query(row, 30) == before
    embed = Embedder()
    assert index.update(embed) == (9, 0, 1, 38, ())
    assert embed.files == []  # all had been embedded before the second kill


def test_another_model_is_refused(images, folder):
    ImageIndex.build(folder, images, Embedder(), MODEL)
    with pytest.raises(InputError, match=r"made with best.ckpt \(a1b2c3d4\), and other.ckpt \(ffff\) is another model"):
        update_index(folder, images, Embedder(), Model("ffff", "other.ckpt"))
    with pytest.raises(InputError, match="made with flip=false, not flip=true"):
        update_index(folder, images, Embedder(), MODEL._replace(flip=True))


def test_embeddings_of_another_width_are_refused(images, folder):
    index = ImageIndex.build(folder, images, Embedder(), MODEL)
    with pytest.raises(InputError, match="width 3 do not fit an index of width 48"):
        index.query(torch.ones(1, 3))
    with pytest.raises(InputError, match="k=0 asks for no neighbours"):
        index.query(torch.ones(1, 48), 0)
    draw_images(images / "more", 1)
    with pytest.raises(InputError, match=r"1 images were embedded as \(1, 3\); give \(1, 48\)"):
        index.update(lambda paths: torch.ones(len(paths), 3))


def test_what_cannot_be_read_is_left_out_and_said(images, folder):
    (images / "broken.png").write_bytes(b"\x89PNG")
    (images / "notes.txt").touch()
    with pytest.warns(UserWarning, match="passed over|left out") as said:
        changes = update_index(folder, images, Embedder(), MODEL)
    assert changes == (30, 0, 0, 30, (str(images / "broken.png"),))
    assert [str(w.message) for w in said] == [
        f"passed over in '{images}': 1 .txt",
        f"1 images cannot be read and are left out: {images / 'broken.png'}",
    ]


def test_a_folder_without_images_is_refused(tmp_path, folder):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "notes.txt").touch()
    with pytest.raises(InputError, match=r"images' holds no image \(1 .txt\); images end in .*\.png"):
        update_index(folder, tmp_path / "images", Embedder(), MODEL)
    (tmp_path / "images" / "broken.png").touch()
    with (
        pytest.warns(UserWarning, match="passed over"),
        pytest.raises(InputError, match=r"none of the 1 images of .*images' can be read"),
    ):
        update_index(folder, tmp_path / "images", Embedder(), MODEL)


def test_a_folder_that_has_moved_is_known_again_and_one_with_other_images_is_refused(images, folder, tmp_path):
    ImageIndex.build(folder, images, Embedder(), MODEL)
    moved = images.rename(tmp_path / "moved")
    embed = Embedder()
    index = ImageIndex.build(folder, moved, embed, MODEL)
    assert embed.files == []
    check(index, moved, sorted(moved.rglob("*.png"))[0])
    others = tmp_path / "others"
    draw_image(others / "other.png", np.random.default_rng(0))
    with pytest.raises(InputError, match=r"none of the 30 images of index=.*index' is in images=.*others'"):
        update_index(folder, others, embed, MODEL)


def test_two_builds_at_once_are_refused(images, folder):
    ImageIndex.build(folder, images, Embedder(), MODEL)
    with FileLock(folder / "lock"), pytest.raises(InputError, match="another build is at work"):
        update_index(folder, images, Embedder(), MODEL)


def test_what_is_no_index_is_refused_in_words(images, folder, tmp_path):
    with pytest.raises(InputError, match="holds no index; build it with checkpoint=PATH images=FOLDER"):
        ImageIndex(tmp_path)
    ImageIndex.build(folder, images, Embedder(), MODEL)
    connection = sqlite3.connect(folder / "images.sqlite")
    connection.execute("PRAGMA user_version = 7")
    connection.close()
    with pytest.raises(InputError, match="is of version 7, and this divconq-pl reads version 1"):
        ImageIndex(folder)
    (folder / "images.sqlite").write_bytes(b"something else" * 1000)
    with pytest.raises(InputError, match=r"cannot be used .*; remove the folder of the index and build it again"):
        ImageIndex(folder)


def test_names_that_are_not_utf_8_are_found(images, folder):
    odd = draw_image(images / os.fsdecode(b"caf\xe9.png"), np.random.default_rng(3))
    index = ImageIndex.build(folder, images, Embedder(), MODEL)
    assert index.query(Embedder()([str(odd)]), 1)[0][0].path == odd


def test_reranking_orders_the_nearest_as_the_metric_does(images, folder):
    index = ImageIndex.build(folder, images, Embedder(), MODEL)
    files = sorted(images.rglob("*.png"))
    rows = Embedder()([str(file) for file in files])
    query = Embedder()([str(files[12])])
    order = rerank(query, rows)[0].argsort(stable=True)[:6]
    (found,) = index.query(query, 6, rerank=True)
    assert [match.path for match in found] == [files[i] for i in order]
    assert [match.distance for match in found] == pytest.approx((rows[order] - query).norm(dim=1).tolist(), abs=1e-3)


def test_an_index_can_be_read_where_nothing_can_be_written(images, folder, monkeypatch):
    ImageIndex.build(folder, images, Embedder(), MODEL)
    monkeypatch.setattr(os, "access", lambda *_: False)  # what a disk that is mounted for reading says
    check(ImageIndex(folder), images, sorted(images.rglob("*.png"))[0])


@pytest.mark.parametrize("faiss_is_there", [True, False])
def test_inverted_lists_find_what_comparing_with_all_finds(images, folder, monkeypatch, faiss_is_there):
    monkeypatch.setattr(nearest, "MAX_FLAT", 20)
    monkeypatch.setattr(nearest, "_PART", 60)
    monkeypatch.setattr(nearest, "_LISTS", 0.2)  # few, of which each is visited
    draw_images(images, 120)
    index = ImageIndex.build(folder, images, Embedder(), MODEL)
    lists = index.state.coarse
    assert sorted(file.name for file in folder.iterdir()) == sorted(
        ["images.sqlite", "lock", f"{lists.name}.0", f"{lists.name}.1"]
    )
    files = sorted(images.rglob("*.png"))
    draw_images(images / "more", 5, seed=4)
    files[0].unlink()
    index.update(Embedder())
    assert index.state.coarse == lists  # few changes are searched beside them
    if not faiss_is_there:
        monkeypatch.setattr(nearest, "has_faiss", lambda: False)
    for query in (files[1], files[50], next((images / "more").rglob("*.png"))):
        check(index, images, query)
    draw_images(images / "many", 30, seed=5)
    for file in files[60:70]:
        file.unlink()
    index.update(Embedder())
    assert index.state.coarse != lists
    assert (index.state.coarse is None) != faiss_is_there
    for query in (files[1], next((images / "many").rglob("*.png"))):
        check(index, images, query)
