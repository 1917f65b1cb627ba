"""Watch one training step: which layer gives what the losses are given, and what else consumes the embedding."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from pytorch_metric_learning.miners import BaseMiner
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode

from divconq_pl.lightning.reading import tensors_in
from divconq_pl.losses.masking import embedding_dim
from divconq_pl.losses.narrowing import PARTS

_PRODUCTS = ("Mm", "Addmm", "Bmm", "Baddbmm", "Linear", "Convolution", "Mv", "Dot", "Cdist")
_MIXING = (*_PRODUCTS, "Mean", "Sum")
"""What the names of operations begin with after which a coordinate is another one's (after a sum, unless it pools)."""


@dataclass(eq=False)
class Call:
    """One call of a module."""

    name: str
    module: nn.Module
    inputs: list[Tensor]
    outputs: list[Tensor]
    gives_tensor: bool


@dataclass
class Trace:
    """What happened in one training step, in the order in which the modules returned.

    Attributes:
        calls: of all submodules but losses, miners and what is in them.
        given: embeddings that the outermost losses were given.
        results: what these losses returned.
        scores: what functions such as ``cross_entropy`` were given.
        labels: what losses and such functions were given as labels.
        loss: what the step returned.
    """

    calls: list[Call] = field(default_factory=list)
    given: list[Tensor] = field(default_factory=list)
    results: list[Tensor] = field(default_factory=list)
    scores: list[Tensor] = field(default_factory=list)
    labels: list[Tensor] = field(default_factory=list)
    loss: Tensor | None = None

    def of(self, module: nn.Module) -> list[Call]:
        """Return the calls of a module."""
        return [call for call in self.calls if call.module is module]

    def sources(self, tensor: Tensor, *, unmixed: bool = False, kind: type[nn.Module] = nn.Module) -> list[Call]:
        """Return the calls whose outputs a tensor was computed from without another one in between.

        Args:
            tensor: any tensor of the step.
            unmixed: only those whose coordinates are still the same ones, as after a normalisation.
            kind: what modules to look at.
        """
        by_node: dict[Any, list[Call]] = {}
        for call in self.calls:
            for output in call.outputs if isinstance(call.module, kind) else ():
                by_node.setdefault(output.grad_fn, []).append(call)

        def ends(node: Any) -> bool:
            return node in by_node or (unmixed and type(node).__name__.startswith(_MIXING))

        return list(dict.fromkeys(call for node in _walk([tensor], ends) for call in by_node.get(node, ())))

    def reaches(self, tensor: Tensor, outputs: Collection[Tensor], *, around: Collection[Tensor] = ()) -> bool:
        """Tell whether a tensor was computed from one of ``outputs`` by a way that does not go through ``around``."""
        goals, closed = {output.grad_fn for output in outputs}, {value.grad_fn for value in around}
        return any(node in goals for node in _walk([tensor], lambda node: node in goals or node in closed))

    def is_given(self, outputs: Collection[Tensor]) -> bool:
        """Tell whether losses are given one of ``outputs``, perhaps pooled or normalised, and not a function of it."""
        goals = {output.grad_fn for output in outputs}

        def ends(node: Any) -> bool:
            return node in goals or type(node).__name__.startswith(_PRODUCTS)

        unknown = all(given.grad_fn is None for given in self.given)
        return unknown or any(node in goals for node in _walk(self.given, ends))

    def consumers(self, outputs: list[Tensor]) -> list[Call]:
        """Return the calls that were given one of these tensors, or what was computed from it without a module."""
        made = set(outputs)  # a tensor is found in a set by what it is, and not by its values
        makers = [call for call in self.calls if not made.isdisjoint(call.outputs)]
        return [
            call
            for call in self.calls
            if call not in makers
            and any(
                tensor in made or any(source in makers for source in self.sources(tensor)) for tensor in call.inputs
            )
        ]


class _Scores(TorchFunctionMode):
    """Note what functions that compute losses from scores are given."""

    NAMES = ("cross_entropy", "nll_loss", "binary_cross_entropy_with_logits", "multi_margin_loss")

    def __init__(self, trace: Trace) -> None:
        super().__init__()
        self._trace = trace

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") in self.NAMES:
            given = (*args[:2], kwargs.get("input"), kwargs.get("target"))
            tensors = [value for value in given if isinstance(value, Tensor)]
            self._trace.scores += tensors[:1]
            self._trace.labels += tensors[1:]
        return func(*args, **kwargs)


@contextmanager
def tracing(module: nn.Module, known: Collection[nn.Module] = ()) -> Iterator[Trace]:
    """Trace what is done meanwhile with a module and what is in it.

    Args:
        module: the user's module.
        known: heads of the user's own that count as losses.
    """
    names = {part: name for name, part in module.named_modules()}
    trace, within = Trace(), [0]
    losses = [part for part in names if isinstance(part, PARTS) or part in known]

    def enter(part: nn.Module, args: tuple[Any, ...]) -> None:
        if part in names and part in losses:
            within[0] += 1

    def leave(part: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> None:
        if part not in names:
            return
        if part in losses:
            within[0] -= 1
            if not within[0] and not isinstance(part, BaseMiner):
                given = [*args[:1], kwargs.get("embeddings"), kwargs.get("ref_emb")]
                trace.given += [value for value in given if isinstance(value, Tensor)]
                trace.labels += [value for value in (*args[1:2], kwargs.get("labels")) if isinstance(value, Tensor)]
                trace.results += tensors_in(output)
        elif not within[0] and names[part]:
            inputs, outputs = tensors_in([args, dict(kwargs)]), tensors_in(output)
            trace.calls.append(Call(names[part], part, inputs, outputs, isinstance(output, Tensor)))

    handles = [
        register_module_forward_pre_hook(enter),
        register_module_forward_hook(leave, with_kwargs=True),
    ]
    try:
        with _Scores(trace):
            yield trace
    finally:
        for handle in handles:
            handle.remove()


def choose_call(trace: Trace, layer: nn.Module | None, *, is_named: bool, is_wanted: bool = False) -> Call | None:
    """Return the call of the layer that gives what the losses are given; None if nothing tells.

    Args:
        trace: of a training step.
        layer: the layer that is taken if nothing speaks against it, None if there is none.
        is_named: whether its name says that it gives the embedding.
        is_wanted: whether the user has named it: then it need not be the last one before the losses, as one in front of
            a projector.
    """
    calls = [] if layer is None else trace.of(layer)
    outputs = [output for call in calls for output in call.outputs]
    if trace.given:
        goal = trace.given[0]
        width = goal.shape[-1]
        fits = bool(calls) and (calls[0].gives_tensor if is_wanted else _fits(calls[0], width))
        if fits and trace.reaches(goal, outputs):
            return calls[0]
        return _nearest(trace, goal, width)
    for scores in trace.scores if not is_named else ():
        for call in trace.sources(scores, unmixed=True):
            if call.module is layer:  # a classifier
                return _nearest(trace, call.inputs[0], None)
    if calls and (trace.loss is None or trace.reaches(trace.loss, outputs)):
        return calls[0]
    return None if trace.loss is None else _nearest(trace, trace.loss, None)


def describe_consumers(trace: Trace, layer: nn.Module, module: nn.Module) -> str:
    """Name what consumes the embedding beside the known losses, as far as it is a module."""
    calls = trace.consumers([output for call in trace.of(layer) for output in call.outputs])
    found = list(dict.fromkeys(f"{call.name!r} ({type(call.module).__name__})" for call in calls))
    return ", ".join(found[:3]) or f"a function in {type(module).__name__}.training_step"


def find_norms(trace: Trace, layer: nn.Module, width: int) -> list[nn.Module]:
    """Return the batch normalisations that the embedding goes into."""
    calls = trace.consumers([output for call in trace.of(layer) for output in call.outputs])
    norms = [call.module for call in calls if isinstance(call.module, _BatchNorm) and call.module.num_features == width]
    return list(dict.fromkeys(norms))


def _nearest(trace: Trace, tensor: Tensor, width: int | None) -> Call | None:
    """Return the call nearest before a tensor that can be the embedding's layer: a linear one, if one is as near."""
    linear = [call for call in trace.sources(tensor, unmixed=True, kind=nn.Linear) if _fits(call, width)]
    if linear:
        return linear[-1]
    seen: list[Call] = []
    fringe = [tensor]
    while fringe:
        near = [call for value in fringe for call in trace.sources(value) if call not in seen]
        seen += near
        fits = [call for call in near if _fits(call, width)]
        if fits:
            return fits[-1]
        fringe = [value for call in near for value in call.inputs]
    return None


def _fits(call: Call, width: int | None) -> bool:
    if not call.gives_tensor:
        return False
    values = call.outputs[0]
    is_vector = values.ndim == 2 if width is None else values.ndim in (2, 3, 4)
    return is_vector and width in (None, values.shape[embedding_dim(values, call.module, width)])


def _walk(tensors: Iterable[Tensor], ends: Callable[[Any], bool]) -> list[Any]:
    """Go through the graph of operations from results to their sources, and return the nodes at which it ``ends``."""
    fringe, seen, met = [tensor.grad_fn for tensor in tensors], set(), []
    while fringe:
        node: Any = fringe.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if ends(node):
            met.append(node)
        else:
            fringe += [before for before, _ in node.next_functions]
    return met
