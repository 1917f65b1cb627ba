"""What is wrong with the input is said in one line."""

import pytest
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from programs import ROOT

from divconq_pl.app.explanation import explain, list_causes
from divconq_pl.errors import InputError


def raised(action):
    with pytest.raises(OmegaConfBaseException) as caught:
        action()
    return caught.value


def explained(error, *arguments):
    return explain(error, list(arguments), ROOT / "conf", "train")


def test_causes_are_listed_from_the_last_to_the_first():
    first, second, third = ValueError("a"), KeyError("b"), InputError("c")
    third.__cause__, second.__context__ = second, first
    assert list_causes(third) == [third, second, first]
    assert explained(third) == "c"


def test_causes_that_lead_in_circles_are_listed_once():
    first, second = ValueError("a"), ValueError("b")
    first.__cause__, second.__context__ = second, first
    assert list_causes(first) == [first, second]


def test_a_key_that_has_moved_is_named_where_it_is_now():
    error = raised(lambda: OmegaConf.merge(struct({"module": {"a": 1}}), {"module": {"nmi_runs": 1}}))
    line = explained(error)
    assert line.startswith("there is no 'module.nmi_runs'; did you mean 'evaluation.nmi_runs'? module has: ")


def test_a_key_that_the_command_removed_is_said_to_be_needed():
    error = raised(lambda: struct({"a": 1}).callbacks)
    assert explained(error, "~callbacks") == "there is no 'callbacks'; the command removed it, but it is needed"


def struct(values):
    config = OmegaConf.create(values)
    OmegaConf.set_struct(config, True)
    return config
