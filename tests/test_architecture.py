"""The floors of docs/architecture.md hold."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "divconq_pl"
FLOORS = ("core", "metrics", "losses", "lightning", "report", "backbones", "data", "inference", "search", "app")
"""The folders from the ground up: each imports from itself and from those before it."""

BELOW_ALL = {"errors", "extras", "files", "lazy"}
EDGES = {"hydra", "omegaconf", "matplotlib", "rich", "tensorboard", "torchvision", "PIL", "timm"}
LIGHTNING = {"pytorch_lightning", "lightning", "lightning_fabric"}
FORBIDDEN = {
    "core": {*EDGES, *LIGHTNING, "pytorch_metric_learning"},
    "metrics": {*EDGES, *LIGHTNING, "pytorch_metric_learning"},
    "losses": {*EDGES, *LIGHTNING},
    "lightning": EDGES,
    "report": EDGES - {"PIL"},
    "backbones": {"hydra", "omegaconf", "matplotlib", "rich"},
    "data": {"hydra", "omegaconf", "rich"},
    "inference": {"hydra", "omegaconf", "matplotlib", "rich"},
    "search": {"hydra", "omegaconf", "rich", "matplotlib", *LIGHTNING},
    "app": set(),
}
LOOPS = {"fit_loop", "epoch_loop", "epoch_progress", "batch_progress", "val_loop"}
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE)


def place(path):
    return str(path.relative_to(PACKAGE))


def floor_of(path):
    return path.relative_to(PACKAGE).parts[0]


def imported(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{name.name}" for name in node.names)
        elif isinstance(node, ast.Import):
            yield from (name.name for name in node.names)


def private_touches(tree):
    """Yield what is reached into: ``x._y`` where x is not the object itself, loops of a Trainer, private imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            private = node.attr.startswith("_") and not node.attr.endswith("__")
            own = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
            own |= isinstance(node.value, ast.Call) and getattr(node.value.func, "id", "") == "super"
            if (private and not own) or node.attr in LOOPS:
                yield ast.unparse(node)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in LIGHTNING:
            yield from (name.name for name in node.names if name.name.startswith("_"))


def test_the_folders_are_the_floors():
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders == set(FLOORS)
    assert {path.stem for path in PACKAGE.glob("*.py")} == {"__init__", "compare", *BELOW_ALL}


@pytest.mark.parametrize("path", FILES, ids=place)
def test_nothing_imports_upwards(path):
    floor = floor_of(path)
    below = {*BELOW_ALL, *FLOORS[: FLOORS.index(floor) + 1]}
    for module in imported(ast.parse(path.read_text())):
        package, *rest = module.split(".")
        assert package not in FORBIDDEN[floor], f"{place(path)} imports {module}"
        assert package not in {"train", "evaluate"}
        if package == "divconq_pl" and rest:
            assert rest[0] in below, f"{place(path)} imports {module} from a higher floor"


@pytest.mark.parametrize("path", FILES, ids=place)
def test_private_parts_of_lightning_are_touched_in_one_place(path):
    tree = ast.parse(path.read_text())
    knows_lightning = any(module.split(".")[0] in LIGHTNING for module in imported(tree))
    if knows_lightning and "_trainer" not in place(path):
        assert not list(private_touches(tree))


def test_a_private_touch_is_found():
    code = "trainer._x; trainer.fit_loop; self._own; a.__class__; super()._mine()\nfrom lightning_fabric.x import _y"
    assert set(private_touches(ast.parse(code))) == {"trainer._x", "trainer.fit_loop", "_y"}


def test_tests_stand_where_their_sources_do():
    tests = Path(__file__).parent
    assert {path.name for path in tests.iterdir() if path.is_dir() and path.name != "__pycache__"} == {
        *FLOORS,
        "helpers",
        "journeys",
    }


@pytest.mark.parametrize("path", sorted(Path(__file__).parent.rglob("*.py")), ids=lambda path: path.stem)
def test_no_test_imports_another(path):
    modules = {module.split(".")[-1] for module in imported(ast.parse(path.read_text()))}
    assert not {module for module in modules if module.startswith("test_")}
