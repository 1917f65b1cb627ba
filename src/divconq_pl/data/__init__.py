"""Data sets for retrieval, and the data module that serves them."""

from divconq_pl.extras import require_packages

require_packages("divconq_pl.data", "app", "torchvision", "PIL", "matplotlib", "filelock")

from divconq_pl.backbones.preprocessing import Preprocessing
from divconq_pl.data.cache import CachedDataset, cache_pixels
from divconq_pl.data.cars196 import Cars196
from divconq_pl.data.csv_file import CsvFile
from divconq_pl.data.cub200 import CUB200
from divconq_pl.data.datamodule import RetrievalDataModule
from divconq_pl.data.dataset import (
    ArrayDataset,
    FileDataset,
    RetrievalDataset,
    Splits,
    SplitSource,
)
from divconq_pl.data.evaluation import EvaluationDataModule
from divconq_pl.data.glyphs import Glyphs
from divconq_pl.data.hugging_face import HuggingFace
from divconq_pl.data.image_folder import ImageFolder
from divconq_pl.data.inshop import InShop
from divconq_pl.data.market1501 import Market1501
from divconq_pl.data.sides import Sides
from divconq_pl.data.sop import StanfordOnlineProducts
from divconq_pl.data.splitting import hold_out, split_by_class, split_classes
from divconq_pl.data.transforms import (
    BatchTransform,
    CacheableTransform,
    glyph_test,
    glyph_train,
    image_test,
    image_train,
)
from divconq_pl.data.vehicle_id import VehicleID

__all__ = [
    "CUB200",
    "ArrayDataset",
    "BatchTransform",
    "CacheableTransform",
    "CachedDataset",
    "Cars196",
    "CsvFile",
    "EvaluationDataModule",
    "FileDataset",
    "Glyphs",
    "HuggingFace",
    "ImageFolder",
    "InShop",
    "Market1501",
    "Preprocessing",
    "RetrievalDataModule",
    "RetrievalDataset",
    "Sides",
    "SplitSource",
    "Splits",
    "StanfordOnlineProducts",
    "VehicleID",
    "cache_pixels",
    "glyph_test",
    "glyph_train",
    "hold_out",
    "image_test",
    "image_train",
    "split_by_class",
    "split_classes",
]
