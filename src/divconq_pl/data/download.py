"""Archives of data sets from where they are published: downloaded when the user asks for it, checked, unpacked."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
import tarfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path, PureWindowsPath
from typing import BinaryIO
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from filelock import FileLock
from tqdm import tqdm

from divconq_pl.errors import InputError

TIMEOUT = 10.0
"""Seconds that a server may stay silent."""
PATIENCE = 4
"""How many times in a row a connection may break before any data arrives."""
PAUSE = 1.0
"""Seconds to wait before connecting again; doubled after each connection in a row that brought nothing."""

_CHUNK = 1 << 18
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
_TAR, _ZIP = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz"), (".zip",)


@dataclass(frozen=True)
class Archive:
    """A file as it is published.

    Args:
        url: where it is, http or https.
        file_name: its name on disk; the suffix says how to unpack it (tar, zip; anything else is left as it is).
        md5: its checksum, in hexadecimal digits.
        size: its size in bytes.
    """

    url: str
    file_name: str
    md5: str
    size: int


def fetch(archive: Archive, root: Path) -> None:
    """Download an archive into a folder, unless it is there, check it and unpack it beside itself.

    What an interrupted download has brought stays as ``<file_name>.part`` and is continued by the next call. An archive
    that a user has put into ``root`` is checked and unpacked without a network. Its contents appear in ``root`` when
    all is unpacked, and the archive is kept. Processes that fetch the same one wait for each other.

    Args:
        archive: what to download.
        root: the folder; made if it is missing.

    Raises:
        InputError: if the archive cannot be reached or comes only in part, its checksum is wrong, it would write
            outside of ``root``, or the disk is full or cannot be written; nothing is unpacked then.
    """
    path = root / archive.file_name
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / f".{archive.file_name}.lock"):
            if path.exists():
                _check(path, archive, "delete it to have it downloaded again")
            else:
                _download(archive, path)
            _unpack(path)
    except OSError as error:
        raise InputError(f"cannot write {str(root)!r}: {error}") from error


def _explain_by_hand(archive: Archive, path: Path) -> str:
    size = tqdm.format_sizeof(archive.size, "B")
    return f"download {archive.url} ({size}) yourself, to {str(path)!r}, and run this again"


def _download(archive: Archive, path: Path) -> None:
    """Download the rest of a file, in as many connections as it takes, and rename it once its checksum is right."""
    part = path.with_name(f"{path.name}.part")
    if part.exists() and part.stat().st_size > archive.size:
        part.unlink()
    with part.open("ab") as file, _bar(archive.size, f"Downloading {path.name}") as bar:
        failures, reached = 0, False
        while (there := file.tell()) < archive.size:
            bar.n = there
            with _ensure_space(path.parent, archive.size - there, "downloading"):
                try:
                    with _connect(archive, there) as response:
                        reached = True
                        _receive(archive, response, file, bar)
                    reason = "the connection was closed"
                except HTTPError as error:
                    reason, reached = str(error), True
                    if error.code == 416:  # the part that is there is not the beginning of the server's file
                        _empty(file)
                    elif error.code < 500 and error.code not in (408, 429):
                        raise InputError(
                            f"{archive.url} is refused ({reason}); {_explain_by_hand(archive, path)}"
                        ) from error
                except _Broken as error:
                    reason = str(error)
                    if not reached:
                        raise InputError(
                            f"cannot reach {urlsplit(archive.url).netloc} ({reason}); without a network, "
                            f"{_explain_by_hand(archive, path)}"
                        ) from error
                file.flush()
            failures = 0 if file.tell() > there else failures + 1
            if failures == PATIENCE:
                raise InputError(
                    f"{archive.url} broke off ({reason}): {tqdm.format_sizeof(file.tell(), 'B')} of "
                    f"{tqdm.format_sizeof(archive.size, 'B')} are in {str(part)!r}; run this again to go on from there"
                )
            if file.tell() < archive.size:
                time.sleep(PAUSE * 2**failures)
    try:
        _check(part, archive, "run this again to download it anew; if that does not help, the published file changed")
    except InputError:
        part.unlink()
        raise
    os.replace(part, path)


class _Broken(Exception):
    """The connection could not be made, or did not last."""


def _connect(archive: Archive, start: int) -> HTTPResponse:
    """Ask for the bytes from ``start`` on.

    Raises:
        HTTPError: if the server refuses.
        _Broken: if there is no answer.
    """
    headers = {"User-Agent": "divconq_pl", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    try:
        response: HTTPResponse = urlopen(Request(archive.url, headers=headers), timeout=TIMEOUT)
    except HTTPError:
        raise
    except (OSError, HTTPException) as error:
        raise _Broken(error.reason if isinstance(error, URLError) else error) from error
    return response


def _receive(archive: Archive, response: HTTPResponse, file: BinaryIO, bar: tqdm[None]) -> None:
    """Append what arrives; start again where the server does not continue.

    Raises:
        InputError: if it is not the file that was published.
        _Broken: if the connection breaks.
    """
    continued, _, total = response.headers.get("Content-Range", "").partition("/")
    announced = total if response.status == 206 else response.headers.get("Content-Length", "")
    if announced.isdecimal() and int(announced) != archive.size:
        raise InputError(
            f"{archive.url} has {announced} bytes, but the published file has {archive.size}; find that one "
            f"elsewhere and save it as {file.name.removesuffix('.part')!r}"
        )
    if response.status == 206 and not continued.startswith(f"bytes {file.tell()}-"):
        _empty(file)
        raise _Broken(f"the server continued at {continued!r}")
    if response.status != 206:
        _empty(file)
    bar.n = file.tell()
    while missing := archive.size - file.tell():
        try:
            chunk = response.read(min(_CHUNK, missing))
        except (OSError, HTTPException) as error:
            raise _Broken(error) from error
        if not chunk:
            return
        file.write(chunk)
        bar.update(len(chunk))


def _empty(file: BinaryIO) -> None:
    file.seek(0)
    file.truncate()


def _check(file: Path, archive: Archive, remedy: str) -> None:
    """Compare size and checksum.

    Raises:
        InputError: if one differs; it ends with ``remedy``.
    """
    if (size := file.stat().st_size) != archive.size:
        raise InputError(f"{str(file)!r} has {size} bytes, but the published file has {archive.size}; {remedy}")
    digest = hashlib.md5(usedforsecurity=False)
    with file.open("rb") as content, _bar(size, f"Checking {archive.file_name}") as bar:
        while chunk := content.read(_CHUNK):
            digest.update(chunk)
            bar.update(len(chunk))
    if digest.hexdigest() != archive.md5:
        raise InputError(f"{str(file)!r} has the MD5 sum {digest.hexdigest()} in place of {archive.md5}; {remedy}")


def _unpack(path: Path) -> None:
    """Unpack an archive beside itself: first into a folder of its own, then all at once.

    Raises:
        InputError: if a member would lie or lead outside, or is neither file, folder nor link; or the disk is full.
    """
    if not path.name.endswith(_TAR + _ZIP):
        return
    temporary = path.with_name(f".{path.name}.unpacking")
    shutil.rmtree(temporary, ignore_errors=True)  # left by a process that was killed
    try:
        temporary.mkdir()
        (_unpack_zip if path.name.endswith(_ZIP) else _unpack_tar)(path, temporary)
        _move(temporary, path.parent)
    except (tarfile.TarError, zipfile.BadZipFile) as error:
        raise InputError(f"{str(path)!r} cannot be unpacked: {error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _unpack_tar(path: Path, folder: Path) -> None:
    with tarfile.open(path) as archive:
        members = archive.getmembers()
        has_filter = hasattr(tarfile, "data_filter")  # from Python 3.10.12 on
        for member in members:
            is_link = member.issym() or member.islnk()
            _refuse_unless(member.isreg() or member.isdir() or (is_link and has_filter), path, member.name)
        size = sum(member.size for member in members)
        with _ensure_space(folder, size, "unpacking"), _bar(size, f"Unpacking {path.name}") as bar:
            for member in members:
                if has_filter:
                    archive.extract(member, folder, filter="data")  # refuses links that lead outside
                else:
                    member.mode = 0o755 if member.isdir() else 0o644
                    archive.extract(member, folder)
                bar.update(member.size)


def _unpack_zip(path: Path, folder: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        for member in members:
            kind = stat.S_IFMT(member.external_attr >> 16)
            _refuse_unless(kind in (0, stat.S_IFREG, stat.S_IFDIR), path, member.filename)
        size = sum(member.file_size for member in members)
        with _ensure_space(folder, size, "unpacking"), _bar(size, f"Unpacking {path.name}") as bar:
            for member in members:
                archive.extract(member, folder)
                bar.update(member.file_size)


def _refuse_unless(kind_is_safe: bool, path: Path, name: str) -> None:
    parts = PureWindowsPath(name)  # takes both slashes for separators
    if not kind_is_safe or parts.anchor or ".." in parts.parts:
        raise InputError(
            f"{str(path)!r} has the member {name!r}, which is neither a file nor a folder, or would lie outside; "
            "the archive is not unpacked"
        )


def _move(source: Path, target: Path) -> None:
    """Rename what is in a folder into another; folders that are there already keep their other files."""
    for entry in source.iterdir():
        there = target / entry.name
        if entry.is_dir() and not entry.is_symlink() and there.is_dir():
            _move(entry, there)
        else:
            os.replace(entry, there)


@contextmanager
def _ensure_space(folder: Path, needed: int, doing: str) -> Iterator[None]:
    """Refuse what will not fit on the disk, before it is tried or when the disk runs full."""
    free = shutil.disk_usage(folder).free
    message = f"{doing} needs {tqdm.format_sizeof(needed, 'B')} on the disk of {str(folder)!r}, but "
    if free < needed:
        raise InputError(f"{message}{tqdm.format_sizeof(free, 'B')} are free; make room and run this again")
    try:
        yield
    except OSError as error:
        if error.errno not in _DISK_FULL:
            raise
        raise InputError(f"{message}it is full; make room and run this again") from error


def _bar(total: int, description: str) -> tqdm[None]:
    return tqdm(total=total, desc=description, unit="B", unit_scale=True, disable=None)
