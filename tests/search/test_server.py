"""The page of an index finds what the index finds, and gives out nothing but pictures of its images."""

import io
import json
import re
import socket
import threading
from http.client import HTTPConnection

import pytest
from PIL import Image
from pixels import Embedder, draw_images

from divconq_pl import InputError
from divconq_pl.search import ImageIndex, Model, SearchServer, server


@pytest.fixture
def images(tmp_path):
    (tmp_path / "secret.png").write_bytes(b"nobody's business")
    return draw_images(tmp_path / "images", 30)


@pytest.fixture
def index(images, tmp_path):
    return ImageIndex.build(tmp_path / "index", images, Embedder(), Model("a"))


@pytest.fixture
def site(index):
    with SearchServer(index, Embedder()) as site:
        thread = threading.Thread(target=site.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield site
        site.shutdown()
        thread.join()


@pytest.fixture
def ask(site):
    def ask(path, body=None, **headers):
        """Return status, headers and content of an answer, JSON as what it says."""
        connection = HTTPConnection("127.0.0.1", site.server_port, timeout=20)
        connection.putrequest("GET" if body is None else "POST", path, skip_host="Host" in headers)
        if body is not None and "Content_Length" not in headers:
            connection.putheader("Content-Length", str(len(body)))
        for name, value in headers.items():
            connection.putheader(name.replace("_", "-"), value)
        connection.endheaders(body)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        if answer.headers["Content-Type"] == "application/json":
            content = json.loads(content)
        return answer.status, answer.headers, content

    return ask


def names(matches, images):
    return [{"number": m.number, "name": str(m.path.relative_to(images)), "distance": m.distance} for m in matches]


def test_an_image_that_is_sent_finds_its_neighbours(ask, index, images):
    query = sorted(images.rglob("*.png"))[7]
    for rerank in (False, True):
        status, _, told = ask(f"/search?k=5&rerank={str(rerank).lower()}", query.read_bytes())
        assert status == 200
        expected = names(index.query(Embedder()([str(query)]), 5, rerank=rerank)[0], images)
        assert told["matches"] == [
            {**match, "distance": pytest.approx(match["distance"], abs=1e-4)} for match in expected
        ]


def test_an_image_of_the_index_finds_its_neighbours(ask, index, images):
    status, _, told = ask("/search?image=9&k=3")
    assert status == 200
    assert told["query"] == {"number": 9, "name": str(index.find_path(9).relative_to(images))}
    assert [match["number"] for match in told["matches"]] == [match.number for match in index.query_own(9, 3)]


def test_the_page_needs_nothing_from_elsewhere_and_runs_nothing_else(ask, images):
    status, headers, page = ask("/")
    page = page.decode()
    assert status == 200
    assert "30 images" in page
    assert str(images) in page
    assert not re.findall(r"https?://|src=\"[^{]|@import|url\(", page)
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert headers["X-Content-Type-Options"] == "nosniff"


def test_some_images_are_shown_first(ask, index):
    told = ask("/some")[2]["matches"]
    assert len(told) == len({match["number"] for match in told}) == 24
    assert all((index.root / match["name"]).is_file() for match in told)


def test_pictures_of_images_are_small_jpegs(ask, index, tmp_path):
    Image.new("RGB", (1000, 500), "red").save(index.find_path(3))
    status, headers, content = ask("/image/3")
    assert (status, headers["Content-Type"]) == (200, "image/jpeg")
    assert Image.open(io.BytesIO(content)).size == (320, 160)


@pytest.mark.parametrize(
    "path",
    [
        *("/image/0", "/image/31", "/image/-1", "/image/1.5", "/image/", "/image/99999999999999999999"),
        *("/image/../secret.png", "/image/..%2fsecret.png", "/image//etc/passwd", "/../secret.png", "/secret.png"),
        *("/images/class%200/000.png", "//etc/passwd", "/index/images.sqlite", "/search/../../secret.png", "/%00"),
    ],
)
def test_nothing_but_images_of_the_index_is_given_out(ask, path):
    status, _, told = ask(path)
    assert status == 404
    assert set(told) == {"error"}


def test_a_picture_whose_file_is_gone_or_replaced_is_refused(ask, index, tmp_path):
    index.find_path(3).unlink()
    assert ask("/image/3")[0] == 404
    index.find_path(3).symlink_to(tmp_path / "secret.png")
    status, _, told = ask("/image/3")
    assert status == 404
    assert "nobody's business" not in str(told)


@pytest.mark.parametrize(
    "body", [b"", b"some text", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"\x89PNG\r\n\x1a\n"]
)
def test_what_is_no_image_is_refused_in_words(ask, body):
    status, _, told = ask("/search", body)
    assert status == 415
    assert re.fullmatch(r"this is no image that can be read; give a picture, such as .*\.png.*", told["error"])


def test_an_image_of_too_many_pixels_is_refused_in_words(ask):
    buffer = io.BytesIO()
    Image.new("1", (9000, 9000)).save(buffer, "PNG")
    status, _, told = ask("/search", buffer.getvalue())
    assert status == 415
    assert "81.0 megapixels" in told["error"]


def test_what_is_too_large_is_refused_unread(ask, site):
    status, headers, told = ask("/search", b"", Content_Length=str(server.MAX_UPLOAD + 2**20))
    assert (status, headers["Connection"]) == (413, "close")
    assert told["error"] == "an image may have 32 MiB, and this one has 33"
    assert ask("/search", b"", Content_Length="many")[0] == 411


@pytest.mark.parametrize("query", ["image=x", "image=", "", "image=5&k=0", "image=5&k=-3", "image=77"])
def test_a_question_that_makes_no_sense_is_refused_in_words(ask, query):
    status, _, told = ask(f"/search?{query}")
    assert status == 400
    assert re.search("must be a whole number|asks for no neighbours|there is no image 77", told["error"])


def test_a_site_whose_name_leads_here_is_refused(ask, site):
    assert ask("/some", Host=f"evil.example:{site.server_port}")[0] == 403
    assert ask("/some", Host=f"localhost:{site.server_port}")[0] == 200


def test_it_listens_to_this_machine_alone(site):
    assert site.server_address[0] == "127.0.0.1"
    assert site.url == f"http://127.0.0.1:{site.server_port}/"


def test_a_port_that_cannot_be_had_is_refused(index, site):
    with pytest.raises(InputError, match=f"port={site.server_port} cannot be had"):
        SearchServer(index, Embedder(), site.server_port)
    with pytest.raises(InputError, match="port=70000 is none"):
        SearchServer(index, Embedder(), 70000)


def test_a_visitor_who_says_nothing_keeps_nobody_waiting(ask, site):
    with socket.create_connection(site.server_address):
        assert ask("/some")[0] == 200


def test_names_are_escaped(images, tmp_path):
    root = images.rename(tmp_path / "<script>alert(1)<")
    index = ImageIndex.build(tmp_path / "another", root, Embedder(), Model("a"))
    with SearchServer(index, Embedder()) as site:
        thread = threading.Thread(target=site.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        connection = HTTPConnection("127.0.0.1", site.server_port)
        connection.request("GET", "/")
        page = connection.getresponse().read().decode()
        connection.close()
        site.shutdown()
        thread.join()
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert" in page


def test_a_browser_that_goes_away_is_no_error(site, capsys):
    for error, is_told in ((ConnectionResetError(104, "Connection reset by peer"), False), (ValueError("wrong"), True)):
        try:
            raise error
        except Exception:
            site.handle_error(None, ("127.0.0.1", 1))
        assert bool(capsys.readouterr().err) == is_told
