"""Make a folder of views: the 1,000 random objects that come with pybullet, each seen from many sides.

    pip install pybullet                     # has wheels for Python 3.11 only
    python benchmarks/objects.py views
    python train.py dataset=image_folder dataset.root=views/own data.num_workers=0 image_size=32

``views/own`` shows every object in its own colour, ``views/random`` each of its images in another one: the same objects
from the same directions, so that the two folders differ in one thing only, whether colour carries over.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

COLOURS = ("own", "random")


def render(number: int, views: int, size: int, colours: str) -> Iterator[Image.Image]:
    """Yield an object from directions all around it, the camera held at any angle.

    Args:
        number: the object, from 0 to 999; its directions and colours hang on this alone.
        views: how many.
        size: width and height in pixels.
        colours: ``own`` or ``random``.
    """
    import pybullet
    import pybullet_data

    chance = np.random.default_rng(number)
    path = Path(pybullet_data.getDataPath()) / "random_urdfs" / f"{number:03d}" / f"{number:03d}.urdf"
    body = pybullet.loadURDF(str(path))
    low, high = (np.array(corner) for corner in pybullet.getAABB(body))
    centre, radius = (low + high) / 2, float(np.linalg.norm(high - low)) / 2
    projection = pybullet.computeProjectionMatrixFOV(2 * np.degrees(np.arcsin(1 / 3)), 1, 0.1 * radius, 10 * radius)
    for _ in range(views):
        direction, up, colour = chance.normal(size=3), chance.normal(size=3), chance.random(3)
        direction /= np.linalg.norm(direction)
        if colours == "random":
            pybullet.changeVisualShape(body, -1, rgbaColor=[*colour, 1])
        view = pybullet.computeViewMatrix((centre + 3 * radius * direction).tolist(), centre.tolist(), up.tolist())
        pixels: Any = pybullet.getCameraImage(
            *(size, size, view, projection),
            lightDirection=(centre + direction).tolist(),
            shadow=0,
            renderer=pybullet.ER_TINY_RENDERER,
        )[2]
        yield Image.fromarray(np.array(pixels, dtype=np.uint8).reshape(size, size, 4)[..., :3])
    pybullet.removeBody(body)


def main() -> None:
    """Draw all objects in both kinds of colour."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a new folder for the images")
    parser.add_argument("--objects", type=int, default=1000)
    parser.add_argument("--views", type=int, default=16)
    parser.add_argument("--size", type=int, default=40)
    arguments = parser.parse_args()
    import pybullet

    pybullet.connect(pybullet.DIRECT)
    for colours in COLOURS:
        for number in range(arguments.objects):
            folder = arguments.folder / colours / f"{number:03d}"
            folder.mkdir(parents=True)
            for view, image in enumerate(render(number, arguments.views, arguments.size, colours)):
                image.save(folder / f"{view:02d}.png")
    print(f"{arguments.objects * arguments.views} images each in {' and '.join(COLOURS)} colours in {arguments.folder}")


if __name__ == "__main__":
    main()
