"""The layers and blocks of a network in their order, whoever wrote it."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def layers_in_order(network: nn.Module) -> Iterator[nn.Module]:
    """Yield the layers and blocks of a network as it registers them, which is from its input to its output.

    A block is what a network repeats: modules of one class, with layers of their own, beside each other in a container.
    Containers, and modules with such a container inside (the stages of a ConvNeXt, the encoder of a transformer), are
    opened, as is the network itself inside of what only wraps it; everything else is a layer or a block.

    Example:
        >>> from torchvision.models import resnet18
        >>> [type(layer).__name__ for layer in layers_in_order(resnet18())][:5]
        ['Conv2d', 'BatchNorm2d', 'ReLU', 'MaxPool2d', 'BasicBlock']
    """
    parts = list(network.children())
    while len(parts) == 1 and next(parts[0].children(), None) is not None:
        parts = list(parts[0].children())
    for part in parts:
        yield from _open_containers(part)


def _open_containers(part: nn.Module) -> Iterator[nn.Module]:
    if isinstance(part, _CONTAINERS) or any(_repeats_a_block(inner) for inner in part.modules()):
        for child in part.children():
            yield from _open_containers(child)
    else:
        yield part


def _repeats_a_block(module: nn.Module) -> bool:
    if not isinstance(module, _CONTAINERS):
        return False
    parts = [part for part in module.children() if not isinstance(part, _CONTAINERS)]
    kinds = [type(part) for part in parts if next(part.children(), None) is not None]
    return len(set(kinds)) < len(kinds)
