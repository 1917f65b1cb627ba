"""Data sets for retrieval, and the data module that serves them."""

from typing import TYPE_CHECKING

from divconq_pl.extras import require_packages
from divconq_pl.lazy import import_when_used

require_packages("divconq_pl.data", "app", "torchvision", "PIL", "matplotlib", "filelock")

if TYPE_CHECKING:
    from divconq_pl.backbones.preprocessing import Preprocessing as Preprocessing
    from divconq_pl.data.cache import CachedDataset as CachedDataset
    from divconq_pl.data.cache import cache_pixels as cache_pixels
    from divconq_pl.data.cars196 import Cars196 as Cars196
    from divconq_pl.data.csv_file import CsvFile as CsvFile
    from divconq_pl.data.cub200 import CUB200 as CUB200
    from divconq_pl.data.datamodule import RetrievalDataModule as RetrievalDataModule
    from divconq_pl.data.dataset import ArrayDataset as ArrayDataset
    from divconq_pl.data.dataset import FileDataset as FileDataset
    from divconq_pl.data.dataset import RetrievalDataset as RetrievalDataset
    from divconq_pl.data.dataset import Splits as Splits
    from divconq_pl.data.dataset import SplitSource as SplitSource
    from divconq_pl.data.evaluation import EvaluationDataModule as EvaluationDataModule
    from divconq_pl.data.glyphs import Glyphs as Glyphs
    from divconq_pl.data.hugging_face import HuggingFace as HuggingFace
    from divconq_pl.data.image_folder import ImageFolder as ImageFolder
    from divconq_pl.data.inshop import InShop as InShop
    from divconq_pl.data.market1501 import Market1501 as Market1501
    from divconq_pl.data.sides import Sides as Sides
    from divconq_pl.data.sop import StanfordOnlineProducts as StanfordOnlineProducts
    from divconq_pl.data.splitting import hold_out as hold_out
    from divconq_pl.data.splitting import split_by_class as split_by_class
    from divconq_pl.data.splitting import split_classes as split_classes
    from divconq_pl.data.transforms import BatchTransform as BatchTransform
    from divconq_pl.data.transforms import CacheableTransform as CacheableTransform
    from divconq_pl.data.transforms import glyph_test as glyph_test
    from divconq_pl.data.transforms import glyph_train as glyph_train
    from divconq_pl.data.transforms import image_test as image_test
    from divconq_pl.data.transforms import image_train as image_train
    from divconq_pl.data.vehicle_id import VehicleID as VehicleID
else:
    __getattr__, __dir__, __all__ = import_when_used(__name__)
