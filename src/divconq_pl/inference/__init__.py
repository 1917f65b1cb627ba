"""From a checkpoint back to a network that embeds images."""

from divconq_pl.extras import require_packages

require_packages("divconq_pl.inference", "app", "torchvision", "PIL")

from divconq_pl.inference.embedder import Embedder
from divconq_pl.inference.images import list_files
from divconq_pl.inference.loading import load

__all__ = ["Embedder", "list_files", "load"]
