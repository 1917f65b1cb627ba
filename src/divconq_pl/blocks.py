"""The layers and blocks of a network in their order, whoever wrote it."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def layers_in_order(network: nn.Module) -> Iterator[nn.Module]:
    """Yield the layers and blocks of a network as it registers them, which is from its input to its output.

    A block is what a network repeats: modules of one class, with layers of their own, beside each other in a container.
    Containers, and modules with such a container inside (the stages of a ConvNeXt, the encoder of a transformer), are
    opened; everything else is a layer or a block.

    Example:
        >>> from torchvision.models import resnet18
        >>> [type(layer).__name__ for layer in layers_in_order(resnet18())][:5]
        ['Conv2d', 'BatchNorm2d', 'ReLU', 'MaxPool2d', 'BasicBlock']
    """
    for child in network.children():
        if isinstance(child, _CONTAINERS) or any(_repeats_a_block(part) for part in child.modules()):
            yield from layers_in_order(child)
        else:
            yield child


def _repeats_a_block(module: nn.Module) -> bool:
    if not isinstance(module, _CONTAINERS):
        return False
    parts = [part for part in module.children() if not isinstance(part, _CONTAINERS)]
    kinds = [type(part) for part in parts if next(part.children(), None) is not None]
    return len(set(kinds)) < len(kinds)


def parameters_by_depth(network: nn.Module) -> list[list[nn.Parameter]]:
    """Sort the parameters of a network by layer or block, from its input to its output.

    A layer whose weights are all vectors (a normalisation) belongs to what comes before it. Tokens and position
    embeddings, which no layer owns, belong to the first layer.

    Returns:
        One list of parameters per layer or block; together, each parameter once.

    Example:
        >>> from torchvision.models import resnet18
        >>> len(parameters_by_depth(resnet18()))  # the first convolution, eight blocks, the classifier
        10
    """
    depths: list[list[nn.Parameter]] = [[]]
    owned: set[nn.Parameter] = set()
    for layer in layers_in_order(network):
        parameters = [parameter for parameter in layer.parameters() if parameter not in owned]
        if depths[-1] and any(parameter.ndim > 1 for parameter in parameters):
            depths.append([])
        depths[-1] += parameters
        owned.update(parameters)
    depths[0] += [parameter for parameter in network.parameters() if parameter not in owned]
    return depths
