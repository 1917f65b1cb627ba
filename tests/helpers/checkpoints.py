"""Checkpoints as train.py leaves them, without a training."""

import torch
from pytorch_metric_learning import losses

from divconq_pl import DivideConquerModule
from divconq_pl.inference.checkpoints import CONFIG_KEY
from divconq_pl.inference.trust import build_trusted

SMALL = {"_target_": "divconq_pl.backbones.small", "in_channels": 3, "width": 4, "norm": "batch", "weights": None}
PHOTOGRAPHS = {"_target_": "divconq_pl.data.transforms.image_test", "size": 24, "preprocessing": None}
GLYPHS = {"_target_": "divconq_pl.data.transforms.glyph_test", "channels": 1}


def write_checkpoint(path, backbone=None, transform=PHOTOGRAPHS, channels=3, image_size=24, dim=8, **dataset):
    """Write a network with random weights and statistics of BatchNorm, and what a run would say of it."""
    backbone = {**SMALL, "in_channels": channels} if backbone is None else backbone
    module = DivideConquerModule(build_trusted(backbone, "backbone"), dim, losses.ContrastiveLoss())
    for name, value in module.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            value.uniform_(0.5, 1.5)
    config = {
        "seed": 0,
        "channels": channels,
        "image_size": image_size,
        "preprocessing": None,
        "module": {"backbone": backbone, "embedding_dim": dim, "recall_ks": [1]},
        "data": {"dataset": dataset, "test_transform": transform, "validate_on": "val"},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"state_dict": module.state_dict(), CONFIG_KEY: config, "epoch": 3}, path)
    return path
