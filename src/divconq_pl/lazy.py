"""Import what a package offers when it is asked for, so that importing the package itself costs nothing."""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any


def import_when_used(package: str) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """Make the ``__getattr__``, ``__dir__`` and ``__all__`` of a package.

    What it offers are its imports of the form ``from module import name as name``, which stand below ``if
    TYPE_CHECKING:``, where type checkers and editors read them; its folders and modules are attributes, too.

    Args:
        package: ``__name__`` in its ``__init__.py``.
    """
    loader: Any = sys.modules[package].__spec__.loader  # type: ignore[union-attr]
    imports = [node for node in ast.walk(ast.parse(loader.get_source(package))) if isinstance(node, ast.ImportFrom)]
    homes = {name.name: str(node.module) for node in imports for name in node.names if name.asname == name.name}

    def get(name: str) -> Any:
        if name in homes:
            value = getattr(import_module(homes[name]), name)
        elif not name.startswith("_") and find_spec(f"{package}.{name}"):
            return import_module(f"{package}.{name}")
        else:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        setattr(sys.modules[package], name, value)
        return value

    def list_names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *homes})

    return get, list_names, sorted(homes)
