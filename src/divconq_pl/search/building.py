"""Build an index of a folder of images, and bring it up to date with what was added, changed and removed since."""

from __future__ import annotations

import os
import uuid
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import torch
from filelock import FileLock, Timeout
from torch import Tensor
from tqdm import tqdm

from divconq_pl.data.decoding import UnreadableImageError, image_extensions, printable, read_rgb
from divconq_pl.data.listing import walk
from divconq_pl.data.samples import describe_passed_over, join_first
from divconq_pl.errors import InputError
from divconq_pl.metrics.neighbours import check_unit_rows
from divconq_pl.search import nearest
from divconq_pl.search.store import Coarse, Model, State, Store

Embed = Callable[[Sequence[Any]], Tensor]
"""From paths or images (Pillow) to embeddings (n, d); it raises UnreadableImageError for what cannot be read."""

CHUNK = 1024
"""Images between two moments that a killed build can go on from."""

_STALE = 0.1
"""New inverted lists are made when this share of the images has come or gone since."""


class Changes(NamedTuple):
    """What a build did.

    Attributes:
        added: images that are new in the index.
        changed: images that were embedded again, since their files are others.
        removed: images whose files are gone.
        total: how many images the index holds.
        unreadable: files that were left out, since they cannot be read.
    """

    added: int
    changed: int
    removed: int
    total: int
    unreadable: tuple[str, ...]


def update_index(folder: str | Path, images: str | Path, embed: Embed, model: Model) -> Changes:
    """Make an index what a folder of images is now; only new and changed files are embedded.

    A file is known by its path below the folder, its size and its time of change. Until all is done, whoever reads the
    index finds what was in it before; a build that was killed goes on where it was when it is started again. At most
    some hundred images and some ten thousand embeddings are in memory. Files that cannot be read are left out, with a
    warning.

    Args:
        folder: of the index; made if there is none.
        images: the folder of images, and folders in it.
        embed: computes embeddings.
        model: what it computes them with.

    Raises:
        InputError: if the index was made with another model or of other images, there is no image, or another build is
            at work.
    """
    folder, root = Path(folder).expanduser(), Path(images).expanduser().absolute()
    if not root.is_dir():
        next(walk(root, Counter()))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / "lock", timeout=0), closing(Store(folder, writable=True)) as store:
            return _Build(folder, store, root, embed, model).run()
    except Timeout:
        raise InputError(f"another build is at work in index={str(folder)!r}; wait until it has ended") from None


def check_model(folder: Path, made_with: Model, model: Model) -> None:
    """Refuse another model than that of an index: embeddings of two models cannot be compared.

    Raises:
        InputError: it names both.
    """
    if made_with.checksum != model.checksum:
        raise InputError(
            f"index={str(folder)!r} was made with {_describe(made_with)}, and {_describe(model)} is another model, "
            "whose embeddings cannot be compared with its own; use that one, or another folder for the index"
        )
    if made_with.flip != model.flip:
        was, now = (str(value).lower() for value in (made_with.flip, model.flip))
        raise InputError(
            f"index={str(folder)!r} was made with flip={was}, not flip={now}; leave flip out, or use another folder"
        )


def _describe(model: Model) -> str:
    return f"{model.path or 'the model'} ({model.checksum[:8]})"


class _Build:
    """One build, from the listing to the end."""

    def __init__(self, folder: Path, store: Store, root: Path, embed: Embed, model: Model) -> None:
        self.folder, self.store, self.root, self.embed = folder, store, root, embed
        state = store.read_state()
        if state is None or not (state.until or _is_same(state.model, model)):
            state = State(str(root), model)
            store.begin(state)
        check_model(folder, state.model, model)
        self.state = state._replace(root=str(root), model=model)

    def run(self) -> Changes:
        passed_over: Counter[str] = Counter()
        missing = self.store.compare(walk(self.root, passed_over))
        self._check_found(passed_over)
        unreadable = self._embed_missing(missing)
        self.state, changes = self.store.finish(self.state)
        self._sort_into_lists()
        return Changes(*changes, self.state.total, tuple(unreadable))

    def _check_found(self, passed_over: Counter[str]) -> None:
        found, known = self.store.count_found(self.state.until)
        said = describe_passed_over(passed_over)
        if not found:
            there = f" ({said})" if said else ""
            ends = " ".join(image_extensions())
            raise InputError(f"images={str(self.root)!r} holds no image{there}; images end in {ends}")
        if self.state.total and not known:
            raise InputError(
                f"none of the {self.state.total} images of index={str(self.folder)!r} is in "
                f"images={str(self.root)!r}; choose another folder for an index of these"
            )
        if said:
            warnings.warn(f"passed over in {str(self.root)!r}: {said}", stacklevel=5)

    def _embed_missing(self, missing: int) -> list[str]:
        unreadable: list[str] = []
        dim = self.store.read_dim()
        with tqdm(total=missing, desc="Embedding images", unit="image", disable=None if missing else True) as progress:
            for files in self.store.missing(CHUNK):
                paths = [str(self.root / os.fsdecode(file.path)) for file in files]
                vectors, bad = _embed_readable(self.embed, paths)
                unreadable += bad
                if vectors is not None:
                    kept = [file for file, path in zip(files, paths, strict=True) if path not in bad]
                    dim = dim or vectors.shape[-1]
                    if vectors.shape != (len(kept), dim):
                        raise InputError(
                            f"{len(kept)} images were embedded as {tuple(vectors.shape)}; give ({len(kept)}, {dim})"
                        )
                    self.store.add(kept, check_unit_rows(vectors.cpu(), "the embeddings"))
                progress.update(len(files))
        if unreadable:
            names = join_first([*map(printable, unreadable)])
            if len(unreadable) == missing and not self.state.total:
                raise InputError(f"none of the {missing} images of {str(self.root)!r} can be read: {names}")
            warnings.warn(f"{len(unreadable)} images cannot be read and are left out: {names}", stacklevel=5)
        return unreadable

    def _sort_into_lists(self) -> None:
        """Make new inverted lists where there are so many images and the old ones are stale; remove unused files."""
        state, coarse = self.state, self.state.coarse
        if state.total <= nearest.MAX_FLAT or not nearest.has_faiss():
            if coarse is not None:
                self.state = self.store.set_coarse(state, None)
        else:
            moved = self.store.count_after(coarse.until) + len(self.store.list_gone()) if coarse else state.total
            if moved > _STALE * state.total:
                name = f"{uuid.uuid4().hex}.ivf"
                drawn = self.store.draw(nearest.count_sample(state.total), state.until)
                sample = torch.stack([row for _, row in drawn.values()])
                blocks = self.store.blocks(0, state.until)
                parts = nearest.build_inverted(self.folder / name, sample, blocks, state.total)
                self.state = self.store.set_coarse(state, Coarse(name, parts, state.until))
        used = self.state.coarse.name if self.state.coarse else "none"
        for file in self.folder.glob("*.ivf*"):
            if not file.name.startswith(used):
                file.unlink()


def _is_same(one: Model, other: Model) -> bool:
    return (one.checksum, one.flip) == (other.checksum, other.flip)


def _embed_readable(embed: Embed, paths: Sequence[str]) -> tuple[Tensor | None, list[str]]:
    """Return the embeddings of the images that can be read, None if there are none, and the others."""
    try:
        return embed(paths), []
    except UnreadableImageError:
        bad = [path for path in paths if not _is_readable(path)]
        good = [path for path in paths if path not in bad]
        return embed(good) if good else None, bad


def _is_readable(path: str) -> bool:
    try:
        read_rgb(path)
    except UnreadableImageError:
        return False
    return True
