"""divconq-search builds, prints, draws and serves, and says in one line what cannot work."""

import re
import signal
import threading
import time
from http.client import HTTPConnection

import pytest
from checkpoints import write_checkpoint
from pixels import draw_images
from programs import contents, refusal

import divconq_pl
from divconq_pl.app import search
from divconq_pl.search import Model
from divconq_pl.search.building import update_index


@pytest.fixture
def program(call):
    return lambda *arguments: call("divconq-search", *map(str, arguments))


@pytest.fixture
def run(tmp_path):
    """The folder of a run, as the programs are given it."""
    write_checkpoint(tmp_path / "run" / "checkpoints" / "best.ckpt")
    return tmp_path / "run"


@pytest.fixture
def images(tmp_path):
    return draw_images(tmp_path / "images", 12)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A folder in which an index was built, and with checkpoints that it was not built with."""
    folder = tmp_path_factory.mktemp("built")
    checkpoint = write_checkpoint(folder / "run" / "checkpoints" / "best.ckpt")
    embedder = divconq_pl.load(checkpoint, "cpu")
    model = Model(embedder.fingerprint, str(checkpoint))
    update_index(folder / "index", draw_images(folder / "images", 12), embedder.embed, model)
    for name in ("other.ckpt", "third.ckpt"):
        write_checkpoint(folder / name)
    return folder


def found(out):
    return re.findall(r"^  (\d\.\d{4})  (.*)$", out, re.MULTILINE)


def test_an_index_is_built_searched_and_brought_up_to_date(program, run, images, tmp_path):
    code, out, _ = program("index=index", f"checkpoint={run}", "images=images")
    assert code == 0
    assert "index holds 12 images of images: 12 added, 0 changed, 0 removed" in out
    assert "divconq-search index=index query=IMAGE" in out

    files = sorted(images.rglob("*.png"))
    code, out, _ = program("index=index", "query=images/class 1/007.png", "k=4")
    assert code == 0
    rows = divconq_pl.load(run, "cpu").embed(files)
    distances = dict(zip(map(str, files), (rows - rows[7]).norm(dim=1).tolist(), strict=True))
    told = {path: float(distance) for distance, path in found(out)}
    assert told == {path: pytest.approx(distances[path], abs=1e-3) for path in told}
    assert list(told.values()) == pytest.approx(sorted(distances.values())[:4], abs=1e-3)
    page = (tmp_path / "neighbours.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 5
    assert "class 1/007.png" in page
    assert "http" not in page

    files[7].unlink()
    code, out, _ = program("index=index")
    assert "11 images of" in out
    assert "0 added, 0 changed, 1 removed" in out


def test_several_queries_flipped_and_re_ranked(program, run, images, tmp_path):
    arguments = ("index=index", f"checkpoint={run}", "images=images", "flip=true", "rerank=true", "draw=null", "k=3")
    code, out, _ = program(*arguments, "query=[images/class 0/000.png,images/class 1/005.png]")
    assert code == 0
    assert len(found(out)) == 6
    assert out.count(", re-ranked:") == 2
    assert not (tmp_path / "neighbours.html").exists()
    code, out, _ = program("index=index", "query=images/class 0/000.png", "k=1")  # flipped again, as the index was made
    assert found(out)[0][0] == "0.0000"
    assert "made with flip=true, not flip=false" in refusal(program("index=index", "flip=false"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "no index given; use index=FOLDER, with checkpoint=PATH images=FOLDER to build it"),
        (["index=new"], "index='new' holds no index; build it with checkpoint=PATH images=FOLDER"),
        (["index=new", "images=images"], "no checkpoint given; a new index needs checkpoint=PATH"),
        (["index=new", "images=images", "checkpoint=gone.ckpt"], "gone.ckpt' is not a file"),
        (["index=new", "images=gone", "checkpoint=run"], "images='.*gone' does not exist; give a folder of images"),
        (["index=new", "query=images"], "index='new' holds no index"),
        (
            ["index=index", "checkpoint=other.ckpt"],
            r"made with .*best.ckpt \(.{8}\), and .*other.ckpt .* is another model",
        ),
        (["index=index", "checkpoint=other.ckpt", "query='images/class 0/000.png'"], "is another model"),
        (["index=index", "checkpoint='*.ckpt'"], "leads to 2 checkpoints; name one of them"),
        (["index=index", "query=gone.png"], "cannot read the image 'gone.png'"),
        (["index=index", "query=images"], "is a folder"),
        (["index=index", "k=0"], "k=0 must be 1 or more"),
        (["index=index", "k=x"], "k='x' must be a whole number"),
        (["index=index", "serve=true", "port=70000"], "port=70000 is none; use a number from 1024"),
        (["index=index", "device=warp"], "device='warp' cannot be used"),
        (["index=index", "querry=a.png"], "did you mean 'query'"),
    ],
)
def test_what_cannot_work_is_said_in_one_line(program, monkeypatch, built, arguments, said):
    monkeypatch.chdir(built)
    before = contents(built)
    assert re.search(said, refusal(program(*arguments)))
    after = contents(built)
    for files in (before, after):
        del files["index/lock"], files["index"]  # which filelock may make anew
    assert after == before


def test_a_checkpoint_that_moved_has_to_be_named(program, run, images, tmp_path):
    program("index=index", f"checkpoint={run}", "images=images")
    run.rename(tmp_path / "moved")
    query = "query='images/class 0/000.png'"
    assert "of the index is gone; name a copy of it with checkpoint=PATH" in refusal(program("index=index", query))
    assert program("index=index", query, "checkpoint=moved")[0] == 0


@pytest.fixture
def interruptible():
    """Let Ctrl-C interrupt, which a shell takes from programs that it starts in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_the_page_is_served_until_it_is_interrupted(program, run, images, monkeypatch):
    program("index=index", f"checkpoint={run}", "images=images")
    sites, pages = [], []
    make = search.SearchServer

    def visit():
        while not sites:
            time.sleep(0.01)
        connection = HTTPConnection("127.0.0.1", sites[0].server_port)
        connection.request("GET", "/")
        pages.append(connection.getresponse().read().decode())
        connection.close()
        signal.raise_signal(signal.SIGINT)

    def keep(*arguments):
        sites.append(make(*arguments))
        return sites[0]

    monkeypatch.setattr(search, "SearchServer", keep)
    visitor = threading.Thread(target=visit)
    visitor.start()
    code, out, _ = program("index=index", "serve=true")
    visitor.join()
    assert code == 0
    assert f"12 images can be searched at {sites[0].url} (from this machine only; Ctrl-C ends it)" in out
    assert "Search in images" in pages[0]
