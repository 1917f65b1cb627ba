"""An index of a folder of images: which of them are nearest to an image."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from divconq_pl.errors import InputError
from divconq_pl.metrics.neighbours import check_unit_rows
from divconq_pl.metrics.reidentification import rerank as compute_reranked
from divconq_pl.search import nearest
from divconq_pl.search.building import Changes, Embed, update_index
from divconq_pl.search.nearest import Answer, Flat, Inverted, Searcher, merge
from divconq_pl.search.store import Model, State, Store

CANDIDATES = 100
"""How many of the nearest are re-ranked."""


class Match(NamedTuple):
    """An image that was found.

    Attributes:
        number: of the image in the index; no other image ever gets it.
        path: of its file.
        distance: Euclidean, of embeddings of length 1: from 0, the same, to 2.
    """

    number: int
    path: Path
    distance: float


class ImageIndex:
    """Find the images of a folder that are nearest to others.

    Up to a million images each query is compared with all, exactly; beyond, with those of the nearest inverted lists
    of faiss (:data:`~divconq_pl.search.nearest.MAX_FLAT`). Threads may share it, and it notices what a build changes.

    Args:
        folder: of the index, as :meth:`build` left it.

    Raises:
        InputError: if there is none, or its first build has not ended.

    Example:
        >>> index = ImageIndex.build("index", "photos", embed, Model("resnet50"))  # doctest: +SKIP
        >>> for match in index.query(embed(["query.jpg"]), k=5)[0]:  # doctest: +SKIP
        ...     print(match.distance, match.path)
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).expanduser()
        self._store = Store(self.folder)
        self._lock = threading.RLock()
        self._read: State | None = None
        self.state  # noqa: B018 - says what is wrong with it now

    @classmethod
    def build(cls, folder: str | Path, images: str | Path, embed: Embed, model: Model) -> ImageIndex:
        """Build an index, or bring it up to date, and open it; see :func:`.update_index`."""
        update_index(folder, images, embed, model)
        return cls(folder)

    def update(self, embed: Embed) -> Changes:
        """Bring the index up to date with its folder of images; see :func:`.update_index`.

        Args:
            embed: computes embeddings with the model that the index was made with.
        """
        return update_index(self.folder, self.root, embed, self.model)

    @property
    def state(self) -> State:
        """What holds for the index now."""
        state = self._store.read_state()
        if state is None or not state.until:
            raise InputError(
                f"the first build of index={str(self.folder)!r} has not ended; start it again, and it goes on"
            )
        return state

    @property
    def root(self) -> Path:
        """The folder of the images."""
        return Path(self.state.root)

    @property
    def model(self) -> Model:
        """What the embeddings were made with."""
        return self.state.model

    def __len__(self) -> int:
        return self.state.total

    def query(self, embeddings: Tensor, k: int = 10, *, rerank: bool = False) -> list[list[Match]]:
        """Find the nearest images.

        Args:
            embeddings: of the queries, shape (Q, d), from the model of the index.
            k: how many to find for each.
            rerank: order the nearest by k-reciprocal re-ranking, which puts images first that have the same neighbours
                as the query. Distances are still those of the embeddings.

        Returns:
            For each query the images, nearest first; all of them, where there are fewer than k.

        Raises:
            InputError: if shapes do not fit, or k is below 1.
        """
        rows = check_unit_rows(embeddings, "queries").cpu()
        _check_k(k)
        with self._lock:
            dim = self._store.read_dim()
            if rows.shape[1] != dim:
                raise InputError(f"embeddings of width {rows.shape[1]} do not fit an index of width {dim}")
            return [self._find(row, k, rerank) for row in rows]

    def query_own(self, number: int, k: int = 10, *, rerank: bool = False) -> list[Match]:
        """Find the images that are nearest to an image of the index, other than itself.

        Args:
            number: of the image.
            k: how many to find.
            rerank: as for :meth:`query`.

        Raises:
            InputError: if it is not in the index, or k is below 1.
        """
        _check_k(k)
        with self._lock:
            found = self.query(self._read_one(number)[1][None], k + 1, rerank=rerank)[0]
        return [match for match in found if match.number != number][:k]

    def find_path(self, number: int) -> Path:
        """Return the file of an image.

        Raises:
            InputError: if it is not in the index.
        """
        with self._lock:
            return self.root / self._read_one(number)[0]

    def draw_some(self, count: int) -> list[int]:
        """Return the numbers of so many images, drawn at random."""
        with self._lock:
            return list(self._store.draw(count, self.state.until))

    def _read_one(self, number: int) -> tuple[Path, Tensor]:
        found = self._store.read([number])
        if not found:
            raise InputError(f"there is no image {number} in the index (any more)")
        return found[number]

    def _find(self, row: Tensor, k: int, rerank: bool) -> list[Match]:
        _, numbers = self._search(row[None], max(k, CANDIDATES) if rerank else k)
        known = self._store.read([number for number in numbers[0].tolist() if number >= 0])
        if not known:
            return []
        vectors = torch.stack([vector for _, vector in known.values()])
        distances = (vectors - row).norm(dim=1)
        order = compute_reranked(row[None], vectors)[0] if rerank else distances
        root, entries = self.root, list(known.items())
        best = order.argsort(stable=True)[:k].tolist()
        return [Match(entries[i][0], root / entries[i][1][0], float(distances[i])) for i in best]

    def _search(self, queries: Tensor, k: int) -> Answer:
        state = self.state
        if self._read != state:
            self._searchers, self._read = self._prepare(state), state
        return merge([one.search(queries, k) for one in self._searchers], len(queries), k)

    def _prepare(self, state: State) -> list[Searcher]:
        coarse = state.coarse if nearest.has_faiss() else None
        if coarse is None:
            return [Flat(lambda: self._store.blocks(0, state.until), keep=state.total <= nearest.MAX_FLAT)]
        lists = Inverted(nearest.name_parts(self.folder / coarse.name, coarse.parts), self._store.list_gone())
        return [lists, Flat(lambda: self._store.blocks(coarse.until + 1, state.until))]


def _check_k(k: int) -> None:
    if k < 1:
        raise InputError(f"k={k} asks for no neighbours; use 1 or more")
