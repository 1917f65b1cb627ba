"""What a package offers is imported when it is used, and looks as if it had been imported all along."""

import ast
import pickle
from importlib import import_module
from pathlib import Path

import pytest

import divconq_pl
from divconq_pl import DivideConquerCallback, InputError
from divconq_pl.lightning.callback import DivideConquerCallback as Same

ROOT = Path(__file__).parents[1]
PACKAGES = ("divconq_pl", *(f"divconq_pl.{floor}" for floor in ("backbones", "data", "inference", "losses", "report")))


def written(package):
    """Return the names that an editor sees in a package, and where they come from."""
    tree = ast.parse(Path(import_module(package).__file__).read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    return {name.asname: node.module for node in block.body for name in node.names}


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_offers_what_an_editor_sees_in_it(package):
    module = import_module(package)
    names = written(package)
    assert module.__all__ == sorted(names)
    assert set(names) <= set(dir(module))
    for name, home in names.items():
        assert getattr(module, name) is getattr(import_module(home), name)
    taken = {}
    exec(f"from {package} import *", taken)
    assert set(taken) - {"__builtins__"} == set(names)


def test_a_name_is_the_same_wherever_it_is_imported_from():
    assert DivideConquerCallback is Same is divconq_pl.DivideConquerCallback
    assert pickle.loads(pickle.dumps(InputError("x"))).args == ("x",)
    assert pickle.loads(pickle.dumps(DivideConquerCallback)) is Same


def test_a_folder_is_an_attribute_and_an_unknown_name_is_none():
    assert divconq_pl.data.ImageFolder is import_module("divconq_pl.data.image_folder").ImageFolder
    assert divconq_pl.backbones.preprocessing.Preprocessing is divconq_pl.data.Preprocessing
    with pytest.raises(AttributeError, match="module 'divconq_pl' has no attribute 'DivideConquerCallbak'"):
        _ = divconq_pl.DivideConquerCallbak
    with pytest.raises(ImportError, match="cannot import name 'nothing'"):
        exec("from divconq_pl.data import nothing")
    assert not hasattr(divconq_pl, "__wrapped__")
