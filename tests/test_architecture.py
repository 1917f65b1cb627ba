"""The floors of docs/architecture.md hold."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "src" / "divconq_pl"
FLOORS = {
    1: {
        "errors",
        "clustering",
        "continuity",
        "division",
        "shards",
        "storage",
        "subspaces",
        "sampling",
        "schedule",
        "retrieval",
        "nearest",
        "nmi",
        "summary",
    },
    2: {"blocks", "conventions", "features", "isolation", "narrowing"},
    3: {"_compat", "callback", "feature_pass", "module", "resume", "routing"},
    4: {
        "app",
        "arguments",
        "backbones",
        "checkpoint",
        "checkpoint_io",
        "data",
        "evaluation",
        "export",
        "pictures",
        "plots",
        "rehearsal",
        "report",
        "stopping",
        "workers",
    },
}
FLOOR_OF = {room: floor for floor, rooms in FLOORS.items() for room in rooms}
FORBIDDEN = {
    1: {"pytorch_lightning", "lightning", "hydra", "omegaconf", "pytorch_metric_learning", "matplotlib"},
    2: {"pytorch_lightning", "lightning", "hydra", "omegaconf", "matplotlib"},
    3: {"hydra", "omegaconf", "matplotlib"},
    4: set(),
}
FILES = [path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py"]


def room(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{name.name}" for name in node.names)
        elif isinstance(node, ast.Import):
            yield from (name.name for name in node.names)


def test_every_file_has_its_floor():
    assert {room(path) for path in FILES} == set(FLOOR_OF)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_nothing_imports_upwards(path):
    floor = FLOOR_OF[room(path)]
    for module in imported(path):
        parts = module.split(".")
        assert parts[0] not in FORBIDDEN[floor], f"{path.name} imports {module}"
        assert parts[0] not in {"train", "evaluate"}
        if parts[0] == "divconq_pl" and len(parts) > 1 and parts[1] in FLOOR_OF:
            assert FLOOR_OF[parts[1]] <= floor, f"{path.name} imports {module} from a higher floor"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_private_lightning_is_touched_in_one_place(path):
    private = ("_combined_loader", "_data_fetcher", "fit_loop")
    if path.stem != "_compat":
        assert not [name for name in private if name in path.read_text()]
