"""The pages of a search: the one that is served, and the neighbours of images in one file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from divconq_pl.data.decoding import UnreadableImageError, printable, read_rgb
from divconq_pl.files import write_atomically
from divconq_pl.report.page import make_environment
from divconq_pl.report.thumbnails import encode
from divconq_pl.search.index import Match

_SIDE = 192


def draw_neighbours(path: str | Path, queries: Sequence[Path], found: Sequence[Sequence[Match]], root: Path) -> Path:
    """Write queries with their neighbours into one page that needs no other file.

    Args:
        path: where the page goes, atomically.
        queries: files of the queries.
        found: the neighbours of each.
        root: the folder of the index, below which neighbours are named.

    Returns:
        The path.
    """
    rows = [
        {
            "name": printable(str(query)),
            "picture": _encode_file(query),
            "matches": [
                {
                    "name": name_below(match.path, root),
                    "picture": _encode_file(match.path),
                    "distance": match.distance,
                }
                for match in matches
            ],
        }
        for query, matches in zip(queries, found, strict=True)
    ]
    text = render("neighbours.html", rows=rows, root=root)
    return write_atomically(path, text)


def name_below(path: Path, root: Path) -> str:
    """Name a file below a folder, with ``/`` on every system."""
    return printable(path.relative_to(root).as_posix())


def render(template: str, **values: object) -> str:
    """Render a page; all names in it are escaped."""
    environment = make_environment("divconq_pl.search")
    environment.filters["printable"] = lambda path: printable(str(path))
    return environment.get_template(template).render(**values)


def _encode_file(path: Path) -> str:
    """Return a small picture as a data URI; empty where the file is gone or damaged since it was indexed."""
    try:
        return encode(read_rgb(path), _SIDE)
    except UnreadableImageError:
        return ""
