"""The program divconq-search: index a folder of images, find the nearest to an image, look around on a local page."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from omegaconf import DictConfig

from divconq_pl.app.checks.values import check_values
from divconq_pl.app.comparison import find_checkpoints
from divconq_pl.data.decoding import UnreadableImageError, printable
from divconq_pl.errors import InputError
from divconq_pl.inference import load
from divconq_pl.search import ImageIndex, Model, SearchServer
from divconq_pl.search.building import Embed, check_model, update_index
from divconq_pl.search.page import draw_neighbours
from divconq_pl.search.store import State, read_state

HINTS = {
    "index": str,
    **dict.fromkeys(("images", "checkpoint", "draw", "device"), str | None),
    "query": str | list[str] | None,
    **dict.fromkeys(("k", "port", "batch_size"), int),
    **dict.fromkeys(("rerank", "serve"), bool),
    "flip": bool | None,
}
"""What the keys of conf/search.yaml hold."""


def main(cfg: DictConfig) -> None:
    """Bring an index up to date, and search in it: for images that are named, or on a page.

    Args:
        cfg: conf/search.yaml, as the user changed it.
    """
    check_config(cfg)
    folder = Path(cfg.index).expanduser()
    queries = [Path(query).expanduser() for query in ([cfg.query] if isinstance(cfg.query, str) else cfg.query or ())]
    searches = bool(queries) or cfg.serve
    builds = cfg.images is not None or not searches
    state = read_state(folder)
    root = find_root(cfg, state)
    if not builds:
        ImageIndex(folder)  # says what is wrong with it before a network is loaded
    embed, model = load_model(cfg, state)
    if builds:
        update(folder, root, embed, model)
    if not searches:
        print(f"look for an image with: divconq-search index={cfg.index} query=IMAGE, or on a page with serve=true")
        return
    index = ImageIndex(folder)
    check_model(folder, index.model, model)
    if queries:
        answer(cfg, index, embed, queries)
    if cfg.serve:
        serve(index, embed, cfg.port)


def check_config(cfg: DictConfig) -> None:
    """Refuse values that cannot work, before anything is loaded.

    Raises:
        InputError: it names the key and the value.
    """
    check_values(cfg, **HINTS)
    for key in ("k", "batch_size"):
        if cfg[key] < 1:
            raise InputError(f"{key}={cfg[key]} must be 1 or more")


def find_root(cfg: DictConfig, state: State | None) -> Path:
    """Return the folder of images that is named, or else that of the index.

    Raises:
        InputError: if there is neither.
    """
    if cfg.images is not None:
        return Path(cfg.images).expanduser()
    if state is None:
        raise InputError(f"index={cfg.index!r} holds no index; build it with checkpoint=PATH images=FOLDER")
    return Path(state.root)


def load_model(cfg: DictConfig, state: State | None) -> tuple[Embed, Model]:
    """Load the network that is named, or else the one that the index was made with.

    Raises:
        InputError: if there is neither, or it cannot be used.
    """
    if cfg.checkpoint is not None:
        path, *others = find_checkpoints(cfg.checkpoint)
        if others:
            raise InputError(f"checkpoint={cfg.checkpoint!r} leads to {1 + len(others)} checkpoints; name one of them")
    elif state is None:
        raise InputError("no checkpoint given; a new index needs checkpoint=PATH, a file or the folder of a run")
    elif not (path := Path(state.model.path)).is_file():
        raise InputError(f"the checkpoint {str(path)!r} of the index is gone; name a copy of it with checkpoint=PATH")
    flip = cfg.flip if cfg.flip is not None else state is not None and state.model.flip
    embedder = load(path, cfg.device)
    embed = partial(embedder.embed, batch_size=cfg.batch_size, flip=flip)
    return embed, Model(embedder.fingerprint, str(path.absolute()), flip)


def update(folder: Path, root: Path, embed: Embed, model: Model) -> None:
    """Bring an index up to date, and say what that did."""
    changes = update_index(folder, root, embed, model)
    print(
        f"{printable(str(folder))} holds {changes.total:,} images of {printable(str(root))}: "
        f"{changes.added:,} added, {changes.changed:,} changed, {changes.removed:,} removed"
    )


def answer(cfg: DictConfig, index: ImageIndex, embed: Embed, queries: list[Path]) -> None:
    """Print and draw the images that are nearest to others.

    Raises:
        InputError: if one cannot be read.
    """
    try:
        embeddings = embed([str(query) for query in queries])
    except UnreadableImageError as error:
        raise InputError(str(error)) from error  # which is about the query, not about a data set
    found = index.query(embeddings, cfg.k, rerank=cfg.rerank)
    for query, matches in zip(queries, found, strict=True):
        print(f"nearest to {printable(str(query))}, by distance (0 to 2){', re-ranked' if cfg.rerank else ''}:")
        for match in matches:
            print(f"  {match.distance:.4f}  {printable(str(match.path))}")
    if cfg.draw is not None:
        print(f"drawn in {draw_neighbours(cfg.draw, queries, found, index.root)}")


def serve(index: ImageIndex, embed: Embed, port: int) -> None:
    """Serve the page of an index until Ctrl-C."""
    with SearchServer(index, embed, port) as server:
        where = f"{server.url} (from this machine only; Ctrl-C ends it)"
        print(f"{len(index):,} images can be searched at {where}", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print()
