"""The layers and blocks of a network in their order, whoever wrote it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

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
        yield from _opened(part)


def _opened(part: nn.Module) -> Iterator[nn.Module]:
    if isinstance(part, _CONTAINERS) or any(_repeats_a_block(inner) for inner in part.modules()):
        for child in part.children():
            yield from _opened(child)
    else:
        yield part


def _repeats_a_block(module: nn.Module) -> bool:
    if not isinstance(module, _CONTAINERS):
        return False
    parts = [part for part in module.children() if not isinstance(part, _CONTAINERS)]
    kinds = [type(part) for part in parts if next(part.children(), None) is not None]
    return len(set(kinds)) < len(kinds)


def parameters_by_depth(network: nn.Module) -> list[list[nn.Parameter]]:
    """Sort the parameters of a network by layer or block, from its input to its output.

    A network of timm tells its own order, elsewhere it is that of :func:`layers_in_order`. A layer whose weights are
    all vectors (a normalisation) belongs to what comes before it; tokens and position embeddings, which no layer owns,
    belong to the first layer.

    Returns:
        One list of parameters per layer or block; together, each parameter once.

    Example:
        >>> from torchvision.models import resnet18
        >>> len(parameters_by_depth(resnet18()))  # the first convolution, eight blocks, the classifier
        10
    """
    own = next((part for part in network.modules() if hasattr(part, "group_matcher")), None)
    depths = _by_structure(network) if own is None else _by_timm(own)
    placed = {parameter for parameters in depths for parameter in parameters}
    rest = [parameter for parameter in network.parameters() if parameter not in placed]
    if own is None:
        depths[0] += rest
    elif rest:  # what somebody put around the network of timm
        depths.append(rest)
    return depths


def _by_structure(network: nn.Module) -> list[list[nn.Parameter]]:
    depths: list[list[nn.Parameter]] = [[]]
    placed: set[nn.Parameter] = set()
    for layer in layers_in_order(network):
        parameters = [parameter for parameter in layer.parameters() if parameter not in placed]
        if depths[-1] and any(parameter.ndim > 1 for parameter in parameters):
            depths.append([])
        depths[-1] += parameters
        placed.update(parameters)
    return depths


def _by_timm(network: Any) -> list[list[nn.Parameter]]:
    from timm.models import group_parameters  # installed, or there would be no such network

    names = dict(network.named_parameters())
    groups = group_parameters(network, network.group_matcher())
    depths = [[names[name] for name in groups[i]] for i in sorted(groups)]
    if len(depths) > 1 and all(parameter.ndim < 2 for parameter in depths[-1]):
        last = depths.pop()
        depths[-1] += last
    return depths
