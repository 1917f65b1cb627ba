"""Compare a backbone with its weights in channels-last layout, as ours have them, and with gradient checkpointing.

    python benchmarks/backbones.py --names resnet50 convnext_tiny vit_tiny_patch16_224 --size 224 --batch 4

Networks of timm, forward and backward. Times are in processor seconds, as ratios to the same network with contiguous
weights; memory is what a forward pass keeps for the backward pass, weights left out.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from divconq_pl.backbones import Backbone, timm_backbone


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


def main() -> None:
    """Let the contestants take turns; print median times and kept memory, and their ratios to the first."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = ["resnet50", "tf_efficientnet_lite0", "convnext_tiny", "vit_tiny_patch16_224"]
    parser.add_argument("--names", nargs="+", default=names)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)

    images = torch.rand(arguments.batch, 3, arguments.size, arguments.size)
    for name in arguments.names:
        contestants = {
            "contiguous": timm_backbone(name, image_size=arguments.size).to(memory_format=torch.contiguous_format),
            "channels last": timm_backbone(name, image_size=arguments.size),
            "recomputing": timm_backbone(name, image_size=arguments.size, grad_checkpointing=True),
        }
        memory = {kind: kept_bytes(backbone, images) for kind, backbone in contestants.items()}
        seconds: dict[str, list[float]] = {kind: [] for kind in contestants}
        for repeat in range(arguments.repeats + 1):
            for kind, backbone in contestants.items():
                start = time.process_time()
                backbone(images).square().mean().backward()
                if repeat:  # the first one warms up
                    seconds[kind].append(time.process_time() - start)
        for kind, times in seconds.items():
            ratio = statistics.median(a / b for a, b in zip(times, seconds["contiguous"], strict=True))
            share = memory[kind] / memory["contiguous"]
            print(
                f"{name:24} {kind:14} {statistics.median(times):6.3f} s  ratio {ratio:.2f}   "
                f"{memory[kind] / 2**20:6.0f} MiB  ratio {share:.2f}"
            )


if __name__ == "__main__":
    main()
