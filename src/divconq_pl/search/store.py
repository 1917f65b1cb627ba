"""The table of an index: one row for each image, in one SQLite file that changes as a whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import random
import sqlite3
import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from divconq_pl.data.listing import Found
from divconq_pl.errors import InputError

FILE = "images.sqlite"
VERSION = 1
BLOCK = 65_536
"""Rows that are read at once."""

_SCHEMA = """
CREATE TABLE images (id INTEGER PRIMARY KEY AUTOINCREMENT, path BLOB, size INTEGER, modified INTEGER, vector BLOB);
CREATE INDEX by_file ON images (path, size, modified);
CREATE TABLE gone (id INTEGER PRIMARY KEY);
CREATE TABLE about (state TEXT);
"""


class Model(NamedTuple):
    """What made the embeddings of an index.

    Attributes:
        checksum: of its file, or any text that no other model has.
        path: where it is, for messages and to load it again.
        flip: whether each embedding is the mean over the image and its mirror image.
    """

    checksum: str
    path: str = ""
    flip: bool = False


class Coarse(NamedTuple):
    """The files of inverted lists.

    Attributes:
        name: of the files.
        parts: how many there are.
        until: the largest number of an image in them.
    """

    name: str
    parts: int
    until: int


class State(NamedTuple):
    """What holds for an index as a whole.

    Attributes:
        root: folder of the images.
        model: what made the embeddings.
        until: images of a larger number wait for the end of a build.
        total: how many images there are.
        coarse: the inverted lists, where there are so many images.
    """

    root: str
    model: Model
    until: int = 0
    total: int = 0
    coarse: Coarse | None = None


class Store:
    """The rows of an index.

    Images up to the number ``state.until`` are in the index. Those above were embedded by a build that has not ended;
    numbers are never given twice.

    Args:
        folder: of the index.
        writable: False opens it for reading, also where nothing can be written.

    Raises:
        InputError: if there is none, or it cannot be read.
    """

    def __init__(self, folder: Path, *, writable: bool = False) -> None:
        self.path = folder / FILE
        is_new = not self.path.is_file()
        if is_new and not writable:
            raise InputError(f"index={str(folder)!r} holds no index; build it with checkpoint=PATH images=FOLDER")
        with self._translating():
            # A reader, too, may have to take back what a killed build was about to write.
            mode = "rwc" if writable else "rw" if os.access(self.path, os.W_OK) else "ro"
            uri = f"{self.path.absolute().as_uri()}?mode={mode}"
            self._rows = sqlite3.connect(uri, uri=True, check_same_thread=False, isolation_level="IMMEDIATE")
            weakref.finalize(self, self._rows.close)  # of an index that nobody closes
            if writable and not self._fetch("SELECT 1 FROM sqlite_master"):
                self._rows.execute("PRAGMA page_size = 16384")  # or an embedding of 512 numbers would fill half a page
                self._rows.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {VERSION}; COMMIT;")
        version = self._fetch_number("PRAGMA user_version")
        if version != VERSION:
            raise InputError(
                f"index={str(folder)!r} is of version {version}, and this divconq-pl reads version {VERSION}; build it "
                "again in another folder"
            )

    def close(self) -> None:
        """Close the file."""
        self._rows.close()

    def read_state(self) -> State | None:
        """Return what holds for the index; None before its first build has begun."""
        found = self._fetch("SELECT state FROM about")
        if not found:
            return None
        values = json.loads(found[0][0])
        values["model"] = Model(*values["model"])
        values["coarse"] = values["coarse"] and Coarse(*values["coarse"])
        return State(**values)

    def begin(self, state: State) -> None:
        """Note what a first build is about, without rows of one that was about something else."""
        with self._changing() as rows:
            rows.execute("DELETE FROM images")
            self._write_state(state)

    def compare(self, files: Iterable[Found]) -> int:
        """Take a listing of the files as they are now, and return how many of them are to be embedded."""
        with self._changing() as rows:
            rows.execute(
                "CREATE TEMP TABLE found (path, size, modified, PRIMARY KEY (path, size, modified)) WITHOUT ROWID"
            )
            rows.executemany("INSERT INTO found VALUES (?, ?, ?)", files)
            rows.execute(
                "CREATE TEMP TABLE missing AS SELECT path, size, modified FROM found WHERE NOT EXISTS (SELECT 1 FROM "
                "images i WHERE (i.path, i.size, i.modified) = (found.path, found.size, found.modified))"
            )
        return self._fetch_number("SELECT count(*) FROM missing")

    def count_found(self, until: int) -> tuple[int, int]:
        """Return how many files were found, and how many of their paths are in the index, which ends at a number."""
        known = "WHERE EXISTS (SELECT 1 FROM images i WHERE i.path = found.path AND i.id <= ?)"
        found = "SELECT count(*) FROM found"
        return self._fetch_number(found), self._fetch_number(f"{found} {known}", until)

    def missing(self, size: int) -> Iterator[list[Found]]:
        """Yield the files that are to be embedded, so many at a time."""
        with self._translating():
            rows = self._rows.execute("SELECT path, size, modified FROM missing ORDER BY rowid")
            while files := rows.fetchmany(size):
                yield [Found(*file) for file in files]

    def add(self, files: Sequence[Found], vectors: Tensor) -> None:
        """Add embedded images, which wait for the end of the build."""
        values = vectors.numpy().astype("<f4", copy=False)
        with self._changing() as rows:
            rows.executemany(
                "INSERT INTO images (path, size, modified, vector) VALUES (?, ?, ?, ?)",
                ((*file, vector.tobytes()) for file, vector in zip(files, values, strict=True)),
            )

    def finish(self, state: State) -> tuple[State, tuple[int, int, int]]:
        """Make what was found the content of the index: with what was added, without what is gone.

        Args:
            state: what holds for the index; its numbers are brought up to date.

        Returns:
            The new state, and how many images were added, changed and removed.
        """
        old = state.until
        gone = (
            "FROM images WHERE NOT EXISTS (SELECT 1 FROM found f WHERE (f.path, f.size, f.modified) = "
            "(images.path, images.size, images.modified))"
        )
        lost = self._fetch_number(f"SELECT count(*) {gone} AND id <= ?", old)
        again = f"SELECT count(*) {gone} AND id <= ?1 AND EXISTS (SELECT 1 FROM images j WHERE j.path = images.path"
        changed = self._fetch_number(f"{again} AND j.id > ?1)", old)
        with self._changing() as rows:
            rows.execute(f"INSERT INTO gone SELECT id {gone}")
            rows.execute(f"DELETE {gone}")
            new = self.count_after(old)
            until = self._fetch_number("SELECT coalesce(max(id), 0) FROM images")
            state = state._replace(total=state.total + new - lost, until=max(old, until))
            self._write_state(state)
        return state, (new - changed, changed, lost - changed)

    def set_coarse(self, state: State, coarse: Coarse | None) -> State:
        """Note new inverted lists, made of all images that are in the index, or that there are none."""
        state = state._replace(coarse=coarse)
        with self._changing() as rows:
            rows.execute("DELETE FROM gone")
            self._write_state(state)
        return state

    def count_after(self, number: int) -> int:
        """Return how many images have larger numbers."""
        return self._fetch_number("SELECT count(*) FROM images WHERE id > ?", number)

    def read_dim(self) -> int:
        """Return the width of the embeddings; 0 where there are none."""
        first = "SELECT vector FROM images LIMIT 1"
        return self._fetch_number(f"SELECT coalesce(max(length(vector)), 0) / 4 FROM ({first})")

    def list_gone(self) -> list[int]:
        """Return the numbers of images that are in the inverted lists and not in the index any more."""
        return [number for (number,) in self._fetch("SELECT id FROM gone")]

    def draw(self, count: int, until: int) -> dict[int, tuple[Path, Tensor]]:
        """Read about so many images up to a number, at random."""
        numbers = random.sample(range(1, until + 1), min(until, 2 * count))
        return self.read(numbers, count)

    def blocks(self, first: int, until: int) -> Iterator[tuple[np.ndarray, Tensor]]:
        """Yield numbers (n,) and embeddings (n, d) of the images from one number on until another."""
        block = "SELECT id, vector FROM images WHERE id BETWEEN ? AND ? ORDER BY id LIMIT ?"
        while rows := self._fetch(block, first, until, BLOCK):
            yield np.array([number for number, _ in rows]), _to_tensor([vector for _, vector in rows])
            first = rows[-1][0] + 1

    def read(self, numbers: Iterable[int], limit: int | None = None) -> dict[int, tuple[Path, Tensor]]:
        """Return path below the folder and embedding (d,) of images, by their numbers.

        Args:
            numbers: of the images; those that are gone are passed over.
            limit: how many to return at most.
        """
        found: dict[int, tuple[Path, Tensor]] = {}
        for number in numbers:
            if len(found) == limit:
                break
            for path, vector in self._fetch("SELECT path, vector FROM images WHERE id = ?", number):
                found[number] = Path(os.fsdecode(path)), _to_tensor([vector])[0]
        return found

    def _fetch(self, statement: str, *values: int) -> list[Any]:
        with self._translating():
            return self._rows.execute(statement, values).fetchall()

    def _fetch_number(self, statement: str, *values: int) -> int:
        ((number,),) = self._fetch(statement, *values)
        return int(number)

    def _write_state(self, state: State) -> None:
        self._rows.execute("DELETE FROM about")
        self._rows.execute("INSERT INTO about VALUES (?)", [json.dumps(state._asdict())])

    @contextmanager
    def _changing(self) -> Iterator[sqlite3.Connection]:
        """Change everything or, where something fails, nothing."""
        with self._translating(), self._rows:
            yield self._rows

    @contextmanager
    def _translating(self) -> Iterator[None]:
        """Say what SQLite reports as a disk's or the input's fault."""
        try:
            yield
        except sqlite3.Error as error:
            text = str(error)
            codes = {"full": errno.ENOSPC, "disk I/O": errno.EIO, "readonly": errno.EROFS, "unable": errno.EACCES}
            for word, code in codes.items():
                if word in text:
                    raise OSError(code, f"cannot be written or read: {text}", str(self.path)) from error
            raise InputError(
                f"{str(self.path)!r} cannot be used ({text}); remove the folder of the index and build it again"
            ) from error


def read_state(folder: Path) -> State | None:
    """Return what holds for the index in a folder; None where there is none, not even one that was begun."""
    if not (folder / FILE).is_file():
        return None
    with closing(Store(folder)) as store:
        return store.read_state()


def _to_tensor(vectors: Sequence[bytes]) -> Tensor:
    rows = np.frombuffer(b"".join(vectors), "<f4").reshape(len(vectors), -1)
    return torch.from_numpy(rows.astype(np.float32))
