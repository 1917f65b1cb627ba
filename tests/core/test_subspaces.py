from __future__ import annotations

import copy
import itertools
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from divconq_pl.core.subspaces import SMALLEST_WIDTH, FixedSubspaces, LearnedSubspaces, Subspaces, orthogonality
from divconq_pl.errors import InputError

both_kinds = pytest.mark.parametrize("kind", [FixedSubspaces, LearnedSubspaces])


class Host(nn.Module):
    """A module of somebody else's, into which subspaces are put."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Linear(3, 16)


def learned_at(depth: int, width: int = 16, **options: Any) -> LearnedSubspaces:
    """Make learned masks that differ from one another and hold values of both signs."""
    subspaces = LearnedSubspaces(width, split_depth=3, **options)
    subspaces.set_depth(depth)
    generator = torch.Generator().manual_seed(depth)
    with torch.no_grad():
        for mask in subspaces.parameters():
            mask.copy_(torch.randn(width, generator=generator))
    return subspaces


def slice_of(subspaces: Subspaces, learner: int) -> list[int]:
    subspaces.activate(learner)
    return subspaces.narrow(torch.arange(subspaces.width), dim=0).tolist()


def test_slices_tile_the_embedding_at_every_depth_and_children_their_parent() -> None:
    subspaces = FixedSubspaces(48, split_depth=3)
    slices = []
    for depth in range(4):
        subspaces.set_depth(depth)
        slices.append([slice_of(subspaces, learner) for learner in range(2**depth)])
    for depth, level in enumerate(slices):
        assert list(itertools.chain(*level)) == list(range(48))
        assert {len(indices) for indices in level} == {48 // 2**depth}
    for level, below in itertools.pairwise(slices):
        assert [below[2 * k] + below[2 * k + 1] for k in range(len(level))] == level
    subspaces.set_depth(1)
    assert [slice_of(subspaces, learner) for learner in range(2)] == slices[1], "and back up the tree"


def test_a_slice_of_embeddings_and_of_weights() -> None:
    subspaces = FixedSubspaces(16, split_depth=2)
    subspaces.set_depth(2)
    subspaces.activate(2)
    embeddings = torch.randn(5, 16, requires_grad=True)
    weights = torch.randn(16, 7)
    narrowed = subspaces.narrow(embeddings, 1)
    assert torch.equal(narrowed, embeddings[:, 8:12])
    assert torch.equal(subspaces.narrow(embeddings, -1), embeddings[:, 8:12])
    assert torch.equal(subspaces.narrow(weights, 0), weights[8:12])
    narrowed.sum().backward()
    assert embeddings.grad is not None
    assert embeddings.grad.sum(0).tolist() == [0.0] * 8 + [5.0] * 4 + [0.0] * 4, "it trains these coordinates only"


def test_a_masked_embedding_and_masked_weights() -> None:
    subspaces = learned_at(2)
    mask = subspaces.get_parameter("mask_2").detach().clamp_min(0)
    subspaces.activate(2)
    embeddings, weights = torch.randn(5, 16), torch.randn(16, 7)
    narrowed = subspaces.narrow(embeddings, 1)
    assert torch.equal(narrowed, embeddings * mask)
    assert torch.equal(subspaces.narrow(embeddings, -1), embeddings * mask)
    assert torch.equal(subspaces.narrow(weights, 0), weights * mask[:, None])
    assert subspaces.narrow(embeddings.bfloat16(), 1).dtype == torch.bfloat16
    narrowed.sum().backward()
    gradients = [mask.grad for mask in subspaces.parameters()]
    assert [k for k, grad in enumerate(gradients) if grad is not None and grad.any()] == [2], "it trains this mask only"


@both_kinds
def test_no_learner_means_the_full_embedding(kind: type[Subspaces]) -> None:
    subspaces = kind(16, 2)
    embeddings = torch.randn(5, 16)
    assert subspaces.active is None
    assert subspaces.narrow(embeddings, 1) is embeddings
    subspaces.set_depth(2)
    subspaces.activate(1)
    subspaces.activate(None)
    assert subspaces.narrow(embeddings, 1) is embeddings
    subspaces.activate(1)
    subspaces.set_depth(1)
    assert subspaces.narrow(embeddings, 1) is embeddings, "another depth has other learners"


@both_kinds
def test_learners_and_depths_that_do_not_exist_are_refused(kind: type[Subspaces]) -> None:
    subspaces = kind(16, 2)
    with pytest.raises(IndexError, match=r"learner 1 .*among 1"):
        subspaces.activate(1)
    subspaces.set_depth(2)
    for learner in (-1, 4):
        with pytest.raises(IndexError, match=f"learner {learner} .*among 4"):
            subspaces.activate(learner)
    for depth in (-1, 3):
        with pytest.raises(ValueError, match=f"depth={depth} .*split_depth=2"):
            subspaces.set_depth(depth)


@both_kinds
def test_advice_on_width_and_depth_works(kind: type[Subspaces]) -> None:
    for width, depth in itertools.product(range(1, 80), range(8)):
        try:
            kind(width, depth)
        except InputError as error:
            message = str(error)
            assert re.search(rf"\b{width}\b", message)
            assert re.search(rf"\b{2**depth}\b", message)
            widths = re.search(r"use a width of (\d+)(?: or (\d+))?", message)
            depths = re.search(r"split_depth=(-?\d+) or less", message)
            assert widths or depths
            for better in widths.groups() if widths else ():
                if better is not None:
                    kind(int(better), depth)
            if depths:
                assert 0 <= int(depths[1]) < depth, message
                for shallower in range(int(depths[1]) + 1):
                    kind(width, shallower)
        else:
            assert 2**depth <= width
            if kind is FixedSubspaces:
                assert width % 2**depth == 0
                assert depth == 0 or width // 2**depth >= SMALLEST_WIDTH


def test_masks_begin_as_ones_and_children_as_copies_of_their_parent() -> None:
    subspaces = LearnedSubspaces(8, split_depth=2)
    assert [mask.tolist() for mask in subspaces.masks] == [[1.0] * 8]
    subspaces.set_depth(1)
    with torch.no_grad():
        subspaces.masks[0].copy_(torch.arange(8.0))
        subspaces.masks[1].fill_(-3.0)
    subspaces.set_depth(2)
    assert [mask.tolist() for mask in subspaces.masks] == [list(range(8))] * 2 + [[-3.0] * 8] * 2


def test_a_merged_mask_is_the_mean_of_its_children() -> None:
    subspaces = learned_at(3)
    before = [mask.detach().clone() for mask in subspaces.masks]
    parameters = list(subspaces.parameters())
    subspaces.set_depth(1)
    for k, mask in enumerate(subspaces.masks):
        assert torch.allclose(mask, torch.stack(before[4 * k : 4 * k + 4]).mean(0))
    assert all(a is b for a, b in zip(subspaces.parameters(), parameters, strict=True)), "what the optimiser holds"


def test_setting_the_same_depth_again_leaves_masks_as_they_are() -> None:
    subspaces = learned_at(2)
    before = subspaces.masks_state()
    subspaces.set_depth(2)
    assert torch.equal(subspaces.masks_state(), before)


def slow_orthogonality(masks: Tensor) -> Tensor:
    cosines = [
        (masks[k] * masks[other]).sum() / (masks[k].square().sum().sqrt() * masks[other].square().sum().sqrt())
        for k in range(len(masks))
        for other in range(len(masks))
        if k != other
    ]
    return sum(cosines, torch.zeros(())) / len(cosines)


@pytest.mark.parametrize("learners", [2, 5, 8])
def test_orthogonality_is_the_mean_cosine_of_different_masks(learners: int) -> None:
    masks = torch.rand(learners, 16, dtype=torch.float64)
    assert orthogonality(masks).item() == pytest.approx(slow_orthogonality(masks).item())
    assert orthogonality(3 * masks).item() == pytest.approx(orthogonality(masks).item())
    assert orthogonality(torch.ones(learners, 16)).item() == pytest.approx(1.0)
    assert orthogonality(torch.eye(16)[:learners]).item() == 0.0
    assert orthogonality(masks[:1]).item() == 0.0
    assert orthogonality(torch.zeros(learners, 16)).item() == 0.0, "masks that died do not turn into NaN"


def backward(subspaces: LearnedSubspaces, *learners: int) -> None:
    """Let batches of these learners give gradients."""
    for learner in learners:
        subspaces.activate(learner)
        subspaces.narrow(torch.randn(5, 16), 1).square().sum().backward()
    subspaces.activate(None)


@pytest.mark.parametrize("depth", [1, 3])
def test_the_gradient_of_orthogonality_is_added_to_that_of_the_masks_in_use(depth: int) -> None:
    subspaces = learned_at(depth, orthogonality_weight=0.3)
    backward(subspaces, 1)
    masks = subspaces.masks
    of_the_loss = [torch.zeros(16) if mask.grad is None else mask.grad.clone() for mask in masks]
    term = 0.3 * slow_orthogonality(torch.stack([mask.clamp_min(0) for mask in masks]))
    of_the_term = torch.autograd.grad(term, masks)

    with torch.no_grad():  # as inside an optimiser's step
        subspaces.finish_gradients(push_apart=True)
    for mask, loss, expected in zip(masks, of_the_loss, of_the_term, strict=True):
        assert mask.grad is not None
        assert torch.allclose(mask.grad, loss + expected, atol=1e-6)
    idle = [subspaces.get_parameter(f"mask_{k}") for k in range(2**depth, 8)]
    assert all(mask.grad is None for mask in idle)


@pytest.mark.parametrize(
    ("depth", "weight", "push_apart"), [(0, 0.3, True), (2, 0.0, True), (2, 0.3, False)], ids=["one", "0", "merged"]
)
def test_without_reason_to_push_masks_apart_there_is_no_such_gradient(
    depth: int, weight: float, push_apart: bool
) -> None:
    subspaces = learned_at(depth, orthogonality_weight=weight)
    backward(subspaces, 0)
    of_the_loss = subspaces.get_parameter("mask_0").grad
    assert of_the_loss is not None
    expected = of_the_loss.clone()
    subspaces.finish_gradients(push_apart=push_apart)
    first, *others = [mask.grad for mask in subspaces.parameters()]
    assert first is not None
    assert torch.equal(first, expected)
    assert all(gradient is None for gradient in others)


def test_masks_in_half_precision_are_pushed_apart_in_single() -> None:
    def gradients(subspaces: LearnedSubspaces) -> Tensor:
        subspaces.set_depth(2)
        subspaces.load_masks_state(values)
        subspaces.activate(0)
        subspaces.finish_gradients(push_apart=True)
        return torch.stack([mask.grad for mask in subspaces.masks])

    values = (1 + 0.01 * torch.randn(4, 16)).bfloat16()
    half, double = gradients(LearnedSubspaces(16, 2).bfloat16()), gradients(LearnedSubspaces(16, 2).double())
    assert half.dtype == torch.bfloat16
    assert (half - double).norm() < 0.01 * double.norm()


def test_an_optimiser_leaves_masks_alone_that_no_batch_has_used_since_its_last_step() -> None:
    """Also if their gradients are kept as zeros, and it has momentum and weight decay."""
    subspaces = learned_at(2)
    optimizer = torch.optim.Adam(subspaces.parameters(), lr=0.1, weight_decay=0.1)
    for used in ([0, 2], [1], [2, 2, 3], []):
        before = subspaces.masks_state()
        optimizer.zero_grad(set_to_none=False)
        subspaces.anchor(torch.randn(5, 16, requires_grad=True)).sum().backward()
        backward(subspaces, *used)
        subspaces.finish_gradients(push_apart=False)
        optimizer.step()
        moved = (subspaces.masks_state() != before).any(dim=1)
        assert moved.nonzero().flatten().tolist() == sorted(set(used))


def test_anchored_embeddings_are_what_they_were_and_reach_every_mask() -> None:
    subspaces = learned_at(2)
    for dtype in (torch.float32, torch.bfloat16):
        embeddings = torch.randn(5, 16, dtype=dtype)
        anchored = subspaces.anchor(embeddings)
        assert torch.equal(anchored, embeddings)
        assert anchored.dtype == dtype
        subspaces.zero_grad()
        anchored.sum().backward()
        gradients = [mask.grad for mask in subspaces.parameters()]
        assert all(gradient is not None and not gradient.any() for gradient in gradients)


@both_kinds
def test_checkpoints_of_the_host_stay_what_they_were(kind: type[Subspaces]) -> None:
    plain, host = Host(), Host()
    host.add_module("subspaces", kind(16, 2))
    assert list(host.state_dict()) == list(plain.state_dict())
    host.load_state_dict(plain.state_dict(), strict=True)
    plain.load_state_dict(host.state_dict(), strict=True)
    assert torch.equal(plain.embedding.weight, host.embedding.weight)


def test_masks_are_parameters_of_the_host_from_the_start() -> None:
    host = Host()
    host.add_module("subspaces", LearnedSubspaces(16, 2))
    names = [name for name, _ in host.named_parameters() if name.startswith("subspaces.")]
    assert names == [f"subspaces.mask_{k}" for k in range(4)]


def test_masks_travel_by_their_own_state() -> None:
    subspaces = LearnedSubspaces(16, split_depth=4)
    with torch.no_grad():
        for k, mask in enumerate(subspaces.parameters()):
            mask.fill_(k)
    state = subspaces.masks_state()
    assert state[:, 0].tolist() == list(range(16))
    assert not state.requires_grad
    other = LearnedSubspaces(16, split_depth=4)
    other.load_masks_state(state)
    assert torch.equal(other.masks_state(), state)
    with torch.no_grad():
        subspaces.masks[0].fill_(99.0)
    assert state[0, 0] == 0, "a state is a copy"
    assert other.masks[0][0] == 0


@both_kinds
def test_a_copy_has_learners_of_its_own(kind: type[Subspaces]) -> None:
    subspaces = kind(16, 2)
    subspaces.set_depth(2)
    subspaces.activate(1)
    other = copy.deepcopy(subspaces)
    values = torch.randn(3, 16)
    before = subspaces.narrow(values, 1)
    assert torch.equal(other.narrow(values, 1), before)
    other.activate(2)
    with torch.no_grad():
        for mask in other.parameters():
            mask.fill_(7.0)
    assert torch.equal(subspaces.narrow(values, 1), before)
    assert not torch.equal(other.narrow(values, 1), before)


@both_kinds
def test_compiled_code_follows_the_active_learner(kind: type[Subspaces]) -> None:
    subspaces = kind(64, 4)
    subspaces.set_depth(4)
    with torch.no_grad():
        for mask in subspaces.parameters():
            mask.uniform_()
    graphs = []

    def count(graph: torch.fx.GraphModule, _: list[Tensor]) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward

    torch.compiler.reset()
    compiled = torch.compile(lambda values: subspaces.narrow(values, 1) * 2, backend=count)
    values = torch.randn(3, 64)
    for learner in range(16):
        subspaces.activate(learner)
        assert torch.equal(compiled(values), subspaces.narrow(values, 1) * 2)
    assert len(graphs) == 1, "not one for each learner: there would soon be too many"
