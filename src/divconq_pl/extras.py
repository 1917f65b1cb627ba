"""What the optional parts of the package need to be installed."""

from __future__ import annotations

from importlib.util import find_spec


def require_packages(part: str, extra: str, *packages: str) -> None:
    """Refuse to go on without the packages that a part of this package is made with.

    Args:
        part: The part that is about to be imported.
        extra: The extra of this package that brings them.
        packages: Names to import, of which none is imported here.

    Raises:
        ModuleNotFoundError: If one is not installed; it says in one line what to install.
    """
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        raise ModuleNotFoundError(
            f'{part} needs {", ".join(missing)}, not installed here: pip install "divconq-pl[{extra}]"', name=missing[0]
        )
