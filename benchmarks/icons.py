"""Make a folder of icons: one concept, such as "bell", as many designers have drawn it.

    npm pack @iconify/json
    pip install resvg-py
    python benchmarks/icons.py iconify-json-*.tgz icons
    python train.py dataset=image_folder dataset.root=icons backbone=efficientnet_lite0 image_size=64

A class is a name that an icon has in 20 sets or more; its images are the sets' drawings, black on white, each once.
Sets of several colours and of emoji are left out. The sets have licences of their own, which the package names.
"""

from __future__ import annotations

import argparse
import json
import tarfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def read_sets(package: Path) -> Iterator[dict[str, Any]]:
    """Yield the sets of one colour in the package that npm packs, in the order of their names."""
    with tarfile.open(package) as archive:
        for member in sorted(archive, key=lambda member: member.name):
            file = archive.extractfile(member) if member.name.startswith("package/json/") else None
            if file is not None:
                icons: dict[str, Any] = json.load(file)
                info = icons.get("info", {})
                if not info.get("palette") and info.get("category") != "Emoji":
                    yield icons


def svg_of(icon: dict[str, Any], icons: dict[str, Any]) -> str:
    """Return an icon as a picture of its own, square.

    Args:
        icon: the icon, whose measures may be those of its set.
        icons: its set.

    Example:
        >>> svg_of({"body": "<path/>", "width": 20}, {"height": 10})
        '<svg xmlns="http://www.w3.org/2000/svg" width="20" height="20" viewBox="0 -5.0 20 20"><path/></svg>'
    """
    left, top, width, height = (
        icon.get(name, icons.get(name, default))
        for name, default in (("left", 0), ("top", 0), ("width", 16), ("height", 16))
    )
    side = max(width, height)
    left, top = left - (side - width) / 2 if width < side else left, top - (side - height) / 2 if height < side else top
    box = f'width="{side}" height="{side}" viewBox="{left} {top} {side} {side}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {box}>{icon["body"]}</svg>'


def draw(concepts: dict[str, dict[str, str]], folder: Path, size: int) -> int:
    """Draw every concept once per set, and return how many images that makes; what two sets share is drawn once.

    Args:
        concepts: the pictures, by concept and set.
        folder: where, ``folder/CONCEPT/SET.png``.
        size: width and height in pixels.
    """
    from resvg_py import svg_to_bytes

    count = 0
    for concept, pictures in sorted(concepts.items()):
        (folder / concept).mkdir(parents=True)
        drawn = set()
        for prefix, svg in sorted(pictures.items()):
            image = bytes(svg_to_bytes(svg_string=svg, width=size, height=size, background="white"))
            if image not in drawn:
                (folder / concept / f"{prefix}.png").write_bytes(image)
            drawn.add(image)
        count += len(drawn)
    return count


def main() -> None:
    """Read the sets, and draw the concepts that enough of them have."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", type=Path, help="what npm pack @iconify/json leaves")
    parser.add_argument("folder", type=Path, help="a new folder for the images")
    parser.add_argument("--sets", type=int, default=20, help="in how many sets a concept has to be")
    parser.add_argument("--size", type=int, default=64)
    arguments = parser.parse_args()
    concepts: dict[str, dict[str, str]] = defaultdict(dict)
    for icons in read_sets(arguments.package):
        for name, icon in icons["icons"].items():
            if not icon.get("hidden"):
                concepts[name][icons["prefix"]] = svg_of(icon, icons)
    shared = {name: pictures for name, pictures in concepts.items() if len(pictures) >= arguments.sets}
    count = draw(shared, arguments.folder, arguments.size)
    print(f"{count} images of {len(shared)} concepts in {arguments.folder}")


if __name__ == "__main__":
    main()
