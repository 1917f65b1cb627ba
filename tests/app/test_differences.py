import math

import numpy as np
import pytest
from scipy import stats

from divconq_pl.app.differences import Difference, compare_sweep, pair_over_classes, pair_over_seeds


def row(recall, *overrides):
    return {"test/recall_at_1": recall, "overrides": list(overrides)}


def test_the_interval_over_seeds_is_that_of_a_paired_t_test():
    ours, theirs = np.array([0.71, 0.74, 0.69, 0.8]), np.array([0.61, 0.66, 0.65, 0.67])
    found = pair_over_seeds(ours, theirs)
    expected = stats.ttest_rel(ours, theirs).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.mean == pytest.approx((ours - theirs).mean())


def test_one_seed_gives_no_interval():
    assert math.isnan(pair_over_seeds([0.7], [0.6]).low)
    assert "no interval" in pair_over_seeds([0.7], [0.6]).describe()


def test_with_one_query_for_each_class_it_is_a_paired_t_test():
    generator = np.random.default_rng(0)
    ours, theirs = generator.random(50), generator.random(50)
    found = pair_over_classes(ours, theirs, np.arange(50))
    expected = stats.ttest_rel(ours, theirs).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_copies_of_the_queries_of_a_class_say_nothing_new():
    generator = np.random.default_rng(0)
    ours, theirs = generator.random(50), generator.random(50)
    once = pair_over_classes(ours, theirs, np.arange(50))
    thrice = pair_over_classes(ours.repeat(3), theirs.repeat(3), np.arange(50).repeat(3))
    assert thrice[:3] == pytest.approx(once[:3])


def test_unanswerable_queries_are_left_out():
    found = pair_over_classes([1, 0, np.nan], [0, 0, np.nan], [4, 7, 9])
    assert found.mean == 0.5
    assert found.over == "2 test classes"
    assert math.isnan(pair_over_classes([np.nan], [np.nan], [0]).mean)


@pytest.mark.parametrize(
    ("low", "high", "verdict"), [(0.01, 0.2, "it helped"), (-0.2, -0.01, "it hurt"), (-0.1, 0.1, "no difference")]
)
def test_a_verdict_follows_from_the_interval(low, high, verdict):
    assert Difference(0.0, low, high, "").judge().startswith(verdict)


def test_a_sweep_is_compared_by_seed_whatever_their_order():
    rows = [
        row(0.60, "divide=none", "seed=0"),
        row(0.75, "divide=hierarchical", "seed=1", "divide.split_depth=2"),
        row(0.65, "divide=none", "seed=1"),
        row(0.72, "divide=hierarchical", "seed=0", "divide.split_depth=2"),
    ]
    (said,) = compare_sweep(rows)
    assert "R@1 62.5 -> 73.5, +11.0 points" in said
    assert said.startswith("divide=hierarchical divide.split_depth=2 against the plain loss")


def test_runs_that_differ_in_more_than_the_division_are_not_compared():
    rows = [row(0.6, "divide=none", "loss=margin"), row(0.7, "divide=flat", "loss=triplet"), {"overrides": None}]
    assert compare_sweep(rows) == []


def test_every_setting_is_compared_with_its_own_plain_loss():
    rows = [
        row(0.5 + 0.01 * len(loss) + gain, f"loss={loss}", f"divide={name}")
        for loss in ("margin", "triplet")
        for name, gain in (("none", 0), ("flat", 0.1))
    ]
    said = compare_sweep(rows)
    assert len(said) == 2
    assert "(loss=margin): R@1 56.0 -> 66.0, +10.0 points" in said[0]
    assert said[0].endswith("repeat it with seed=0,1,2")
