from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from divconq_pl.core.masks import LearnedSubspaces, orthogonality
from divconq_pl.core.subspaces import SMALLEST_WIDTH, FixedSubspaces, RandomSubspaces, Subspaces, ZeroedSubspaces
from divconq_pl.errors import InputError

every_kind = pytest.mark.parametrize("kind", [FixedSubspaces, LearnedSubspaces, ZeroedSubspaces])


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


@every_kind
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


@every_kind
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


@every_kind
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
    before = subspaces.state()
    subspaces.set_depth(2)
    assert all(torch.equal(value, before[name]) for name, value in subspaces.state().items())


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


def test_the_penalty_is_the_weighted_orthogonality_of_the_masks_in_use() -> None:
    for depth in (1, 3):
        subspaces = learned_at(depth, orthogonality_weight=0.3)
        penalty = subspaces.penalty()
        assert penalty is not None
        expected = 0.3 * slow_orthogonality(torch.stack([mask.clamp_min(0) for mask in subspaces.masks]))
        assert penalty.item() == pytest.approx(expected.item(), abs=1e-6)


@pytest.mark.parametrize(("depth", "weight"), [(0, 0.3), (2, 0.0)])
def test_a_single_mask_and_a_weight_of_zero_have_no_penalty(depth: int, weight: float) -> None:
    assert learned_at(depth, orthogonality_weight=weight).penalty() is None


@every_kind
def test_values_travel_by_their_own_state(kind: type[Subspaces]) -> None:
    subspaces, other = kind(64, split_depth=4), kind(64, split_depth=4)
    with torch.no_grad():
        for k, parameter in enumerate(subspaces.parameters()):
            parameter.fill_(k)
    state = subspaces.state()
    other.load_state(state)
    assert list(other.state()) == list(state)
    assert all(torch.equal(other.state()[name], value) for name, value in state.items())
    assert not any(value.requires_grad for value in state.values())
    with torch.no_grad():
        for parameter in subspaces.parameters():
            parameter.fill_(99.0)
    assert all(value.max() < 99 for value in state.values()), "a state is a copy"


def test_a_state_that_does_not_fit_is_refused_by_shape() -> None:
    state = LearnedSubspaces(16, split_depth=1).state()
    with pytest.raises(InputError, match=r"mask_0 of shape \(16,\).* and LearnedSubspaces has .*mask_3 of shape"):
        LearnedSubspaces(16, split_depth=2).load_state(state)
    with pytest.raises(InputError, match="FixedSubspaces has no values of their own"):
        FixedSubspaces(16, split_depth=1).load_state(state)


class Scaled(Subspaces):
    """A kind that somebody else adds: every learner sees all coordinates, each times a number of its own."""

    def __init__(self, width: int, split_depth: int) -> None:
        super().__init__(width, split_depth)
        self.scales = nn.Parameter(torch.ones(2**split_depth, width))

    def part(self, values: Tensor, dim: int) -> Tensor:
        return (values.movedim(dim, -1) * self.scales[self.learner]).movedim(-1, dim)


def test_a_new_kind_is_one_class() -> None:
    subspaces = Scaled(16, split_depth=2)
    subspaces.set_depth(2)
    with torch.no_grad():
        subspaces.scales[3] = 2.0
    values = torch.randn(5, 16)
    assert torch.equal(subspaces.narrow(values, 1), values)
    subspaces.activate(3)
    assert torch.equal(subspaces.narrow(values, 1), 2 * values)
    assert subspaces.penalty() is None
    assert subspaces.outside([0]) is None
    assert Scaled.deepest(16) == 4


def test_zeroed_coordinates_are_the_slice_among_zeros() -> None:
    sliced, zeroed = FixedSubspaces(16, 2), ZeroedSubspaces(16, 2)
    for subspaces in (sliced, zeroed):
        subspaces.set_depth(2)
        subspaces.activate(2)
    for shape, dim in (((5, 16), 1), ((16, 7), 0)):
        values = torch.randn(*shape)
        wide = zeroed.narrow(values, dim)
        assert torch.equal(wide.index_select(dim, torch.arange(8, 12)), sliced.narrow(values, dim))
        assert int((wide != 0).sum()) == sliced.narrow(values, dim).numel()
        assert wide.shape == values.shape


def test_random_coordinates_are_drawn_anew_for_each_batch_and_go_on_from_a_state() -> None:
    def draw(subspaces: Subspaces, times: int) -> list[list[int]]:
        return [slice_of(subspaces, k % 4) for k in range(times)]

    subspaces, again = RandomSubspaces(64, 2), RandomSubspaces(64, 2)
    for one in (subspaces, again):
        one.set_depth(2)
    seen = draw(subspaces, 40)
    assert all(len(set(drawn)) == 16 for drawn in seen)
    assert len({tuple(drawn) for drawn in seen}) == 40
    assert {c for drawn in seen for c in drawn} == set(range(64))
    torch.manual_seed(5)  # whatever the random numbers of the training are
    assert draw(again, 20) == seen[:20]
    resumed = RandomSubspaces(64, 2)
    resumed.set_depth(2)
    resumed.load_state(again.state())
    assert draw(resumed, 20) == seen[20:]
    assert subspaces.outside([0]) is None


def test_what_is_outside_of_some_slices_is_in_all_others() -> None:
    subspaces = FixedSubspaces(16, 2)
    subspaces.set_depth(2)
    assert subspaces.outside([0, 3]).tolist() == list(range(4, 12))
    assert subspaces.outside(range(4)).tolist() == []
    assert LearnedSubspaces(16, 2).outside([0]) is None


@every_kind
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
