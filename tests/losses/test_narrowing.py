"""The reference throughout: the same loss or miner built at the subspace's width, its weights copied from the slice."""

import copy
import importlib.util
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_metric_learning import losses, miners, reducers, regularizers
from pytorch_metric_learning.distances import CosineSimilarity
from torch import Tensor, nn
from torch.func import functional_call
from torch.testing import assert_close

from divconq_pl.core.masks import LearnedSubspaces
from divconq_pl.core.subspaces import FixedSubspaces, Subspaces
from divconq_pl.errors import InputError
from divconq_pl.losses.miners import DistanceWeightedMiner
from divconq_pl.losses.narrowing import narrow_losses

DOCS = Path(__file__).parents[2] / "docs"
spec = importlib.util.spec_from_file_location("generate_losses_table", DOCS / "generate_losses_table.py")
assert spec is not None
assert spec.loader is not None
docs = importlib.util.module_from_spec(spec)
spec.loader.exec_module(docs)

WIDTH, DEPTH, PART = 16, 2, 4
CLASSES = WIDTH  # so that a shape alone does not tell which dimension is the embedding's
LABELS = torch.arange(6).repeat_interleave(4)

REFUSED = {"P2SGradLoss": "P2SGradLoss rescales its own weight"}
TWO_VIEWS = {"VICRegLoss", "SelfSupervisedLoss"}
NO_LABELS = {"ManifoldLoss"}
NO_INDICES = TWO_VIEWS | NO_LABELS | {"InstanceLoss", "PNPLoss", "RankedListLoss"}
WRAPPERS = {"CrossBatchMemory", "MultipleLosses"}
PAIR_LOSSES = {
    "AngularLoss",
    "CircleLoss",
    "ContrastiveLoss",
    "DynamicSoftMarginLoss",
    "FastAPLoss",
    "GeneralizedLiftedStructureLoss",
    "HistogramLoss",
    "IntraPairVarianceLoss",
    "LiftedStructureLoss",
    "MarginLoss",
    "MultiSimilarityLoss",
    "NCALoss",
    "NPairsLoss",
    "NTXentLoss",
    "SignalToNoiseRatioContrastiveLoss",
    "SmoothAPLoss",
    "SupConLoss",
    "ThresholdConsistentMarginLoss",
    "TripletMarginLoss",
    "TupletMarginLoss",
}
TAKE_REF_EMB = PAIR_LOSSES - {
    "FastAPLoss",
    "HistogramLoss",
    "NPairsLoss",
    "SmoothAPLoss",
    "ThresholdConsistentMarginLoss",  # takes it and leaves it unused
}
OWN_WEIGHTS = {
    "ArcFaceLoss",
    "CosFaceLoss",
    "LargeMarginSoftmaxLoss",
    "NormalizedSoftmaxLoss",
    "ProxyAnchorLoss",
    "ProxyNCALoss",
    "SoftTripleLoss",
    "SphereFaceLoss",
    "SubCenterArcFaceLoss",
}
WORKING = sorted(PAIR_LOSSES | OWN_WEIGHTS | NO_INDICES | WRAPPERS)
TAKE_INDICES = sorted(set(WORKING) - NO_INDICES)
MINERS = {**docs.public_classes(miners), "ours": DistanceWeightedMiner}


class Module(nn.Module):
    """Stands for a user's LightningModule, with its loss and miner somewhere inside."""

    def __init__(self, loss: nn.Module, miner: nn.Module | None = None) -> None:
        super().__init__()
        self.loss = loss
        self.miner = miner


def make(name: str, width: int = WIDTH) -> Any:
    return docs.build(vars(losses)[name], width, CLASSES).double()


def narrowed(loss: nn.Module, miner: nn.Module | None = None, learner: int = 2) -> tuple[Any, Subspaces]:
    """Return a module that holds the loss, narrowed to one of four slices."""
    module, subspaces = Module(loss, miner), FixedSubspaces(WIDTH, DEPTH)
    narrow_losses(module, subspaces)
    subspaces.set_depth(DEPTH)
    subspaces.activate(learner)
    return module, subspaces


def slice_of(learner: int) -> slice:
    return slice(learner * PART, (learner + 1) * PART)


def embedding_dims(wide: nn.Module, narrow: nn.Module) -> dict[str, int]:
    """Find the embedding's dimension of each weight: the one that differs between losses of two widths."""
    pairs = zip(wide.named_parameters(), narrow.parameters(), strict=True)
    differing = {name: [i for i in range(w.ndim) if w.shape[i] != n.shape[i]] for (name, w), n in pairs}
    return {name: dims[0] for name, dims in differing.items() if dims}


@torch.no_grad()
def copy_slice(wide: nn.Module, native: nn.Module, learner: int) -> None:
    dims = embedding_dims(wide, native)
    for (name, source), target in zip(wide.named_parameters(), native.parameters(), strict=True):
        target.copy_(source.narrow(dims[name], learner * PART, PART) if name in dims else source)


def sample(seed: int, rows: int = len(LABELS), width: int = WIDTH) -> Tensor:
    """Return embeddings, or anything of that shape, whose rows are alike within a class."""

    def draw(number: int, seed: int) -> Tensor:
        return torch.randn(number, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)

    return draw(rows, seed) + 2 * draw(len(LABELS), 99)[LABELS[:rows]]


def call(name: str, loss: Callable[..., Any], z: Tensor, other: Tensor, **more: Any) -> Tensor:
    torch.manual_seed(0)  # some losses and miners draw
    if name in TWO_VIEWS:
        return loss(z, ref_emb=other)
    return loss(z, **more) if name in NO_LABELS else loss(z, LABELS, **more)


def leaf(values: Tensor) -> Tensor:
    return values.detach().clone().requires_grad_()


def after_step(*parts: nn.Module) -> None:
    """Do what DynamicSoftMarginLoss forgets, with and without narrowing."""
    for part in parts:
        if isinstance(part, losses.DynamicSoftMarginLoss):
            part.hist_ = part.hist_.detach()


def close(actual: Any, expected: Any) -> None:
    # Some losses compute parts in single precision whatever they are given.
    assert_close(actual, expected, rtol=1e-5, atol=1e-9)


def test_every_public_loss_and_miner_is_classified() -> None:
    assert {*WORKING, *REFUSED} == set(docs.public_classes(losses))
    assert len(docs.public_classes(miners)) == 10


@pytest.mark.parametrize(("name", "reason"), REFUSED.items())
def test_refused_losses_are_named_with_the_reason(name: str, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        narrowed(make(name))


@pytest.mark.parametrize("learner", [0, 3])
@pytest.mark.parametrize("name", WORKING)
def test_steps_on_a_slice_are_those_of_a_loss_of_that_width(name: str, learner: int) -> None:
    wide, native = make(name), make(name, PART)
    copy_slice(wide, native, learner)
    before = {key: value.clone() for key, value in wide.state_dict().items()}
    narrowed(wide, learner=learner)
    mine = slice_of(learner)
    others = torch.tensor([i for i in range(WIDTH) if i not in range(WIDTH)[mine]])
    optimizers = [torch.optim.SGD(part.parameters(), lr=0.1) for part in (wide, native) if list(part.parameters())]
    for step in range(3):
        z, other = leaf(sample(step)), leaf(sample(step + 9))
        z_part, other_part = leaf(z[:, mine]), leaf(other[:, mine])
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss, expected = call(name, wide, z, other), call(name, native, z_part, other_part)
        close(loss, expected)
        loss.backward()
        expected.backward()
        for optimizer in optimizers:
            optimizer.step()
        after_step(wide, native)
        assert z_part.grad is not None
        assert z_part.grad.any()
        close(z.grad[:, mine], z_part.grad)
        assert not z.grad[:, others].any()
        if name in TWO_VIEWS:
            close(other.grad[:, mine], other_part.grad)
            assert not other.grad[:, others].any()
    dims = embedding_dims(wide, native)
    for (key, weight), expected_weight in zip(wide.named_parameters(), native.parameters(), strict=True):
        dim = dims[key]
        close(weight.narrow(dim, learner * PART, PART), expected_weight)
        assert torch.equal(weight.index_select(dim, others), before[key].index_select(dim, others))
    assert wide.state_dict().keys() == before.keys()


def test_losses_that_own_weights_are_those_that_are_listed() -> None:
    owners = {name for name in WORKING if embedding_dims(make(name), make(name, PART))}
    assert owners == OWN_WEIGHTS | {"ManifoldLoss", "MultipleLosses"}


@pytest.mark.parametrize("miner_name", MINERS)
@pytest.mark.parametrize("name", TAKE_INDICES)
def test_loss_with_miner(name: str, miner_name: str) -> None:
    wide, native = make(name), make(name, PART)
    copy_slice(wide, native, learner=2)
    miner = docs.build(MINERS[miner_name], WIDTH)
    native_miner = copy.deepcopy(miner)
    narrowed(wide, miner)
    z = leaf(sample(1))
    z_part = leaf(z[:, slice_of(2)])
    torch.manual_seed(3)
    indices = miner(z, LABELS)
    torch.manual_seed(3)
    expected_indices = native_miner(z_part, LABELS)
    assert [list(index) for index in indices] == [list(index) for index in expected_indices]
    loss = call(name, wide, z, z, indices_tuple=indices)
    expected = call(name, native, z_part, z_part, indices_tuple=expected_indices)
    close(loss, expected)
    loss.backward()
    expected.backward()
    close(z.grad[:, slice_of(2)], z_part.grad)


@pytest.mark.parametrize("miner_name", sorted(set(MINERS) - {"EmbeddingsAlreadyPackagedAsTriplets"}))
def test_miner_depends_on_the_slice(miner_name: str) -> None:
    miner = docs.build(MINERS[miner_name], WIDTH)
    _, subspaces = narrowed(losses.TripletMarginLoss(), miner)
    found = []
    for learner in (0, 1, None):
        subspaces.activate(learner)
        torch.manual_seed(0)
        found.append([list(index) for index in miner(sample(1), LABELS)])
    assert found[0] != found[1] != found[2] != found[0]


@pytest.mark.parametrize("by_keyword", [False, True])
@pytest.mark.parametrize("name", sorted(TAKE_REF_EMB))
def test_ref_emb_is_narrowed(name: str, by_keyword: bool) -> None:
    wide, native = make(name), make(name, PART)
    narrowed(wide)
    results = []
    for loss, cut in ((wide, slice(None)), (native, slice_of(2))):
        z, ref = leaf(sample(1)[:, cut]), leaf(sample(2)[:18, cut])
        given = {"embeddings": z, "labels": LABELS, "indices_tuple": None, "ref_emb": ref, "ref_labels": LABELS[:18]}
        value = loss(**given) if by_keyword else loss(*given.values())
        value.backward()
        results.append((value, z.grad, ref.grad))
    value, z_grad, ref_grad = results[0]
    close((value, z_grad[:, slice_of(2)], ref_grad[:, slice_of(2)]), results[1])
    assert ref_grad[:, slice_of(2)].any()
    assert not ref_grad[:, :8].any()


@pytest.mark.parametrize("name", ["NCALoss", "ArcFaceLoss"])
def test_ref_emb_that_is_the_embedding_stays_so(name: str) -> None:
    # NCALoss leaves the diagonal out then; ArcFaceLoss takes no other ref_emb.
    wide, native = make(name), make(name, PART)
    copy_slice(wide, native, learner=2)
    narrowed(wide)
    z = sample(1)
    z_part = z[:, slice_of(2)]
    close(wide(z, LABELS, None, z, LABELS), native(z_part, LABELS, None, z_part, LABELS))


class ByHand(nn.Module):
    """Masks what it passes on to a loss or miner."""

    def __init__(self, inner: nn.Module, mask: Tensor) -> None:
        super().__init__()
        self.inner, self.mask = inner, mask

    def forward(self, embeddings: Tensor, *rest: Any) -> Any:
        *others, ref_emb, ref_labels = rest
        return self.inner(embeddings * self.mask.relu(), *others, ref_emb * self.mask.relu(), ref_labels)


@pytest.mark.parametrize("name", WORKING)
def test_learned_masks_are_those_applied_by_hand(name: str) -> None:
    wide, native = make(name), make(name, PART)
    by_hand = copy.deepcopy(wide)
    subspaces = LearnedSubspaces(WIDTH, 1).double()
    narrow_losses(wide, subspaces)
    subspaces.set_depth(1)
    with torch.no_grad():
        subspaces.masks[1].copy_(sample(5, 1)[0].abs() + 0.1)
        subspaces.masks[1][3:5] = -1.0  # rectified to 0
    subspaces.activate(1)
    mask = leaf(subspaces.masks[1])
    dims = embedding_dims(wide, native)

    z, other = leaf(sample(1)), leaf(sample(2))
    loss = call(name, wide, z, other)
    loss.backward()

    z_hand, other_hand = leaf(z), leaf(other)
    weights = {key: leaf(weight) for key, weight in by_hand.named_parameters()}
    masked = {key: weights[key] * (mask.relu()[:, None] if dim == 0 else mask.relu()) for key, dim in dims.items()}

    def masked_loss(*args: Any, **kwargs: Any) -> Tensor:
        return functional_call(by_hand, masked, args, kwargs)

    if name == "CrossBatchMemory":  # it keeps the embedding as it is, and what it passes on is masked
        by_hand.loss, by_hand.miner = ByHand(by_hand.loss, mask), ByHand(by_hand.miner, mask)
        expected = call(name, by_hand, z_hand, other_hand)
    else:
        expected = call(name, masked_loss, z_hand * mask.relu(), other_hand * mask.relu())
    expected.backward()
    close(loss, expected)
    close(z.grad, z_hand.grad)
    close(subspaces.masks[1].grad, mask.grad)
    assert subspaces.masks[1].grad.any()
    for key, weight in wide.named_parameters():
        close(weight.grad, weights[key].grad)


@pytest.mark.parametrize("miner_name", MINERS)
def test_miner_sees_the_masked_embedding(miner_name: str) -> None:
    miner = docs.build(MINERS[miner_name], WIDTH)
    native, subspaces = copy.deepcopy(miner), LearnedSubspaces(WIDTH, 0).double()
    narrow_losses(Module(losses.TripletMarginLoss(), miner), subspaces)
    mask = sample(4, 1)[0].abs()
    subspaces.load_state({"mask_0": mask})
    subspaces.activate(0)
    torch.manual_seed(0)
    indices = miner(embeddings=sample(1), labels=LABELS)
    torch.manual_seed(0)
    assert [list(i) for i in indices] == [list(i) for i in native(sample(1) * mask, LABELS)]


@pytest.mark.parametrize("mixed_precision", [False, True])
@pytest.mark.parametrize("name", WORKING)
def test_without_an_active_subspace_nothing_is_changed(name: str, mixed_precision: bool) -> None:
    wide, plain = make(name).float(), make(name).float()
    plain.load_state_dict(wide.state_dict())
    _, subspaces = narrowed(wide)
    subspaces.activate(None)
    z, z_plain, other = leaf(sample(1).float()), leaf(sample(1).float()), sample(2).float()
    with torch.autocast("cpu", torch.bfloat16, enabled=mixed_precision):
        loss, expected = call(name, wide, z, other), call(name, plain, z_plain, other)
    loss.backward()
    expected.backward()
    assert torch.equal(loss, expected)
    assert torch.equal(z.grad, z_plain.grad)


def test_removed_handles_leave_no_trace() -> None:
    wide, subspaces = make("ArcFaceLoss"), FixedSubspaces(WIDTH, DEPTH)
    expected = wide(sample(1), LABELS)
    handles = narrow_losses(Module(wide), subspaces)
    subspaces.activate(0)
    for handle in handles:
        handle.remove()
    assert torch.equal(wide(sample(1), LABELS), expected)
    assert not wide._forward_hooks
    assert not wide._forward_pre_hooks


@pytest.mark.parametrize("name", sorted(OWN_WEIGHTS | {"ManifoldLoss", "TripletMarginLoss"}))
def test_under_autocast_it_computes_in_single_precision(name: str) -> None:
    wide, native = make(name).float(), make(name, PART).float()
    copy_slice(wide, native, learner=2)
    before = {key: weight.detach().clone() for key, weight in wide.named_parameters()}
    narrowed(wide)
    z = leaf(sample(1).bfloat16())
    with torch.autocast("cpu", torch.bfloat16):
        loss = call(name, wide, z, z)
        assert torch.is_autocast_enabled("cpu")
        assert torch.get_autocast_dtype("cpu") == torch.bfloat16
    loss.backward()
    z_part = leaf(z[:, slice_of(2)].float())
    expected = call(name, native, z_part, z_part)
    expected.backward()
    assert loss.dtype == torch.float32
    assert_close(loss, expected)
    assert_close(z.grad[:, slice_of(2)], z_part.grad.bfloat16())
    for key, weight in wide.named_parameters():
        assert weight.dtype == weight.grad.dtype == torch.float32
        assert torch.equal(weight, before[key])


def test_half_precision_weights_stay_so_and_compute_in_single() -> None:
    wide, native = make("ProxyAnchorLoss").bfloat16(), make("ProxyAnchorLoss").float()
    subspaces = LearnedSubspaces(WIDTH, 0)
    narrow_losses(wide, subspaces)
    mask = sample(4, 1)[0].abs().float()
    subspaces.load_state({"mask_0": mask})
    subspaces.activate(0)
    z = leaf(sample(1).bfloat16())
    loss = wide(z, LABELS)
    loss.backward()
    native.load_state_dict({"proxies": wide.proxies.detach().float() * mask})
    assert_close(loss, native(z.detach().float() * mask, LABELS))
    assert wide.proxies.dtype == wide.proxies.grad.dtype == z.grad.dtype == torch.bfloat16


@pytest.mark.parametrize("exception", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("name", ["ArcFaceLoss", "ManifoldLoss", "TripletMarginLoss"])
def test_an_exception_inside_leaves_the_loss_as_it_was(name: str, exception: type[BaseException]) -> None:
    wide = make(name)
    _, subspaces = narrowed(wide)
    expected = call(name, wide, sample(1), sample(1))
    attributes = set(vars(wide))
    distance = wide.distance.compute_mat

    def fail(*_: Tensor) -> Tensor:
        raise exception("inside")

    wide.distance.compute_mat = fail
    with torch.autocast("cpu", torch.bfloat16):
        with pytest.raises(exception, match="inside"):
            call(name, wide, sample(1), sample(1))
        if exception is RuntimeError:
            assert torch.is_autocast_enabled("cpu")
            assert set(vars(wide)) == attributes
    wide.distance.compute_mat = distance
    close(call(name, wide, sample(1), sample(1)), expected)
    assert set(vars(wide)) == attributes
    subspaces.activate(None)
    call(name, wide, sample(1), sample(1))


@pytest.mark.filterwarnings("error")
def test_an_exception_before_the_call_is_not_hidden() -> None:
    wide = make("ArcFaceLoss")

    def refuse(*_: Any) -> None:
        raise RuntimeError("before")

    wide.register_forward_pre_hook(refuse)
    narrowed(wide)
    with pytest.raises(RuntimeError, match="before"):
        wide(sample(1), LABELS)
    with pytest.raises(TypeError, match="embeddings"):
        narrowed(make("ArcFaceLoss"))[0].loss(labels=LABELS)


def test_a_copy_is_narrowed_by_the_same_subspaces() -> None:
    module, subspaces = narrowed(make("ProxyAnchorLoss"), miners.MultiSimilarityMiner(), learner=0)
    twin = copy.deepcopy(module)
    with torch.no_grad():
        twin.loss.proxies.mul_(torch.linspace(-1, 2, WIDTH))  # differs from the original from here on
    subspaces.activate(2)
    native = make("ProxyAnchorLoss", PART)
    for part in (module, twin):
        copy_slice(part.loss, native, learner=2)
        z = sample(1)
        indices = part.miner(z, LABELS)
        close(part.loss(z, LABELS, indices), native(z[:, slice_of(2)], LABELS, indices))
        assert "proxies" not in vars(part.loss)


def test_memory_of_full_embeddings_serves_every_subspace() -> None:
    def memory(width: int, loss: nn.Module) -> Any:
        return losses.CrossBatchMemory(loss, width, memory_size=40, miner=miners.MultiSimilarityMiner()).double()

    wide = memory(WIDTH, losses.ContrastiveLoss())
    module, subspaces = narrowed(wide)
    natives = [memory(PART, losses.ContrastiveLoss()) for _ in range(2**DEPTH)]
    for step in range(6):  # 24 images each, so the queue of 40 goes round
        learner = step % 4
        subspaces.activate(learner)
        z = leaf(sample(step))
        loss = module.loss(z, LABELS)
        loss.backward()
        for k, native in enumerate(natives):
            z_part = leaf(z[:, slice_of(k)])
            expected = native(z_part, LABELS)
            if k == learner:
                expected.backward()
                close(loss, expected)
                close(z.grad[:, slice_of(k)], z_part.grad)
        assert torch.equal(wide.embedding_memory[:, slice_of(learner)], natives[learner].embedding_memory)
    assert wide.embedding_memory.shape == (40, WIDTH)


def nested(width: int) -> nn.Module:
    memory = losses.CrossBatchMemory(losses.MarginLoss(), width, memory_size=30)
    return losses.MultipleLosses(
        {"proxy": losses.ProxyAnchorLoss(CLASSES, width), "memory": memory, "pair": losses.TripletMarginLoss()},
        miners={"memory": miners.PairMarginMiner(), "pair": miners.DistanceWeightedMiner()},
        weights={"proxy": 1.0, "memory": 0.5, "pair": 2.0},
    )


def regularized(width: int) -> nn.Module:
    return losses.ArcFaceLoss(
        CLASSES,
        width,
        weight_regularizer=regularizers.RegularFaceRegularizer(),
        embedding_regularizer=regularizers.LpRegularizer(),
        reducer=reducers.ClassWeightedReducer(torch.linspace(0.5, 2.0, CLASSES)),
    )


def centre_invariant(width: int) -> nn.Module:
    return losses.ProxyAnchorLoss(CLASSES, width, weight_regularizer=regularizers.CenterInvariantRegularizer())


def many_centres(width: int) -> nn.Module:
    return losses.SoftTripleLoss(
        CLASSES, width, centers_per_class=3, weight_regularizer=regularizers.SparseCentersRegularizer(CLASSES, 3)
    )


def zero_mean(width: int) -> nn.Module:
    return losses.TripletMarginLoss(
        distance=CosineSimilarity(),
        embedding_regularizer=regularizers.ZeroMeanRegularizer(),
        reducer=reducers.ThresholdReducer(low=0.01),
    )


def per_class_beta(width: int) -> nn.Module:
    return losses.MarginLoss(learn_beta=True, num_classes=CLASSES, nu=0.1)


@pytest.mark.parametrize("build", [nested, regularized, centre_invariant, many_centres, zero_mean, per_class_beta])
def test_whatever_is_inside_sees_the_slice(build: Callable[[int], nn.Module]) -> None:
    wide, native = build(WIDTH).double(), build(PART).double()
    copy_slice(wide, native, learner=2)
    narrowed(wide)
    dims = embedding_dims(wide, native)
    z = leaf(sample(1))
    z_part = leaf(z[:, slice_of(2)])
    loss, expected = call("", wide, z, z), call("", native, z_part, z_part)
    close(loss, expected)
    loss.backward()
    expected.backward()
    close(z.grad[:, slice_of(2)], z_part.grad)
    for (key, weight), expected_weight in zip(wide.named_parameters(), native.parameters(), strict=True):
        grad = weight.grad.narrow(dims[key], 8, PART) if key in dims else weight.grad
        close(grad, expected_weight.grad)


def test_called_twice_and_without_gradient() -> None:
    wide, native = make("ProxyNCALoss"), make("ProxyNCALoss", PART)
    copy_slice(wide, native, learner=2)
    narrowed(wide)
    z, other = leaf(sample(1)), leaf(sample(2))
    z_part, other_part = leaf(z[:, slice_of(2)]), leaf(other[:, slice_of(2)])
    with torch.no_grad():
        assert not wide(z, LABELS).requires_grad
    (wide(z, LABELS) + 2 * wide(embeddings=other, labels=LABELS)).backward()
    (native(z_part, LABELS) + 2 * native(other_part, LABELS)).backward()
    close(wide.proxies.grad[:, slice_of(2)], native.proxies.grad)
    with torch.inference_mode():
        close(wide(sample(1), LABELS), native(sample(1)[:, slice_of(2)], LABELS))


class SumOfCosines(losses.BaseMetricLossFunction):
    def compute_loss(self, embeddings: Tensor, labels: Tensor, *_: Any) -> dict[str, Any]:
        value = self.score(embeddings, labels)
        return {"loss": {"losses": value, "indices": None, "reduction_type": "already_reduced"}}

    def score(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        return nn.functional.normalize(embeddings).sum(0).pow(2).sum()


class Centres(SumOfCosines):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.centres = nn.Parameter(sample(7, CLASSES)[:, :width])

    def score(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        return (embeddings - self.centres[labels]).pow(2).sum()


class CentresInside(SumOfCosines):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.centres = nn.Embedding.from_pretrained(sample(7, CLASSES)[:, :width], freeze=False)

    def score(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        return (embeddings - self.centres(labels)).pow(2).sum()


class AnchorsAndCentres(losses.ProxyAnchorLoss):
    def __init__(self, width: int) -> None:
        super().__init__(CLASSES, width)
        self.centres = nn.Parameter(sample(7, CLASSES)[:, :width])

    def get_logits(self, embeddings: Tensor) -> Tensor:
        return super().get_logits(embeddings) + self.distance(embeddings, self.centres)


class Running(SumOfCosines):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))


class Composite(SumOfCosines):
    """Computes on the embedding by itself, and calls another loss that owns weights."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = losses.ProxyAnchorLoss(CLASSES, width)

    def score(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        return super().score(embeddings, labels) + self.inner(embeddings, labels)


@pytest.mark.parametrize(
    ("cls", "weight_dims"),
    [
        (lambda width: SumOfCosines(), None),
        (Centres, {"Centres": {"centres": 1}}),
        (CentresInside, {"CentresInside": {"centres.weight": 1}}),
        (CentresInside, {"CentresInside": {"centres": 1}}),
        (AnchorsAndCentres, {"AnchorsAndCentres": {"centres": 1}}),
        (Composite, None),
    ],
)
@pytest.mark.parametrize("masked", [False, True])
def test_losses_of_ones_own(cls: Callable[[int], nn.Module], weight_dims: Any, masked: bool) -> None:
    wide, native = cls(WIDTH).double(), cls(PART).double()
    copy_slice(wide, native, learner=2)
    z = leaf(sample(1))
    z_part = leaf(z[:, slice_of(2)])
    subspaces: Subspaces = LearnedSubspaces(WIDTH, DEPTH).double() if masked else FixedSubspaces(WIDTH, DEPTH)
    narrow_losses(wide, subspaces, weight_dims)
    subspaces.set_depth(DEPTH)
    if isinstance(subspaces, LearnedSubspaces):  # 0 and 1, which is the same as slicing for these losses
        masks = torch.eye(4, dtype=torch.float64).repeat_interleave(PART, dim=1)
        subspaces.load_state({f"mask_{k}": mask for k, mask in enumerate(masks)})
    subspaces.activate(2)
    loss, expected = wide(z, LABELS), native(z_part, LABELS)
    loss.backward()
    expected.backward()
    close(loss, expected)
    close(z.grad[:, slice_of(2)], z_part.grad)
    for weight, expected_weight in zip(wide.parameters(), native.parameters(), strict=True):
        close(weight.grad[:, slice_of(2)], expected_weight.grad)
        assert not weight.grad[:, :8].any()


@pytest.mark.parametrize("cls", [Centres, CentresInside, AnchorsAndCentres])
def test_a_weight_that_nobody_declared_is_refused_until_one_does_as_told(cls: Callable[[int], nn.Module]) -> None:
    with pytest.raises(InputError, match=r"owns 'centres[.a-z]*' of shape \(16, 16\)") as refusal:
        narrow_losses(cls(WIDTH), FixedSubspaces(WIDTH, DEPTH))
    advice = re.search(r"weight_dims=(\{.*?\}\})", str(refusal.value))
    assert advice is not None
    narrow_losses(cls(WIDTH), FixedSubspaces(WIDTH, DEPTH), weight_dims=eval(advice[1]))


def test_a_buffer_is_refused_unless_it_is_not_the_embeddings() -> None:
    for weight_dims in (None, {"Running": {"mean": 0}}):
        with pytest.raises(InputError, match=r"'mean'.*requires_grad=False"):
            narrow_losses(Running(WIDTH), FixedSubspaces(WIDTH, DEPTH), weight_dims)
    narrow_losses(Running(WIDTH), FixedSubspaces(WIDTH, DEPTH), {"Running": {"mean": None}})


class OtherName(SumOfCosines):
    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        return super().forward(z, labels)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nn.Linear(2, 2), "no pytorch-metric-learning loss was found in Linear"),
        (miners.BatchHardMiner(), "no pytorch-metric-learning loss"),
        (losses.ProxyAnchorLoss(10, 8), r"'proxies' of shape \(10, 8\), and the embedding is 16 wide"),
        (OtherName(), "OtherName.forward has no argument of the name 'embeddings'"),
    ],
)
def test_what_cannot_be_narrowed_is_refused(module: nn.Module, message: str) -> None:
    with pytest.raises(InputError, match=message):
        narrow_losses(module, FixedSubspaces(WIDTH, DEPTH))


def test_an_embedding_of_another_width_is_refused() -> None:
    module, _ = narrowed(losses.TripletMarginLoss())
    with pytest.raises(InputError, match=r"TripletMarginLoss was given embeddings of width 12, .* gives 16"):
        module.loss(sample(1, width=12), LABELS)


def test_compiled_code_follows_the_active_subspace() -> None:
    wide, native = make("NormalizedSoftmaxLoss"), make("NormalizedSoftmaxLoss", PART)
    module, subspaces = narrowed(wide)
    compiled = torch.compile(module.loss, backend="eager")
    for learner in (0, 1, 2, 1):
        subspaces.activate(learner)
        copy_slice(wide, native, learner)
        close(compiled(sample(1), LABELS), native(sample(1)[:, slice_of(learner)], LABELS))


def test_the_page_of_losses_is_up_to_date() -> None:
    assert (DOCS / "losses.md").read_text() == docs.page()
