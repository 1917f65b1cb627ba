"""Values of the wrong kind are refused by the key that the user sets."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import pytest
from omegaconf import OmegaConf
from pytorch_metric_learning import losses

from divconq_pl import DivideConquerCallback, InputError
from divconq_pl.app.checks.values import check_arguments, check_values
from divconq_pl.data import CUB200, RetrievalDataModule, VehicleID


class Part:
    def __init__(
        self,
        number: float = 1.0,
        *,
        whole: int = 1,
        text: str | Path = "",
        flag: bool = False,
        choice: Literal["a", "b"] | None = None,
        made_or_chosen: Literal["a"] | Callable[[], int] = "a",
        several: Sequence[int | None] = (),
        entries: dict[str, int] | None = None,
        made: Callable[[], int] | None = None,
        unknown=0.5,
        free=None,
    ):
        pass


HERE = f"{__name__}.Part"


def check(**values):
    check_values(OmegaConf.create({"part": {"_target_": HERE, **values}}))


@pytest.mark.parametrize(
    ("name", "right", "wrong", "message"),
    [
        ("number", [1, 0.5, float("nan")], ["x", None, True, [1], {}], "a number"),
        ("whole", [1, -1], ["x", 1.5, True, None], "a whole number"),
        ("whole", [], [2**70], "has more than 64 bits"),
        ("number", [1e30], [2**70], "has more than 64 bits"),
        ("text", ["x", ""], [2024], r"a text; write part\.text=\\'2024\\' to give it as a text"),
        ("flag", [True, False, 0, 1], ["yes", 2, None], "true or false"),
        ("choice", ["a", "b", None], ["c", "", True, 1, ["a"]], "'a', 'b' or null"),
        ("made_or_chosen", ["a", {"_target_": "os.getcwd"}], ["b", None, {}], "'a' or a mapping with _target_"),
        ("several", [[], [1, None]], ["x", [1, "x"], 1], "a list"),
        ("entries", [None, {"a": 1}], ["x", 1], "a mapping or null"),
        ("made", [None, {"_target_": "os.getcwd"}], [0.5, {"a": 1}, "x"], "a mapping with _target_ or null"),
        ("unknown", [1, 2.5, None], ["x", [], True], "a number or null"),
        ("free", ["x", 1, None, []], [], ""),
    ],
)
def test_values_are_of_the_kind_that_the_type_hint_or_default_says(name, right, wrong, message):
    for value in right:
        check(**{name: value})
    for value in wrong:
        with pytest.raises(InputError, match=rf"^part\.{name}=.*{message}$"):
            check(**{name: value})


def test_entries_of_mappings_are_named():
    with pytest.raises(InputError, match=r"^part\.entries\.b='x' must be a whole number$"):
        check(entries={"a": 1, "b": "x"})


def test_the_key_is_named_that_the_value_comes_from():
    config = {"size": "x", "inner": {"side": "${size}"}, "part": {"_target_": HERE, "whole": "${inner.side}"}}
    with pytest.raises(InputError, match=r"^size='x' must be a whole number$"):
        check_values(OmegaConf.create(config))


def test_what_is_not_given_yet_or_cannot_be_known_is_left_to_whoever_builds_it():
    check(whole="???")
    check_values(OmegaConf.create({"n": "???", "part": {"_target_": HERE, "whole": "${n}"}}))
    check_values(OmegaConf.create({"part": {"_target_": "no.such.thing", "whole": "x"}}))


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_is_one_that_numpy_takes(seed):
    with pytest.raises(InputError, match=rf"^part\.seed={seed} must be a whole number from 0 to 4294967295$"):
        check(seed=seed)


@pytest.mark.parametrize(("given", "quoted"), [([1, 2, 3], "'1','2','3'"), (["a", 7], "'a','7'"), ([True], "'True'")])
def test_a_list_of_numbers_for_names_is_shown_in_quotes(given, quoted):
    config = OmegaConf.create(
        {"dataset": {"_target_": "divconq_pl.data.ImageFolder", "root": "x", "test_classes": given}}
    )
    with pytest.raises(InputError) as refused:
        check_values(config)
    typed = f"dataset.test_classes=[{quoted}]"
    assert str(refused.value) == f'dataset.test_classes={given} must be a list of texts; write "{typed}"'


def test_arguments_of_a_function():
    def function(*, runs: int = 0):
        pass

    check_arguments(function, OmegaConf.create({"m": {"runs": 1, "ks": [1]}}), "m", ks=list[int])
    for wrong in ({"runs": "x"}, {"ks": 5}):
        with pytest.raises(InputError, match=rf"^m\.{next(iter(wrong))}="):
            check_arguments(function, OmegaConf.create({"m": wrong}), "m", ks=list[int])


def test_arguments_that_a_function_does_not_take_are_refused():
    def function(*, runs: int = 0):
        pass

    def passes_on(**further: Any):
        pass

    with pytest.raises(InputError, match=r"^there is no 'm\.rnus'; m has: ks, runs$"):
        check_arguments(function, OmegaConf.create({"m": {"rnus": 1}}), "m", ks=list[int])
    check_arguments(passes_on, OmegaConf.create({"m": {"rnus": 1}}), "m")


class Passing(Part):
    """Passes on what it does not know."""

    def __init__(self, text: int, **arguments: Any):
        super().__init__(text=str(text), **arguments)


class Closed(Part):
    """Has a parameter of its own, and passes on nothing."""

    def __init__(self, extra: int = 0):
        super().__init__()


class PassingTwice(Passing):
    def __init__(self, *args: int, **arguments: str):
        super().__init__(*args, **arguments)


@pytest.mark.parametrize("cls", [Passing, PassingTwice])
def test_what_a_class_passes_on_is_checked_by_its_bases(cls):
    def check_passed(**values):
        check_values(OmegaConf.create({"part": {"_target_": f"{__name__}.{cls.__name__}", **values}}))

    check_passed(text=1, number=0.5, arguments={"free": 1})
    for wrong in ({"number": "x"}, {"choice": "c"}, {"text": "x"}):  # the last is of its own
        with pytest.raises(InputError, match=rf"^part\.{next(iter(wrong))}="):
            check_passed(**wrong)


def test_what_a_class_does_not_pass_on_is_not_checked_by_its_bases():
    check_values(OmegaConf.create({"part": {"_target_": f"{__name__}.Closed", "number": "x"}}))


@pytest.mark.parametrize(
    ("target", "key", "value", "message"),
    [
        (
            DivideConquerCallback,
            "subspaces",
            "fixd",
            "'fixed', 'learned', 'zeroed', 'random' or a mapping with _target_",
        ),
        (DivideConquerCallback, "allotment", "equl", "'proportional' or 'equal'"),
        (RetrievalDataModule, "validate_on", "train", "'val', 'test' or null"),
        (CUB200, "val_fraction", "abc", "a number"),
        (VehicleID, "val_fraction", "abc", "a number"),
        (VehicleID, "test_list", "tiny", "'small', 'medium' or 'large'"),
        (VehicleID, "on_bad_image", "ignore", "'stop' or 'skip'"),
        (losses.ContrastiveLoss, "embedding_reg_weight", "abc", "a number or null"),
    ],
)
def test_arguments_that_were_accepted_once(target, key, value, message):
    name = f"{target.__module__}.{target.__qualname__}"
    with pytest.raises(InputError, match=rf"^part\.{key}='{value}' must be {message}$"):
        check_values(OmegaConf.create({"part": {"_target_": name, key: value}}))
