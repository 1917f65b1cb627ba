"""Search in a folder of images: an index of their embeddings, its nearest images, and a page to look around in it.

It takes the extra ``app``: ``pip install "divconq-pl[cpu]"`` or ``[gpu]``, which bring faiss, too.
"""

from divconq_pl.extras import require_packages

require_packages("divconq_pl.search", "app", "filelock", "jinja2", "PIL", "torchvision")

from divconq_pl.search.building import Changes, Embed
from divconq_pl.search.index import ImageIndex, Match
from divconq_pl.search.server import SearchServer
from divconq_pl.search.store import Model

__all__ = ["Changes", "Embed", "ImageIndex", "Match", "Model", "SearchServer"]
