"""What is wrong with the input is said in one line."""

import re
import shlex

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
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


# What a shell hands over, and what has to be typed there.
QUOTED = {
    "dataset.root=my data (1)": "\"dataset.root='my data (1)'\"",
    "dataset.root=照片": "\"dataset.root='照片'\"",
    "dataset.root=/data/x#1": "\"dataset.root='/data/x#1'\"",
    "dataset.root=it's": r'''"dataset.root='it\'s'"''',
    "dataset.root=a&b;c": "\"dataset.root='a&b;c'\"",
    "dataset.root=müll": "\"dataset.root='müll'\"",
    "ckpt_path=logs/epoch=1-step=8.ckpt": "\"ckpt_path='logs/epoch=1-step=8.ckpt'\"",
    "dataset.root=$5 bills (old)": "'dataset.root='\"'\"'$5 bills (old)'\"'\"''",
}


@pytest.mark.parametrize("given", QUOTED)
def test_a_path_that_needs_quotes_is_shown_in_quotes(given):
    with pytest.raises(HydraException) as caught:
        OverridesParser.create().parse_overrides([given])
    key, _, value = given.partition("=")
    line = explained(caught.value, given)
    assert line == f"the value {value} of {key} has to be in quotes, and these in quotes for the shell: {QUOTED[given]}"
    (typed,) = shlex.split(QUOTED[given])
    (read,) = OverridesParser.create().parse_overrides([typed])
    assert (read.key_or_group, read.value()) == (key, value)


@pytest.mark.parametrize("given", ["loss", "a b=1"])
def test_what_quotes_do_not_help_is_said_as_hydra_says_it(given):
    with pytest.raises(HydraException) as caught:
        OverridesParser.create().parse_overrides([given])
    assert "has to be in quotes" not in explained(caught.value, given)


def test_a_key_of_another_choice_is_named_with_the_choices_that_have_it():
    error = raised(lambda: struct({"cache_dir": None}).root)
    error.args = ("Key 'dataset.root' is not in struct",)
    line = explained(error, "dataset.root=MYFOLDER")
    assert re.fullmatch(
        r"there is no 'dataset\.root'; it is in dataset=cars196, .*image_folder, .*"
        r"; for a folder of your own images add dataset=image_folder",
        line,
    )


@pytest.mark.parametrize(
    "text",
    [
        "unable to write to file </torch_12_3_4>: No space left on device (28)",
        "unable to allocate shared memory(shm) for file </torch_12_3_4>: Resource temporarily unavailable (11)",
        "DataLoader worker (pid 9) is killed by signal: Bus error. It is possible that dataloader's workers are out of "
        "shared memory. Please try to raise your shared memory limit.",
        "Caught RuntimeError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n  ...\n"
        "RuntimeError: unable to write to file </torch_12_3_4>: No space left on device (28)",
    ],
)
def test_shared_memory_that_is_full_is_named_with_what_to_change(text):
    line = explained(RuntimeError(text))
    assert line.startswith("the shared memory /dev/shm is full")
    assert "data.num_workers=" in line
    assert "\n" not in line


def struct(values):
    config = OmegaConf.create(values)
    OmegaConf.set_struct(config, True)
    return config
