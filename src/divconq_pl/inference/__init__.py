"""From a checkpoint back to a network that embeds images."""

from typing import TYPE_CHECKING

from divconq_pl.extras import require_packages
from divconq_pl.lazy import import_when_used

require_packages("divconq_pl.inference", "app", "torchvision", "PIL")

if TYPE_CHECKING:
    from divconq_pl.inference.embedder import Embedder as Embedder
    from divconq_pl.inference.images import list_files as list_files
    from divconq_pl.inference.loading import load as load
else:
    __getattr__, __dir__, __all__ = import_when_used(__name__)
