"""How the pages of this folder become a web site: ``sphinx-build -W docs docs/_build``, without a network."""

from __future__ import annotations

import pkgutil
from importlib import import_module
from pathlib import Path

from sphinx.ext.napoleon import GoogleDocstring

import divconq_pl

project = "divconq-pl"
author = "the divconq-pl contributors"
project_copyright = author
release = divconq_pl.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
exclude_patterns = ["_build"]
nitpicky = True
# What other projects document, which a build without a network cannot look up; and names of types, which have no page.
nitpick_ignore_regex = [
    ("py:.*", r"(?!divconq_pl\.)\w+(\.\w+)+"),
    ("py:class", r"divconq_pl\.data\.\w+\.Data|Identities|NDArray|Path|Tensor|Transform"),
]

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
add_module_names = False
toc_object_entries_show_parents = "hide"
napoleon_use_ivar = True
# A docstring of this project leaves types to the annotations: what stands before a colon is text.
GoogleDocstring._parse_attribute_docstring = lambda self: self._dedent(self._consume_to_end())
GoogleDocstring._consume_returns_section = lambda self, preprocess_types=False: [
    ("", "", self._dedent(self._consume_to_next_section()))
]

html_theme = "furo"
html_title = f"divconq-pl {release}"
html_static_path = ["_static"]
html_css_files = ["tables.css"]
html_show_sphinx = False
html_copy_source = False
html_theme_options = {"top_of_page_buttons": []}


def write_reference(folder: Path) -> None:
    """Write a page for each folder of the package that others may import, with everything public in its modules.

    Args:
        folder: where the pages go; git ignores them.
    """
    folder.mkdir(exist_ok=True)
    floors = {module.name for module in pkgutil.iter_modules(divconq_pl.__path__) if module.ispkg}
    for floor in sorted(floors - {"app", "conf"} | {"errors"}):
        package = import_module(f"divconq_pl.{floor}")
        inside = pkgutil.walk_packages(getattr(package, "__path__", []), f"{package.__name__}.")
        modules = [module.name for module in inside if "._" not in module.name]
        members = "" if modules else "\n   :members:"
        title = package.__name__
        page = [f"{title}\n{'=' * len(title)}\n", f".. automodule:: {title}{members}\n"]
        for module in sorted(modules):
            name = module.removeprefix(f"{package.__name__}.")
            page.append(f"{name}\n{'-' * len(name)}\n")
            page.append(f".. automodule:: {module}\n   :members:\n   :ignore-module-all:\n")
        path, text = folder / f"{floor}.rst", "\n".join(page)
        if not path.exists() or path.read_text() != text:  # or it is read again by every build
            path.write_text(text)


write_reference(Path(__file__).parent / "api")
