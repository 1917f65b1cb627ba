"""What it takes to repeat the run."""

from __future__ import annotations

from typing import Any

from divconq_pl.report.material import Material
from divconq_pl.report.thumbnails import Thumbnails


def show_settings(material: Material, thumbnails: Thumbnails) -> dict[str, Any]:
    """Return settings, versions and the command."""
    return {
        "command": material.command,
        "settings": {name: str(value) for name, value in sorted(material.settings.items())},
        "versions": dict(material.versions),
    }
