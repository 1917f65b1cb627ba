"""The reference: weights and draws as in the authors' code (TPAMI 2021), in NumPy, one anchor after another."""

import copy
import itertools
import math
import pickle
from collections import Counter

import numpy as np
import pytest
import torch
from pytorch_metric_learning import losses, miners
from pytorch_metric_learning.distances import CosineSimilarity, LpDistance
from torch.nn.functional import normalize
from torch.testing import assert_close

import divconq_pl
from divconq_pl.errors import InputError
from divconq_pl.losses import DistanceWeightedMiner
from divconq_pl.losses.miners import negative_weights

LABELS = torch.arange(20).repeat_interleave(4)
DEVIATIONS = 5  # of a frequency from its probability: one in 1.7 million exceeds that many standard deviations


def vectors(width, rows=80, seed=0, rank=None):
    """Return random embeddings, of some rank."""
    generator = torch.Generator().manual_seed(seed)
    if rank is None:
        return torch.randn(rows, width, generator=generator)
    return torch.randn(rows, rank, generator=generator) @ torch.randn(rank, width, generator=generator)


def slow_weights(anchor, others, other_is_negative, width, cutoff=0.5, far=1.4):
    """Compute the weights of one anchor's negatives, one by one."""
    unit = [v / np.linalg.norm(v) for v in np.asarray(others, dtype=np.float64)]
    start = np.asarray(anchor, dtype=np.float64) / np.linalg.norm(np.asarray(anchor, dtype=np.float64))
    distances = [max(float(np.linalg.norm(start - v)), cutoff) for v in unit]
    logs = [
        (2 - width) * math.log(r) - (width - 3) / 2 * math.log(1 - r * r / 4) if negative and r < far else 0.0
        for r, negative in zip(distances, other_is_negative, strict=True)
    ]
    weights = []
    for r, log, negative in zip(distances, logs, other_is_negative, strict=True):
        near = math.exp(log - max(logs)) + 1e-9
        weights.append(0.0 if not negative else 1e-6 if r >= far else near)
    return np.array(weights)


def chances_without_replacement(weights, draws):
    """Return each one's chance to be among the drawn, by going through all the orders in which they can be drawn."""
    chances = np.zeros(len(weights))
    for order in itertools.permutations(np.flatnonzero(weights), draws):
        chance, left = 1.0, weights.sum()
        for i in order:
            chance *= weights[i] / left
            left -= weights[i]
        chances[list(order)] += chance
    return chances


def close_to(counts, chances, draws):
    deviation = np.sqrt(draws * chances * (1 - chances).clip(min=0))
    return (np.abs(counts - draws * chances) <= DEVIATIONS * deviation + 0.5).all()


@pytest.mark.parametrize(("seen", "told"), [(2, None), (3, None), (8, None), (64, None), (512, None), (16, 512)])
def test_weights_are_the_authors(seen, told):
    z = vectors(seen, rank=min(seen, 6))
    same = LABELS[:, None] == LABELS
    weights = negative_weights(torch.cdist(normalize(z), normalize(z)).double(), same, told or seen, 0.5, 1.4, 1e-6)
    expected = [slow_weights(a, z, ~s, told or seen) for a, s in zip(z.numpy(), same.numpy(), strict=True)]
    # Distances are in single precision, and the weight is their 500th power.
    assert_close(weights, torch.from_numpy(np.array(expected)), rtol=5e-3, atol=1e-12)


@pytest.mark.parametrize(("seen", "told"), [(3, None), (8, None), (16, 64), (128, None)])
@pytest.mark.parametrize("positives", [1, 3])
def test_negatives_are_drawn_with_the_authors_probabilities(seen, told, positives):
    torch.manual_seed(0)
    draws, anchor, others = 20000, vectors(seen, 1, seed=1), vectors(seen, 9, seed=2) + vectors(seen, 1, seed=1)
    ref_labels = torch.tensor([0] * positives + [1] * 3 + [2] * (6 - positives))
    miner = DistanceWeightedMiner(width=told)
    _, p, n = miner(anchor.expand(draws, seen), torch.zeros(draws, dtype=torch.long), others, ref_labels)
    weights = slow_weights(anchor[0], others, ref_labels != 0, told or seen)
    assert len(n) == draws * positives
    counts = np.bincount(n, minlength=9)
    assert close_to(counts, chances_without_replacement(weights, positives), draws)
    for positive in range(positives):  # which one goes with which is random
        assert close_to(np.bincount(n[p == positive], minlength=9), counts / counts.sum(), draws)


@pytest.mark.parametrize(("width", "rank"), [(64, 16), (128, 16), (512, 16), (512, None)])
def test_no_anchor_is_lost_in_a_wide_embedding(width, rank):
    torch.manual_seed(0)
    a, _, _ = DistanceWeightedMiner()(vectors(width, rank=rank), LABELS)
    assert Counter(a.tolist()) == dict.fromkeys(range(80), 3)


def test_why_not_the_one_of_pytorch_metric_learning():
    torch.manual_seed(0)
    z = vectors(512, rank=16)
    kept = [len(miner(z, LABELS)[0].unique()) for miner in (miners.DistanceWeightedMiner(), DistanceWeightedMiner())]
    assert kept[0] < 30
    assert kept[1] == 80


@pytest.mark.parametrize("width", [1, 2, 3, 4, 16, 512])
@pytest.mark.parametrize("sizes", [[4] * 20, [2] * 40, [1, 5, 2, 1, 7], [9, 2], [1, 1, 1], [6]])
@pytest.mark.parametrize("kind", ["random", "equal", "pairs of equals", "zero", "tiny", "large"])
def test_all_positives_and_as_many_distinct_negatives_as_there_are(kind, sizes, width):
    torch.manual_seed(0)
    labels = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    labels = labels[torch.randperm(len(labels))]
    z = vectors(width, len(labels))
    if kind == "equal":
        z = z[:1].expand_as(z)
    elif kind == "pairs of equals":
        z = z[torch.arange(len(z)) // 2]
    z = z * {"zero": 0, "tiny": 1e-30, "large": 1e15}.get(kind, 1)
    a, p, n = DistanceWeightedMiner()(z, labels)
    assert a.dtype == p.dtype == n.dtype == torch.int64
    positive = (labels[:, None] == labels) & ~torch.eye(len(labels), dtype=torch.bool)
    expected = positive.nonzero().tolist() if len(sizes) > 1 else []
    assert torch.stack([a, p], 1).tolist() == expected
    assert (labels[a] != labels[n]).all()
    for anchor in set(a.tolist()):
        negatives = Counter(n[a == anchor].tolist())
        available = int((labels != labels[anchor]).sum())
        assert len(negatives) == min(int(positive[anchor].sum()), available)
        assert max(negatives.values()) - min(negatives.values()) <= (len(negatives) == available)


def test_far_negatives_are_left_where_near_ones_are_enough():
    torch.manual_seed(0)
    angles = torch.deg2rad(torch.tensor([0.0, 1.0, 2.0, 40.0, 50.0, 60.0, 120.0, 130.0, 180.0]))
    z, labels = torch.stack([angles.cos(), angles.sin()], 1), torch.tensor([0, 0, 0, 1, 1, 2, 2, 3, 3])
    draws = [DistanceWeightedMiner()(z, labels) for _ in range(200)]
    assert {int(i) for a, _, n in draws for i in n[a == 0]} == {3, 4, 5}
    only_one_near = [DistanceWeightedMiner(nonzero_loss_cutoff=0.7)(z, labels) for _ in range(200)]
    first, second = zip(*(sorted(n[a == 0].tolist()) for a, _, n in only_one_near), strict=True)
    assert set(first) == {3}
    assert set(second) == {4, 5, 6, 7, 8}


def test_a_far_weight_of_nothing_lets_those_within_reach_come_first():
    torch.manual_seed(0)
    z = vectors(512, rank=16)
    distances = torch.cdist(normalize(z), normalize(z))
    shares = []
    for settings in ({}, {"far_weight": 1e-12}):
        a, _, n = DistanceWeightedMiner(**settings)(z, LABELS)
        shares.append(float((distances[a, n] < 1.4).float().mean()))
    assert shares[0] < 0.7
    assert shares[1] > 0.99


def test_references_from_elsewhere():
    torch.manual_seed(0)
    z, ref, ref_labels = vectors(8, 6), vectors(8, 10, seed=1), torch.tensor([0, 0, 0, 1, 1, 2, 2, 3, 3, 3])
    labels = torch.tensor([0, 0, 1, 2, 5, 3])
    a, p, n = DistanceWeightedMiner()(z, labels, ref, ref_labels)
    assert torch.stack([a, p], 1).tolist() == (labels[:, None] == ref_labels).nonzero().tolist()
    assert (labels[a] != ref_labels[n]).all()
    both = DistanceWeightedMiner()(z, labels, z.clone(), labels)
    assert (both[0] == both[1]).any()  # other views of the same images are positives
    alone = DistanceWeightedMiner()(z, labels, z, labels)
    assert torch.stack(alone[:2], 1).tolist() == [[0, 1], [1, 0]]


def test_in_a_memory_of_earlier_batches():
    torch.manual_seed(0)
    memory = losses.CrossBatchMemory(losses.MarginLoss(), 16, memory_size=100, miner=DistanceWeightedMiner())
    for step in range(4):
        z = vectors(16, seed=step).requires_grad_()
        memory(z, LABELS).backward()
        assert z.grad.isfinite().all()
        assert z.grad.any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("mixed_precision", [False, True])
def test_it_computes_in_single_precision_at_least(dtype, mixed_precision):
    z = vectors(64).to(dtype)
    torch.manual_seed(0)
    expected = DistanceWeightedMiner()(z.float() if dtype.itemsize == 2 else z, LABELS)
    torch.manual_seed(0)
    with torch.autocast("cpu", torch.bfloat16, enabled=mixed_precision):
        triplets = DistanceWeightedMiner()(z.requires_grad_(), LABELS)
    assert all(map(torch.equal, triplets, expected))


class ByProduct(LpDistance):
    """Computes distances by a matrix product, which autocast would do in half precision."""

    def compute_mat(self, query_emb, ref_emb):
        return (2 - 2 * query_emb @ ref_emb.T).clamp(min=0).sqrt()


def test_mixed_precision_does_not_reach_a_distance_of_ones_own():
    drawn = []
    for mixed_precision in (False, True):
        torch.manual_seed(0)
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed_precision):
            drawn.append(torch.stack(DistanceWeightedMiner(distance=ByProduct())(vectors(512), LABELS)))
    assert torch.equal(*drawn)


def test_the_seed_decides_and_copies_draw_the_same():
    miner = DistanceWeightedMiner(0.4, 1.3, width=99, collect_stats=True)
    drawn = []
    for each in (miner, miner, copy.deepcopy(miner), pickle.loads(pickle.dumps(miner))):
        torch.manual_seed(3)
        drawn.append(torch.stack(each(vectors(32), LABELS)))
        assert each.num_triplets == 240
    assert all(torch.equal(drawn[0], other) for other in drawn)
    assert not torch.equal(drawn[0], torch.stack(miner(vectors(32), LABELS)))


def test_a_greater_width_prefers_nearer_negatives():
    torch.manual_seed(0)
    z, pairs = vectors(16), torch.arange(40).repeat_interleave(2)  # one negative for an anchor
    distances = torch.cdist(normalize(z), normalize(z))
    drawn = [DistanceWeightedMiner(width=width)(z, pairs) for width in (4, None, 64, 512)]
    means = [float(distances[a, n].mean()) for a, _, n in drawn]
    assert means == sorted(means, reverse=True)
    nearest = distances.masked_fill(pairs[:, None] == pairs, 9).argmin(1)
    a, _, n = drawn[-1]
    assert (n == nearest[a]).float().mean() > 0.9


def test_the_width_is_that_of_the_embeddings_unless_told():
    torch.manual_seed(0)
    default = DistanceWeightedMiner()(vectors(16), LABELS)
    torch.manual_seed(0)
    assert all(map(torch.equal, default, DistanceWeightedMiner(width=16)(vectors(16), LABELS)))


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"cutoff": 0.0}, "cutoff=0.0"),
        ({"cutoff": 1.4}, "cutoff=1.4 and nonzero_loss_cutoff=1.4"),
        ({"width": 0}, "width=0"),
        ({"far_weight": 0.0}, "far_weight=0.0"),
        ({"distance": CosineSimilarity()}, "CosineSimilarity"),
        ({"distance": LpDistance(normalize_embeddings=False)}, "unit sphere"),
        ({"distance": LpDistance(power=2)}, "unit sphere"),
    ],
)
def test_settings_that_make_no_sense(settings, told):
    with pytest.raises(InputError, match=told):
        DistanceWeightedMiner(**settings)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_broken_embeddings_are_refused(value):
    z = vectors(8)
    z[3, 2] = value
    with pytest.raises(InputError, match="NaN or infinite"):
        DistanceWeightedMiner()(z, LABELS)
    with pytest.raises(InputError, match="NaN or infinite"):
        DistanceWeightedMiner()(vectors(8), LABELS, z, LABELS)


def test_it_can_be_imported_from_the_top():
    assert divconq_pl.DistanceWeightedMiner is DistanceWeightedMiner
