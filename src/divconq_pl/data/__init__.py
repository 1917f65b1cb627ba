"""Data sets for retrieval, and the data module that serves them."""

from divconq_pl.data.datamodule import RetrievalDataModule
from divconq_pl.data.dataset import (
    ArrayDataset,
    FileDataset,
    RetrievalDataset,
    Splits,
    SplitSource,
    hold_out,
    split_classes,
)
from divconq_pl.data.glyphs import Glyphs
from divconq_pl.data.image_folder import ImageFolder
from divconq_pl.data.preprocessing import Preprocessing
from divconq_pl.data.transforms import glyph_test, glyph_train, image_test, image_train

__all__ = [
    "ArrayDataset",
    "FileDataset",
    "Glyphs",
    "ImageFolder",
    "Preprocessing",
    "RetrievalDataModule",
    "RetrievalDataset",
    "SplitSource",
    "Splits",
    "glyph_test",
    "glyph_train",
    "hold_out",
    "image_test",
    "image_train",
    "split_classes",
]
