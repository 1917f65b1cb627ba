"""Backbones: networks that turn images into the features the embedding layer and the clustering work on."""

from divconq_pl.extras import require_packages

require_packages("divconq_pl.backbones", "app", "torchvision")

from divconq_pl.backbones.backbone import Backbone
from divconq_pl.backbones.from_scratch import small
from divconq_pl.backbones.from_timm import timm_backbone, timm_preprocessing
from divconq_pl.backbones.from_torchvision import resnet50, torchvision_backbone, torchvision_preprocessing
from divconq_pl.backbones.packaged import efficientnet_lite0

__all__ = [
    "Backbone",
    "efficientnet_lite0",
    "resnet50",
    "small",
    "timm_backbone",
    "timm_preprocessing",
    "torchvision_backbone",
    "torchvision_preprocessing",
]
