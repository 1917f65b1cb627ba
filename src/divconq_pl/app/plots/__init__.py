"""Pictures of a run: what lies near what, what the clusters hold, and how the divisions grew.

Every function returns a ``matplotlib.figure.Figure`` without touching pyplot, so none needs a display or closes
another's figures; ``save_figure`` writes it.
"""

from __future__ import annotations

from divconq_pl.app.plots._save import save_figure
from divconq_pl.app.plots.curves import curves
from divconq_pl.app.plots.gains import gains
from divconq_pl.app.plots.gallery import gallery
from divconq_pl.app.plots.montage import montage
from divconq_pl.app.plots.tree import tree

__all__ = ["curves", "gains", "gallery", "montage", "save_figure", "tree"]
