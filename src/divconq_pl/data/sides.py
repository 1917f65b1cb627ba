"""Objects with several sides: a retrieval data set whose classes look different from side to side.

It is rendered from matplotlib's typefaces, with nothing to download.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from divconq_pl.data.characters import FACES, characters, draw_in_all, load_fonts, name_of, place
from divconq_pl.data.dataset import ArrayDataset
from divconq_pl.data.rendered import Rendered, RenderedImages
from divconq_pl.data.styles import STYLES, paint
from divconq_pl.errors import InputError

MIN_FACES = 4


class Sides(RenderedImages):
    """Render objects as a retrieval data set: class = object, image = one of its sides.

    A side is a character in the style of that side: white on black, black on white, over stripes, over a checkerboard
    and so on; the images of a side are typefaces. Each object has characters of its own, drawn at random. So what makes
    two images of one side alike holds for all objects, new ones as well; that one side belongs to another holds for one
    object and no other, and can only be learned by heart. So it is with the front and the back of a product.

    ``groups`` of the parts says which side an image shows; ``group_names`` names the styles.

    Args:
        cache_dir: see :class:`~divconq_pl.data.rendered.RenderedImages`.
        num_classes: number of objects over all parts; None for all, about 5,000 divided by ``num_sides``.
        num_sides: number of sides of an object, at most 8. With 1 they are much like :class:`.Glyphs`.
        images_per_side: images of each side of an object, in different typefaces while there are any.
        arguments: those of :class:`~divconq_pl.data.rendered.RenderedImages`.

    Raises:
        InputError: for arguments out of range.
    """

    name = "sides"
    format_version = 1
    drawn_from = ("num_classes", "num_sides", "images_per_side", "rotation", "size", "seed")

    def __init__(
        self,
        cache_dir: str | Path | None = None,
        *,
        num_classes: int | None = 800,
        num_sides: int = 4,
        images_per_side: int = 4,
        **arguments: Any,
    ) -> None:
        super().__init__(cache_dir, num_classes=num_classes, **arguments)
        if not 1 <= num_sides <= len(STYLES):
            raise InputError(f"num_sides={num_sides} is out of range; use 1 to {len(STYLES)}, a style for each")
        if images_per_side < 1:
            raise InputError(f"images_per_side={images_per_side} leaves no image; use 1 or more")
        if num_sides * images_per_side < 2:
            raise InputError("one image of one side leaves no pair of a class; use images_per_side=2 or more")
        self.num_sides = num_sides
        self.images_per_side = images_per_side

    def _label(self, rendered: Rendered) -> ArrayDataset:
        objects = rendered.codes.reshape(-1, self.num_sides, self.images_per_side)
        label, side, _ = np.indices(objects.shape).reshape(3, -1)
        names = [" ".join(f"U+{code:04X}" for code in sides) for sides in objects[:, :, 0].tolist()]
        styles = list(STYLES)[: self.num_sides]
        shown = zip(side.tolist(), rendered.codes.tolist(), rendered.faces.tolist(), strict=True)
        return ArrayDataset(
            rendered.images,
            torch.from_numpy(label),
            names,
            origins=[f"{styles[s]}, {name_of(code)}, {FACES[face]}" for s, code, face in shown],
            groups=torch.from_numpy(side),
            group_names=styles,
        )

    def _render(self) -> Rendered:
        """Render object by object, side by side."""
        available = characters(MIN_FACES)
        most = len(available) // self.num_sides
        n = most if self.num_classes is None else self.num_classes
        if n > most:
            raise InputError(
                f"num_classes={n} with num_sides={self.num_sides}, but there are {len(available)} characters, each of "
                f"them for one side of one object; use at most num_classes={most}"
            )
        fonts = load_fonts(self.size)
        drawn = np.random.default_rng(self.seed).permutation(available)[: n * self.num_sides]
        styles = list(STYLES)[: self.num_sides]
        images, codes, faces = [], [], []
        for i, code in enumerate(tqdm(drawn.tolist(), desc="Rendering objects", unit="side", disable=None)):
            covered = draw_in_all(fonts, code)
            rng = np.random.default_rng([self.seed, code])
            chosen = np.resize(rng.permutation(list(covered)), self.images_per_side).tolist()
            for face, jitter in zip(chosen, rng.uniform(-1, 1, size=(self.images_per_side, 4)), strict=True):
                placed = place(covered[face], self.size, self.rotation, jitter)
                images.append(paint(placed, styles[i % self.num_sides]))
                codes.append(code)
                faces.append(face)
        return Rendered(np.stack(images), np.array(codes, dtype=np.int64), np.array(faces, dtype=np.int64))
