"""Backbones: networks that turn images into the features the embedding layer and the clustering work on."""

from typing import TYPE_CHECKING

from divconq_pl.extras import require_packages
from divconq_pl.lazy import import_when_used

require_packages("divconq_pl.backbones", "app", "torchvision")

if TYPE_CHECKING:
    from divconq_pl.backbones.backbone import Backbone as Backbone
    from divconq_pl.backbones.from_scratch import small as small
    from divconq_pl.backbones.from_timm import timm_backbone as timm_backbone
    from divconq_pl.backbones.from_timm import timm_preprocessing as timm_preprocessing
    from divconq_pl.backbones.from_torchvision import resnet50 as resnet50
    from divconq_pl.backbones.from_torchvision import torchvision_backbone as torchvision_backbone
    from divconq_pl.backbones.from_torchvision import torchvision_preprocessing as torchvision_preprocessing
    from divconq_pl.backbones.packaged import efficientnet_lite0 as efficientnet_lite0
else:
    __getattr__, __dir__, __all__ = import_when_used(__name__)
