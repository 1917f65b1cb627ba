"""What docs/cost.md says of a ResNet-50 at 224 pixels: the time of a step and of a pass, and the memory of a step.

python benchmarks/resnet50.py

On the CPU, with one thread: seconds of the processor for an image, and megabytes that autograd keeps of it for the
backward pass, without and with gradient checkpointing.
"""

from __future__ import annotations

import time
from statistics import median

import torch
from pytorch_metric_learning.losses import MarginLoss
from torch import Tensor

from divconq_pl import DistanceWeightedMiner
from divconq_pl.backbones import torchvision_backbone
from divconq_pl.lightning.module import DivideConquerModule

BATCH, ROUNDS = 16, 4
LOSS, MINER = MarginLoss(), DistanceWeightedMiner()


def make_module(*, grad_checkpointing: bool = False) -> DivideConquerModule:
    """Build the usual network of the field, untrained, which takes as long as a trained one."""
    backbone = torchvision_backbone("resnet50", weights=None, grad_checkpointing=grad_checkpointing)
    return DivideConquerModule(backbone, 512, LOSS, MINER)


def count_kept(module: DivideConquerModule, images: Tensor) -> int:
    """Return the bytes that autograd keeps for the backward pass beside the weights, each storage once."""
    own = {weight.untyped_storage().data_ptr() for weight in module.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        embedded = module(images)
    assert embedded.requires_grad
    return sum(kept.values())


def time_step(module: DivideConquerModule, images: Tensor, labels: Tensor) -> float:
    """Return the seconds of the processor for a step of Adam, by image."""
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-5)
    began = time.process_time()
    embedded = module(images)
    loss: Tensor = LOSS(embedded, labels, MINER(embedded, labels))
    loss.backward()
    optimizer.step()
    return (time.process_time() - began) / len(images)


def time_pass(module: DivideConquerModule, images: Tensor) -> float:
    """Return the seconds of the processor for a pass in evaluation mode, by image."""
    module.eval()
    began = time.process_time()
    with torch.no_grad():
        module(images)
    seconds = (time.process_time() - began) / len(images)
    module.train()
    return seconds


def main() -> None:
    """Measure in turns, and print the medians."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    images, labels = torch.randn(BATCH, 3, 224, 224), torch.arange(BATCH // 4).repeat_interleave(4)
    plain, saving = make_module(), make_module(grad_checkpointing=True)
    seconds: dict[str, list[float]] = {
        "a training step": [],
        "with gradient checkpointing": [],
        "an evaluating pass": [],
    }
    for _ in range(ROUNDS):
        seconds["a training step"].append(time_step(plain, images, labels))
        seconds["with gradient checkpointing"].append(time_step(saving, images, labels))
        seconds["an evaluating pass"].append(time_pass(plain, images))
    for name, measured in seconds.items():
        print(f"{name}: {median(measured):.3f} s an image ({min(measured):.3f} to {max(measured):.3f})")
    for name, module in (("a training step", plain), ("with gradient checkpointing", saving)):
        print(f"{name} keeps {count_kept(module, images) / BATCH / 1e6:.0f} MB an image for the backward pass")
    print(f"weights: {sum(weight.numel() for weight in plain.parameters()) / 1e6:.1f} million")


if __name__ == "__main__":
    main()
