"""What reads and writes files needs neither pictures, nor tables, nor the command line."""

import ast
from pathlib import Path

import pytest

import divconq_pl

SOURCES = Path(divconq_pl.__file__).parent.parent


def file_of(module):
    path = SOURCES / module.replace(".", "/")
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


def import_closure(module, seen):
    """Collect all modules that importing one imports at once, as far as they lie in this package."""
    if module in seen or (module.startswith("divconq_pl") and file_of(module) is None):
        return seen
    seen.add(module)
    if module.startswith("divconq_pl"):
        for node in ast.parse(file_of(module).read_text()).body:
            if isinstance(node, ast.ImportFrom):
                for name in (node.module, *(f"{node.module}.{alias.name}" for alias in node.names)):
                    import_closure(name, seen)
            elif isinstance(node, ast.Import):
                seen.update(alias.name for alias in node.names)
    return seen


@pytest.mark.parametrize("name", ["checkpoints", "saving", "results", "export", "interruption"])
def test_files_are_read_and_written_without_pictures_tables_and_command_line(name):
    found = import_closure(f"divconq_pl.app.{name}", set())
    assert found, "there is such a file"
    banned = ("divconq_pl.app.plots", "divconq_pl.app.pictures", "divconq_pl.app.table", "rich")
    banned += ("divconq_pl.app.command", "divconq_pl.app.train")
    assert not [module for module in found if module.startswith(banned)]


def test_an_import_is_found_however_deep():
    assert "divconq_pl.app.plots.tree" in import_closure("divconq_pl.app.train", set())
