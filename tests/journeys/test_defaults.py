"""A default has one home: what conf/ says is what the signature says, but for what is listed here with its reason."""

import inspect
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.utils import get_object
from omegaconf import OmegaConf

CONF = Path(__file__).parents[2] / "conf"
ARGUMENTS = {"evaluation": "divconq_pl.app.evaluation.measure"}
"""Groups of values that a function gets, without a ``_target_``."""
OF_GROUP = "what its name says"
OF_RECALL = "the K that its papers report"
INTENDED = {
    # (choice, key): (value in conf/, default of the signature, why)
    ("train", "module.dropout"): (0.01, 0.0, "the authors' value; a module in a project of its own drops nothing"),
    ("divide=flat", "divide.flat"): (True, False, OF_GROUP),
    ("divide=clusters", "divide.merge_at"): (0, "auto", OF_GROUP),
    ("divide=random", "divide.clustering"): ("random", "auto", OF_GROUP),
    ("selection=best_test_epoch", "data.validate_on"): ("test", "val", OF_GROUP),
    ("selection=best_test_epoch", "dataset.val_fraction"): (0, 0.2, OF_GROUP),
    ("selection=last_epoch", "data.validate_on"): (None, "val", OF_GROUP),
    ("selection=last_epoch", "dataset.val_fraction"): (0, 0.2, OF_GROUP),
    ("dataset=market1501", "evaluation.cross_camera"): (True, False, "its usual protocol"),
    ("evaluate", "evaluation.recall_ks"): (None, (1, 2, 4, 8), "the checkpoint's own, which is known when it is read"),
    ("evaluate", "data.num_workers"): (None, 0, "likewise"),
    **{
        (f"dataset={name}", f"data.{key}"): values
        for name in (
            *("image_folder", "csv", "huggingface"),
            *("cub200", "cars196", "sop", "inshop", "vehicle_id", "market1501"),
        )
        for key, values in {
            "num_workers": (None, 0, "photographs take so long to decode that one process cannot keep up"),
            "eval_batch_size": (128, 256, "photographs need much memory"),
        }.items()
    },
    **{
        (f"dataset={name}", "evaluation.recall_ks"): (ks, (1, 2, 4, 8), OF_RECALL)
        for name, ks in {
            "sop": [1, 10, 100, 1000],
            "inshop": [1, 10, 20, 30, 40, 50],
            "vehicle_id": [1, 5],
            "market1501": [1, 5, 10],
        }.items()
    },
}


def choices():
    yield "train", "train", []
    yield "evaluate", "evaluate", []
    for file in sorted(CONF.glob("*/*.yaml")):
        if file.parent.name not in ("experiment", "debug"):  # which are what differs
            choice = f"{file.parent.name}={file.stem}"
            yield choice, "train", [choice]


def of_this_package(node, place=""):
    """Yield where in a configuration something of this package is built or called, what, and with which values."""
    if isinstance(node, dict):
        target = str(node.get("_target_", ARGUMENTS.get(place, "")))
        if target.startswith("divconq_pl."):
            yield place, get_object(target), node
        for key, value in node.items():
            yield from of_this_package(value, f"{place}.{key}" if place else key)


def defaults(target):
    """Return the defaults of a function, or of a class and of those of ours that it passes further arguments on to."""
    parts = [target]
    if inspect.isclass(target):
        parts = [c for c in target.__mro__ if c.__module__.startswith("divconq_pl.") and "__init__" in vars(c)]
    found = {}
    for part in parts:
        parameters = inspect.signature(part).parameters.values()
        found = {p.name: p.default for p in parameters if p.default is not p.empty} | found
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return found


def follows_another(value):
    return isinstance(value, str) and value.startswith("${")


def differences():
    """Return what a choice sets to something else than the default, unless every run does."""
    found = {}
    for choice, config, overrides in choices():
        with initialize_config_dir(str(CONF), version_base="1.3"):
            tree = OmegaConf.to_container(compose(config, overrides), resolve=False)
        for place, target, node in of_this_package(tree):
            known = defaults(target)
            for key, value in node.items():
                if key not in known or follows_another(value) or isinstance(value, dict) or value == "???":
                    continue
                default = known[key]
                same = list(default) == value if isinstance(default, tuple) else default == value
                where = f"{place}.{key}"
                if not same and (choice == config or found.get((config, where), ())[:1] != (value,)):
                    found[choice, where] = (value, default)
    return found


def test_a_default_is_the_same_in_the_configuration_and_in_the_signature():
    found, intended = differences(), {key: value[:2] for key, value in INTENDED.items()}
    assert {key: value for key, value in found.items() if intended.get(key) != value} == {}, "not meant so"
    assert set(intended) <= set(found), "listed as meant so, and not so any more"
