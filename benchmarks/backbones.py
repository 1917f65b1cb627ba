"""Networks with channels-last weights, as ours have them, gradient checkpointing and bf16, forward and backward.

Memory is what a forward pass keeps for the backward pass, weights left out.
"""

from __future__ import annotations

from functools import partial

import torch
from measuring import Row, run_alone, take_turns
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from divconq_pl.backbones import Backbone, timm_backbone

NETWORKS = ["resnet50", "tf_efficientnet_lite0", "convnext_tiny", "vit_tiny_patch16_224"]


def kept_bytes(backbone: Backbone, images: Tensor) -> int:
    """Return the size of the tensors that are kept for the backward pass, each storage once."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in backbone.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept.setdefault(tensor.untyped_storage().data_ptr(), tensor)
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        backbone(images)
    return sum(tensor.untyped_storage().nbytes() for place, tensor in kept.items() if place not in weights)


def learn(backbone: Backbone, images: Tensor, *, bf16: bool = False) -> None:
    """Go forward and backward."""
    with torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=bf16):
        backbone(images).float().square().mean().backward()


@torch.no_grad()
def embed(backbone: Backbone, images: Tensor) -> None:
    """Go forward in evaluation mode, as a division's pass does."""
    backbone.eval()
    backbone(images)
    backbone.train()


def rows(device: str = "cpu", quick: bool = False) -> list[Row]:
    """Let the layouts of each network take turns."""
    result = []
    size, batch = (64, 1) if quick else (224, 4 if device == "cpu" else 112)
    for name in ["resnet18"] if quick else NETWORKS:
        torch.manual_seed(0)
        images = torch.rand(batch, 3, size, size, device=device)
        networks = {
            "contiguous": timm_backbone(name, image_size=size).to(memory_format=torch.contiguous_format),
            "channels last": timm_backbone(name, image_size=size),
            "channels last, recomputing": timm_backbone(name, image_size=size, grad_checkpointing=True),
        }
        networks = {kind: network.to(device) for kind, network in networks.items()}
        contestants = {kind: partial(learn, network, images) for kind, network in networks.items()}
        contestants["channels last, bf16"] = partial(learn, networks["channels last"], images, bf16=True)
        contestants["channels last, a pass alone"] = partial(embed, networks["channels last"], images)
        work = f"{name}, {batch} x {size} x {size}"
        result += take_turns("backbones", work, contestants, device=device, turns=1 if quick else 2)
        kept = {kind: kept_bytes(network, images) / 2**20 for kind, network in networks.items()}
        result += [
            Row("backbones", f"{work}: kept", kind, own, "MiB", "contiguous", own / kept["contiguous"])
            for kind, own in kept.items()
        ]
    return result


if __name__ == "__main__":
    run_alone(rows)
