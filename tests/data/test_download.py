"""Archives from a server that behaves well, badly or not at all; and archives that must not be unpacked."""

from __future__ import annotations

import hashlib
import io
import shutil
import socket
import stat
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest

from divconq_pl.data import download
from divconq_pl.data.download import Archive, fetch
from divconq_pl.errors import InputError

FILES = {f"birds/{i}.jpg": np.random.default_rng(i).bytes(30_000) for i in range(4)} | {"attributes.txt": b"1 2\n"}


def tar(*extra: tarfile.TarInfo) -> bytes:
    """Pack FILES, then members without contents."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, content in FILES.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        for member in extra:
            archive.addfile(member)
    return packed.getvalue()


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname = kind, link
    return made


def packed_zip(*extra: zipfile.ZipInfo) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in FILES.items():
            archive.writestr(name, content)
        for made in extra:
            archive.writestr(made, b"../../outside")
    return packed.getvalue()


CONTENT = tar()


class Server(ThreadingHTTPServer):
    """Serve one file, as told.

    Attributes:
        content: the file.
        ranges: whether Range requests are answered with 206; with the whole file otherwise.
        refuses_ranges: answer them with 416.
        limit: break off after as many bytes of an answer.
        breaks: how many answers are broken off.
        status: answer each request with this error.
        starts: where each request wanted to begin.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.ranges, self.refuses_ranges, self.status = CONTENT, True, False, 0
        self.limit, self.breaks = 0, 0
        self.starts: list[int] = []

    def archive(self, name: str = "birds.tgz") -> Archive:
        url = f"http://127.0.0.1:{self.server_port}/published/{name}"
        return Archive(url, name, hashlib.md5(self.content).hexdigest(), len(self.content))


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server = self.server
        wanted = self.headers.get("Range", "bytes=0-")
        start = int(wanted.removeprefix("bytes=").removesuffix("-"))
        server.starts.append(start)
        if server.status or (server.refuses_ranges and start):
            self.send_error(server.status or 416)
            return
        continues = server.ranges and "Range" in self.headers
        body = server.content[start if continues else 0 :]
        self.send_response(206 if continues else 200)
        if continues:
            total = len(server.content)
            self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if server.breaks:
            server.breaks -= 1
            body = body[: server.limit]
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(download, "PAUSE", 0.0)
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with Server() as server:
        thread = Thread(target=lambda: server.serve_forever(poll_interval=0.01))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "data"


def visible(root: Path) -> set[str]:
    return {path.name for path in root.iterdir() if not path.name.endswith(".lock")}


def assert_unpacked(root: Path, archive: str = "birds.tgz") -> None:
    assert {name: (root / name).read_bytes() for name in FILES} == FILES
    assert visible(root) == {"birds", "attributes.txt", archive}


def place(root: Path, content: bytes, name: str = "birds.tgz") -> Archive:
    """Put an archive where a user would, and return it with an address that nobody answers."""
    root.mkdir(parents=True, exist_ok=True)
    (root / name).write_bytes(content)
    return Archive("http://127.0.0.1:9/" + name, name, hashlib.md5(content).hexdigest(), len(content))


@pytest.mark.parametrize("ranges", [True, False])
def test_an_archive_is_downloaded_and_unpacked(server: Server, root: Path, ranges: bool) -> None:
    server.ranges = ranges
    fetch(server.archive(), root)
    assert_unpacked(root)
    assert server.starts == [0]
    fetch(server.archive(), root)  # from the file that is there
    assert server.starts == [0]


def test_a_zip_and_a_plain_file(server: Server, root: Path) -> None:
    server.content = packed_zip()
    fetch(server.archive("birds.zip"), root)
    assert_unpacked(root, "birds.zip")
    server.content = b"no archive"
    fetch(server.archive("labels.mat"), root)
    assert (root / "labels.mat").read_bytes() == b"no archive"


@pytest.mark.parametrize(
    ("ranges", "part", "starts"),
    [
        pytest.param(True, CONTENT[:50_000], [50_000], id="continued"),
        pytest.param(False, CONTENT[:50_000], [50_000], id="begun again by the server"),
        pytest.param(True, CONTENT, [], id="whole"),
        pytest.param(True, CONTENT + b"x", [0], id="too long"),
        pytest.param(False, b"x" * (len(CONTENT) - 1), [len(CONTENT) - 1], id="wrong, and overwritten"),
    ],
)
def test_what_is_there_of_a_download_is_used(
    server: Server, root: Path, ranges: bool, part: bytes, starts: list[int]
) -> None:
    server.ranges = ranges
    root.mkdir()
    (root / "birds.tgz.part").write_bytes(part)
    fetch(server.archive(), root)
    assert_unpacked(root)
    assert server.starts == starts


def test_where_the_server_has_no_range_the_download_begins_again(server: Server, root: Path) -> None:
    root.mkdir()
    (root / "birds.tgz.part").write_bytes(CONTENT[:50_000])
    server.refuses_ranges = True
    fetch(server.archive(), root)
    assert_unpacked(root)
    assert server.starts == [50_000, 0]


def test_a_broken_connection_is_made_again(server: Server, root: Path) -> None:
    server.limit, server.breaks = 20_000, 5
    fetch(server.archive(), root)
    assert_unpacked(root)
    assert server.starts == [20_000 * i for i in range(6)]


def test_a_connection_that_stays_broken_is_given_up_and_continued_by_the_next_run(server: Server, root: Path) -> None:
    root.mkdir()
    (root / "birds.tgz.part").write_bytes(CONTENT[:50_000])
    server.breaks = 100
    with pytest.raises(InputError, match=r"50\.0kB of 120kB are in .*birds\.tgz\.part.*run this again to go on"):
        fetch(server.archive(), root)
    assert server.starts == [50_000] * download.PATIENCE
    assert visible(root) == {"birds.tgz.part"}
    server.breaks = 0
    fetch(server.archive(), root)
    assert_unpacked(root)


def test_errors_of_the_server(server: Server, root: Path) -> None:
    server.status = 404
    with pytest.raises(InputError, match=r"published/birds\.tgz is refused .*404.*yourself, to '.*birds\.tgz'"):
        fetch(server.archive(), root)
    assert len(server.starts) == 1
    server.status = 503
    with pytest.raises(InputError, match="503"):
        fetch(server.archive(), root)
    assert len(server.starts) == 1 + download.PATIENCE


@pytest.mark.parametrize("part", [0, 50_000])
def test_another_file_than_the_published_one_is_not_downloaded(server: Server, root: Path, part: int) -> None:
    root.mkdir()
    (root / "birds.tgz.part").write_bytes(CONTENT[:part])
    with pytest.raises(InputError, match=f"has {len(CONTENT)} bytes, but the published file has {len(CONTENT) + 1}"):
        fetch(replace(server.archive(), size=len(CONTENT) + 1), root)
    assert (root / "birds.tgz.part").stat().st_size == part


def test_no_server_is_said_at_once(root: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/birds.tgz"
        with pytest.raises(InputError, match=rf"cannot reach 127\.0\.0\.1.*{url} \(1\.15GB\) yourself, to '.*birds"):
            fetch(Archive(url, "birds.tgz", "0" * 32, 1_150_585_339), root)


def test_a_wrong_checksum(server: Server, root: Path) -> None:
    right = hashlib.md5(CONTENT).hexdigest()
    with pytest.raises(InputError, match=f"MD5 sum {right} in place of {'0' * 32}; run this again"):
        fetch(replace(server.archive(), md5="0" * 32), root)
    assert visible(root) == set()

    mine = place(root, CONTENT)
    with pytest.raises(InputError, match=f"MD5 sum {right} in place of {'0' * 32}; delete it"):
        fetch(replace(mine, md5="0" * 32), root)
    with pytest.raises(InputError, match="bytes, but the published file has 1; delete it"):
        fetch(replace(mine, size=1), root)
    assert visible(root) == {"birds.tgz"}


def test_a_file_that_a_user_brought_needs_no_network(root: Path) -> None:
    fetch(place(root, CONTENT), root)
    assert_unpacked(root)


def test_other_files_of_a_folder_stay(root: Path) -> None:
    (root / "birds").mkdir(parents=True)
    (root / "birds" / "0.jpg").write_bytes(b"half a fi")
    (root / "birds" / "mine.txt").write_text("notes")
    fetch(place(root, CONTENT), root)
    assert (root / "birds" / "mine.txt").read_text() == "notes"
    assert_unpacked(root)


@pytest.mark.parametrize(
    "bad",
    [
        member("../outside"),
        member("/outside"),
        member("birds/../../outside"),
        member("C:\\outside"),
        member("device", tarfile.CHRTYPE),
        member("pipe", tarfile.FIFOTYPE),
        member("link", tarfile.SYMTYPE, "../outside"),
        member("link", tarfile.SYMTYPE, "/etc/passwd"),
        member("link", tarfile.LNKTYPE, "../outside"),
    ],
    ids=lambda bad: f"{bad.name}>{bad.linkname}",
)
@pytest.mark.parametrize("has_filter", [True, False])
def test_a_malicious_tar_is_not_unpacked(
    root: Path, monkeypatch: pytest.MonkeyPatch, bad: tarfile.TarInfo, has_filter: bool
) -> None:
    if not has_filter:
        monkeypatch.delattr(tarfile, "data_filter")
    with pytest.raises(InputError, match=r"birds\.tgz"):
        fetch(place(root, tar(bad)), root)
    assert visible(root) == {"birds.tgz"}
    assert set(root.parent.iterdir()) == {root}


def zip_member(name: str, kind: int) -> zipfile.ZipInfo:
    made = zipfile.ZipInfo(name)
    made.create_system, made.external_attr = 3, (kind | 0o644) << 16
    return made


@pytest.mark.parametrize(
    "bad",
    [
        zip_member("../outside", stat.S_IFREG),
        zip_member("/outside", stat.S_IFREG),
        zip_member("birds\\..\\..\\outside", stat.S_IFREG),
        zip_member("link", stat.S_IFLNK),
        zip_member("device", stat.S_IFBLK),
    ],
    ids=lambda bad: bad.filename,
)
def test_a_malicious_zip_is_not_unpacked(root: Path, bad: zipfile.ZipInfo) -> None:
    with pytest.raises(InputError, match=f"has the member {bad.filename!r}".replace("\\", "\\\\")):
        fetch(place(root, packed_zip(bad), "birds.zip"), root)
    assert visible(root) == {"birds.zip"}


@pytest.mark.skipif(not hasattr(tarfile, "data_filter"), reason="this Python unpacks no links")
def test_links_that_stay_inside_are_unpacked(root: Path) -> None:
    fetch(place(root, tar(member("birds/same.jpg", tarfile.SYMTYPE, "0.jpg"))), root)
    assert (root / "birds" / "same.jpg").read_bytes() == FILES["birds/0.jpg"]


def test_without_filters_archives_are_unpacked_alike(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(tarfile, "data_filter", raising=False)
    fetch(place(root, CONTENT), root)
    assert_unpacked(root)


@pytest.mark.parametrize("content", [CONTENT, packed_zip()], ids=["tgz", "zip"])
def test_an_interrupted_unpacking_leaves_nothing(root: Path, monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    name = "birds.tgz" if content is CONTENT else "birds.zip"
    archive = place(root, content, name)
    (root / f".{name}.unpacking" / "birds").mkdir(parents=True)  # left by a process that was killed
    with monkeypatch.context() as patch:
        patch.setattr(tarfile.TarFile if name == "birds.tgz" else zipfile.ZipFile, "extract", interrupted_after(2))
        with pytest.raises(KeyboardInterrupt):
            fetch(archive, root)
    assert visible(root) == {name}
    fetch(archive, root)
    assert_unpacked(root, name)


def interrupted_after(members: int) -> Callable[..., None]:
    """Unpack some members, then be interrupted."""
    extract = {tarfile.TarFile: tarfile.TarFile.extract, zipfile.ZipFile: zipfile.ZipFile.extract}
    calls = iter(range(members))

    def extract_some(archive: tarfile.TarFile | zipfile.ZipFile, *arguments: object, **options: object) -> None:
        if next(calls, None) is None:
            raise KeyboardInterrupt
        extract[type(archive)](archive, *arguments, **options)

    return extract_some


def test_a_full_disk_is_said_before_and_while_it_fills(
    server: Server, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1000, 999, 1))
        with pytest.raises(InputError, match=r"downloading needs 120kB .*1\.00B are free; make room"):
            fetch(server.archive(), root)
        with pytest.raises(InputError, match=r"unpacking needs 120kB"):
            fetch(place(root, CONTENT), root)
    assert server.starts == []
    if sys.platform == "linux":
        (root / "birds.tgz").unlink()
        (root / "birds.tgz.part").unlink()
        (root / "birds.tgz.part").symlink_to("/dev/full")
        monkeypatch.setattr(download, "_empty", lambda _: None)  # it is, and cannot be truncated
        with pytest.raises(InputError, match=r"downloading needs 120kB .*it is full"):
            fetch(server.archive(), root)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    with pytest.raises(InputError, match=r"cannot write '.*data'"):
        fetch(Archive("http://127.0.0.1:9/", "birds.tgz", "", 1), tmp_path / "data")
