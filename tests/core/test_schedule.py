from __future__ import annotations

import copy
import pickle
import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from divconq_pl.core.schedule import MERGE_AT, ConquerScheduler, Stage
from divconq_pl.errors import InputError

PHASES = ["undivided", "divided", "merged", "conquered"]


def table(schedule: ConquerScheduler, epochs: int) -> list[Stage]:
    return [schedule.stage(epoch) for epoch in range(epochs)]


def depths(schedule: ConquerScheduler, epochs: int) -> list[int]:
    return [stage.depth for stage in table(schedule, epochs)]


def test_settings_of_cvpr_2019() -> None:
    """200 epochs, T = 2, 8 learners at once; full embedding from epoch 80, all data from 190."""
    schedule = ConquerScheduler(3, every_n_epochs=2, merge_at=80, conquer_at=190, flat=True, max_epochs=200)
    expected = {
        0: Stage("undivided", 0),
        1: Stage("undivided", 0),
        2: Stage("divided", 3, divides=True),
        3: Stage("divided", 3),
        4: Stage("divided", 3, divides=True),
        78: Stage("divided", 3, divides=True),
        79: Stage("divided", 3),
        80: Stage("merged", 3, divides=True),
        81: Stage("merged", 3),
        188: Stage("merged", 3, divides=True),
        189: Stage("merged", 3),
        190: Stage("conquered", 0),
        199: Stage("conquered", 0),
    }
    assert {epoch: schedule.stage(epoch) for epoch in expected} == expected
    assert sum(stage.divides for stage in table(schedule, 200)) == 94
    assert schedule.shortfall(200) is None


def test_settings_of_tpami_2021_for_sop() -> None:
    """180 epochs, T = 2, up to 32 learners; full embedding from epoch 80, backbone frozen after each division."""
    schedule = ConquerScheduler(5, every_n_epochs=2, freeze_epochs=1, merge_at=80, max_epochs=180)
    expected = {
        0: Stage("undivided", 0),
        1: Stage("undivided", 0),
        2: Stage("divided", 1, divides=True, frozen=True),
        3: Stage("divided", 1),
        4: Stage("divided", 2, divides=True, frozen=True),
        5: Stage("divided", 2),
        6: Stage("divided", 3, divides=True, frozen=True),
        8: Stage("divided", 4, divides=True, frozen=True),
        9: Stage("divided", 4),
        10: Stage("divided", 5, divides=True, frozen=True),
        11: Stage("divided", 5),
        12: Stage("divided", 5, divides=True, frozen=True),
        79: Stage("divided", 5),
        80: Stage("merged", 5, divides=True, frozen=True),
        81: Stage("merged", 5),
        179: Stage("merged", 5),
    }
    assert {epoch: schedule.stage(epoch) for epoch in expected} == expected
    assert schedule.shortfall(180) is None


def test_depth_zero_is_plain_training() -> None:
    schedule = ConquerScheduler(0, warmup_epochs=1, freeze_epochs=2, merge_at=1, conquer_at=0)
    assert table(schedule, 5) == [Stage("undivided", 0)] * 5


def test_warm_up_of_its_own_length() -> None:
    assert depths(ConquerScheduler(2, every_n_epochs=3, warmup_epochs=1), 8) == [0, 1, 1, 1, 2, 2, 2, 2]
    at_once = ConquerScheduler(2, every_n_epochs=3, warmup_epochs=0)
    assert depths(at_once, 5) == [1, 1, 1, 2, 2]
    assert at_once.stage(0).divides


def test_fractions_are_of_all_epochs() -> None:
    schedule = ConquerScheduler(2, warmup_epochs=0.1, merge_at=0.5, conquer_at=0.75, max_epochs=40)
    assert (schedule.first_division, schedule.merge_at, schedule.conquer_at) == (4, 20, 30)
    whole = ConquerScheduler(2, warmup_epochs=1, merge_at=1, conquer_at=1, max_epochs=40)
    assert (whole.first_division, whole.merge_at, whole.conquer_at) == (1, 1, 1), "whole numbers are epochs"
    assert ConquerScheduler(2, conquer_at=1.0, max_epochs=40).conquer_at == 40, "1.0 is all of them"
    assert ConquerScheduler(2, warmup_epochs=0.0, max_epochs=40).first_division == 0


def test_progressive_conquest_goes_up_the_tree() -> None:
    schedule = ConquerScheduler(3, every_n_epochs=2, conquer_at=10, progressive=True)
    assert depths(schedule, 17) == [0, 0, 1, 1, 2, 2, 3, 3, 3, 3, 2, 2, 1, 1, 0, 0, 0]
    stages = table(schedule, 17)
    assert [stage.phase for stage in stages[10:]] == ["divided"] * 4 + ["conquered"] * 3
    assert not any(stage.divides or stage.frozen for stage in stages[10:])
    assert depths(ConquerScheduler(3, conquer_at=5, progressive=True), 8) == [0, 0, 1, 1, 2, 1, 1, 0], (
        "from the depth that was reached"
    )


def test_progressive_conquest_after_a_merge_goes_on_training_the_full_embedding() -> None:
    """Once the parts of the embedding are together, they are not taken apart again."""
    schedule = ConquerScheduler(2, every_n_epochs=2, merge_at=6, conquer_at=8, progressive=True)
    stages = table(schedule, 12)
    assert [stage.depth for stage in stages[6:]] == [2, 2, 1, 1, 0, 0]
    assert [stage.phase for stage in stages[6:]] == ["merged"] * 4 + ["conquered"] * 2


settings_of_a_schedule = st.fixed_dictionaries(
    {
        "split_depth": st.integers(0, 4),
        "every_n_epochs": st.integers(1, 4),
        "warmup_epochs": st.none() | st.integers(0, 4),
        "flat": st.booleans(),
        "freeze_epochs": st.integers(0, 1),
        "merge_at": st.none() | st.integers(4, 10),
        "conquer_at": st.none() | st.integers(10, 20),
    }
)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(settings_of_a_schedule, st.booleans(), st.randoms(use_true_random=False))
def test_any_schedule_is_a_sensible_walk(options: dict[str, Any], progressive: bool, rng: Any) -> None:
    progressive = progressive and not options["flat"]
    schedule = ConquerScheduler(**options, progressive=progressive)
    stages = table(schedule, 30)

    order = [PHASES.index(stage.phase) for stage in stages]
    assert order == sorted(order)
    divisions = [epoch for epoch, stage in enumerate(stages) if stage.divides]
    assert all(stages[epoch].phase in ("divided", "merged") for epoch in divisions)
    assert divisions == [schedule.first_division + i * schedule.every_n_epochs for i in range(len(divisions))]
    for epoch, stage in enumerate(stages):
        assert (stage.depth == 0) == (stage.phase in ("undivided", "conquered"))
        before = stages[epoch - 1].depth if epoch else 0
        if stage.depth > before:
            assert stage.divides
            assert stage.depth == (options["split_depth"] if options["flat"] else before + 1)
        if epoch == options["conquer_at"]:
            assert stage.depth == (max(0, before - 1) if progressive else 0)
        if stage.depth < before:
            assert stage.depth == (before - 1 if progressive else 0)
            assert not progressive or (epoch - options["conquer_at"]) % options["every_n_epochs"] == 0
        since = min((epoch - division for division in divisions if division <= epoch), default=99)
        ends = options["conquer_at"] if options["conquer_at"] is not None else 99
        assert stage.frozen == (since < options["freeze_epochs"] and epoch < ends)

    epochs = list(range(30))
    rng.shuffle(epochs)
    assert {epoch: schedule.stage(epoch) for epoch in epochs} == dict(enumerate(stages)), "the order does not matter"


@settings(max_examples=100, deadline=None, derandomize=True)
@given(settings_of_a_schedule, st.integers(1, 30))
def test_it_says_if_there_are_never_as_many_learners_as_asked_for(options: dict[str, Any], max_epochs: int) -> None:
    schedule = ConquerScheduler(**options)
    reached = [stage.phase == "divided" and stage.depth == schedule.split_depth for stage in table(schedule, 30)]
    few = f"split_depth={options['split_depth']} would be reached"
    all_come = options["split_depth"] == 0 or any(reached[:max_epochs])
    told = schedule.shortfall(max_epochs) or ""
    assert (few not in told) == all_come
    for name in ("merge_at", "conquer_at"):
        beyond = options["split_depth"] > 0 and options[name] is not None and options[name] > max_epochs
        assert (f"{name}={options[name]} lies beyond the {max_epochs} epochs" in told) == beyond
    for endless in (None, -1):
        assert (schedule.shortfall(endless) is None) == (options["split_depth"] == 0 or any(reached))


@pytest.mark.parametrize("end", [{"merge_at": 1}, {"conquer_at": 1}])
def test_a_stage_that_ends_before_it_begins_is_said_and_skipped(end: dict[str, int]) -> None:
    schedule = ConquerScheduler(1, **end)
    assert not any(stage.phase == "divided" for stage in table(schedule, 5))
    assert "ends with epoch 1, so no learner ever trains a subspace of its own" in str(schedule.shortfall(5))


def test_clusters_without_subspaces_are_a_plan_and_no_shortfall() -> None:
    schedule = ConquerScheduler(2, merge_at=0, max_epochs=8)
    assert [stage.phase for stage in table(schedule, 8)] == ["undivided"] * 2 + ["merged"] * 6
    assert schedule.shortfall(8) is None
    assert "split_depth=2 would be reached in epoch 4" in str(schedule.shortfall(4))


def test_by_default_it_merges_in_the_middle_and_stays_merged() -> None:
    schedule = ConquerScheduler(2, every_n_epochs=1, max_epochs=10)
    middle = round(10 * MERGE_AT)
    expected = ["undivided"] + ["divided"] * (middle - 1) + ["merged"] * (10 - middle)
    assert [stage.phase for stage in table(schedule, 10)] == expected
    assert schedule.conquer_at is None
    assert ConquerScheduler(2, conquer_at=0.75, max_epochs=40).merge_at is None, "one end of the divided stage will do"


@pytest.mark.parametrize("unknown", [None, -1])
def test_without_a_known_end_there_is_no_merge_by_default_which_is_said(unknown: int | None) -> None:
    schedule = ConquerScheduler(1, max_epochs=unknown)
    assert [stage.phase for stage in table(schedule, 90)] == ["undivided"] * 2 + ["divided"] * 88
    assert "no merge by default; give merge_at as a whole epoch" in str(schedule.shortfall(unknown))
    assert ConquerScheduler(1, merge_at=None, max_epochs=unknown).shortfall(unknown) is None, "as was asked for"
    assert ConquerScheduler(0, max_epochs=unknown).shortfall(unknown) is None


def test_a_stage_beyond_the_end_is_said_with_what_may_have_been_meant() -> None:
    told = str(ConquerScheduler(1, conquer_at=75, max_epochs=8).shortfall(8))
    assert "conquer_at=75 lies beyond the 8 epochs" in told
    assert "such as conquer_at=0.75" in told
    assert ConquerScheduler(1, conquer_at=1.0, max_epochs=8).shortfall(8) is None, "1.0 is how to say never"


class Late(ConquerScheduler):
    """Another rule, with a setting of its own."""

    def __init__(self, wait: int, **options: Any) -> None:
        super().__init__(**options)
        self.wait = wait

    def settings(self) -> dict[str, Any]:
        return super().settings() | {"wait": self.wait}

    def stage(self, epoch: int) -> Stage:
        return super().stage(max(0, epoch - self.wait))


def test_settings_are_plain_values_that_tell_two_plans_apart() -> None:
    options: dict[str, Any] = {"split_depth": 1, "every_n_epochs": 2, "max_epochs": 20}
    settings = ConquerScheduler(**options).settings()
    assert {type(value) for value in settings.values()} <= {int, str, bool, type(None)}
    assert ConquerScheduler(**options).settings() == settings
    others = [{"split_depth": 2}, {"every_n_epochs": 3}, {"warmup_epochs": 0}, {"freeze_epochs": 1}, {"flat": True}]
    others += [{"merge_at": 5}, {"merge_at": None}, {"conquer_at": 15}, {"progressive": True}]
    for other in others:
        assert ConquerScheduler(**options | other).settings() != settings
    late = Late(3, **options).settings()
    assert late == settings | {"schedule": "Late", "wait": 3}


@settings(max_examples=150, deadline=None, derandomize=True)
@given(settings_of_a_schedule, st.booleans(), st.integers(0, 3), st.integers(1, 30))
def test_a_plan_in_words_gives_every_epoch_its_stage(
    options: dict[str, Any], progressive: bool, wait: int, max_epochs: int
) -> None:
    """Read back from the words, whatever the rule."""
    schedule = Late(wait, **options, progressive=progressive and not options["flat"])
    plan = schedule.describe(max_epochs)
    if not options["split_depth"]:
        assert plan == "all epochs: plain training with one learner"
        return
    read: dict[int, str] = {}
    for part in plan.removeprefix("epochs ").replace("all epochs", "from 0 on").split("; "):
        when = re.fullmatch(r"(from )?(\d+)(?:-(\d+)| on)?: (.*)", part)
        if when is not None:
            first = int(when[2])
            last = max_epochs - 1 if when[1] else int(when[3] or first)
            read |= dict.fromkeys(range(first, last + 1), when[4])
    stages = table(schedule, max_epochs)
    words = {"undivided": "undivided", "merged": "merged, ", "conquered": "conquered, ", "divided": " learners"}
    assert sorted(read) == list(range(max_epochs))
    for epoch, stage in enumerate(stages):
        assert words[stage.phase] in read[epoch]
        assert stage.phase not in ("divided", "merged") or f"{2**stage.depth} " in read[epoch]
    assert f"; {sum(stage.divides for stage in stages)} division" in plan
    assert ("frozen" in plan) == any(stage.frozen for stage in stages)


@pytest.mark.parametrize(
    ("options", "max_epochs", "plan"),
    [
        ({"merge_at": 9}, 12, "2-3: 2 learners; 4-8: 4 learners; from 9 on: merged, the full"),
        ({"merge_at": 5, "conquer_at": 6}, None, "4: 4 learners; 5: merged, the full embedding on single-cluster"),
        ({"merge_at": 5, "conquer_at": 6}, -1, "; from 6 on: conquered, the full embedding on all the data"),
        ({"conquer_at": 6, "progressive": True}, None, "6-7: 2 learners; from 8 on: conquered, "),
        ({"merge_at": None}, None, "epochs 0-1: undivided; 2-3: 2 learners; from 4 on: 4 learners"),
        ({"flat": True, "warmup_epochs": 0, "merge_at": None}, 2, "all epochs: 4 learners; 1 division in all"),
        ({"warmup_epochs": 0, "freeze_epochs": 1}, 0, "frozen for 1 of 2 epochs each"),
    ],
)
def test_a_plan_is_told_in_words(options: dict[str, Any], max_epochs: int | None, plan: str) -> None:
    assert plan in ConquerScheduler(2, **options, max_epochs=max_epochs).describe(max_epochs)


def test_a_stage_says_what_is_trained_on_what() -> None:
    assert "full embedding on all the data" in Stage("undivided", 0).describe(1)
    divided = Stage("divided", 3).describe(8)
    assert "its own subspace" in divided
    assert "single clusters, 8 of them" in divided
    merged = Stage("merged", 3).describe(4)
    assert "full embedding" in merged
    assert "single clusters, 4 of them" in merged
    assert "full embedding is trained on all the data" in Stage("conquered", 0).describe(1)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))], ids=["copy", "pickle"])
def test_a_copy_says_the_same(duplicate: Callable[[ConquerScheduler], ConquerScheduler]) -> None:
    schedule = ConquerScheduler(3, freeze_epochs=1, merge_at=0.5, conquer_at=0.8, progressive=True, max_epochs=30)
    assert table(duplicate(schedule), 30) == table(schedule, 30)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split_depth": -1}, "split_depth=-1"),
        ({"split_depth": 1_000_000}, "split_depth=1000000 makes more learners"),
        ({"every_n_epochs": 0}, "every_n_epochs=0 .*at least 1"),
        ({"freeze_epochs": 3}, "freeze_epochs=3 .*every_n_epochs=2"),
        ({"freeze_epochs": -1}, "freeze_epochs=-1"),
        ({"flat": True, "progressive": True}, "progressive=False"),
        ({"conquer_at": -1}, "conquer_at=-1"),
        ({"merge_at": 1.5, "max_epochs": 10}, r"merge_at=1\.5 .*between 0\.0 and 1\.0"),
        ({"warmup_epochs": -0.5, "max_epochs": 10}, r"warmup_epochs=-0\.5"),
        ({"conquer_at": 0.5}, r"conquer_at=0\.5 .*max_epochs"),
        ({"conquer_at": 0.5, "max_epochs": -1}, r"conquer_at=0\.5 .*max_epochs"),
        ({"conquer_at": "0.75"}, "conquer_at='0.75' must be an epoch"),
        ({"merge_at": "Auto"}, "merge_at='Auto' must be an epoch"),
        ({"merge_at": True}, "merge_at=True must be an epoch"),
        ({"conquer_at": float("nan"), "max_epochs": 10}, "conquer_at=nan must be an epoch"),
        ({"warmup_epochs": [1]}, r"warmup_epochs=\[1\] must be an epoch"),
        ({"split_depth": 2.0}, r"split_depth=2\.0 must be a whole number"),
        ({"split_depth": True}, "split_depth=True must be a whole number"),
        ({"every_n_epochs": "2"}, "every_n_epochs='2' must be a whole number"),
        ({"freeze_epochs": None}, "freeze_epochs=None must be a whole number"),
        ({"flat": "no"}, "flat='no' must be True or False"),
        ({"progressive": 1}, "progressive=1 must be True or False"),
        ({"merge_at": 20, "conquer_at": 10}, "merge_at=20 .*conquer_at=10"),
        ({"merge_at": 20, "conquer_at": 0.5, "max_epochs": 30}, r"merge_at=20 .*conquer_at=0\.5 \(epoch 15\)"),
    ],
)
def test_what_cannot_be_scheduled_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ConquerScheduler(**options)


def test_stages_may_begin_together() -> None:
    schedule = ConquerScheduler(2, warmup_epochs=3, merge_at=3, conquer_at=5)
    assert [stage.phase for stage in table(schedule, 6)] == ["undivided"] * 3 + ["merged"] * 2 + ["conquered"]
    never = ConquerScheduler(2, warmup_epochs=3, conquer_at=3)
    assert depths(never, 6) == [0] * 6


def test_a_training_that_ends_with_the_learners_apart_is_told_so():
    apart = ConquerScheduler(2, merge_at=None, max_epochs=12).describe(12)
    assert "the training ends in the divided stage" in apart
    assert "ends in the divided stage" not in ConquerScheduler(2, max_epochs=12).describe(12)
