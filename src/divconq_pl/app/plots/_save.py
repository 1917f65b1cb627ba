"""A figure in a file."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from divconq_pl.files import write_atomically


def save_figure(figure: Figure, path: str | Path, *, dpi: int = 150) -> Path:
    """Save a figure as PNG, atomically.

    Args:
        figure: what to save.
        path: where the file goes; missing folders are made.
        dpi: pixels per inch.

    Returns:
        The path.
    """
    quick = {"compress_level": 1}
    return write_atomically(
        path, lambda file: figure.savefig(file, format="png", dpi=dpi, facecolor="white", pil_kwargs=quick)
    )
