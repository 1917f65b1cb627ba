"""Unicode glyphs: a retrieval data set that is rendered from matplotlib's typefaces, with nothing to download.

A class is a character, its images are the typefaces that cover it.
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
from divconq_pl.errors import InputError

MIN_FACES = 12


class Glyphs(RenderedImages):
    """Render characters as a retrieval data set: class = character, instance = typeface.

    Classes are drawn at random among the letters, numbers, symbols and punctuation that 12 of the 16 faces cover, so
    that scripts are mixed; of characters that look the same (A, Greek Alpha, Cyrillic A) only the first is used. Each
    image is white on black. With a ``rotation`` of 180 the orientation becomes a strong latent factor (and a rotated 6
    a 9).

    Args:
        cache_dir: see :class:`~divconq_pl.data.rendered.RenderedImages`.
        num_classes: number of characters over all parts; None for all, about 2,100.
        images_per_class: upper bound on the images of a class, drawn at random; None for all, 12 to 16.
        arguments: those of :class:`~divconq_pl.data.rendered.RenderedImages`.

    Raises:
        InputError: for arguments out of range.
    """

    name = "glyphs"
    format_version = 1
    drawn_from = ("num_classes", "images_per_class", "rotation", "size", "seed")

    def __init__(
        self,
        cache_dir: str | Path | None = None,
        *,
        num_classes: int | None = 1000,
        images_per_class: int | None = None,
        **arguments: Any,
    ) -> None:
        super().__init__(cache_dir, num_classes=num_classes, **arguments)
        if images_per_class is not None and images_per_class < 2:
            raise InputError(f"images_per_class={images_per_class} leaves no pair of a class; use 2 or more")
        self.images_per_class = images_per_class

    def _label(self, rendered: Rendered) -> ArrayDataset:
        codes = list(dict.fromkeys(rendered.codes.tolist()))
        label = {code: i for i, code in enumerate(codes)}
        return ArrayDataset(
            rendered.images,
            torch.tensor([label[code] for code in rendered.codes.tolist()]),
            [name_of(code) for code in codes],
            origins=[FACES[face] for face in rendered.faces.tolist()],
        )

    def _render(self) -> Rendered:
        available = characters(MIN_FACES)
        n = len(available) if self.num_classes is None else self.num_classes
        if n > len(available):
            raise InputError(f"num_classes={n}, but there are {len(available)} characters; use at most as many")
        fonts = load_fonts(self.size)
        drawn = np.random.default_rng(self.seed).permutation(available)[:n]
        images, codes, faces = [], [], []
        for code in tqdm(drawn.tolist(), desc="Rendering glyphs", unit="class", disable=None):
            covered = draw_in_all(fonts, code)
            rng = np.random.default_rng([self.seed, code])
            jitter = rng.uniform(-1, 1, size=(len(FACES), 4))
            chosen = list(covered)
            if self.images_per_class is not None:
                keep = np.random.default_rng([self.seed, code, 1]).permutation(len(chosen))[: self.images_per_class]
                chosen = [chosen[i] for i in sorted(keep)]
            for f in chosen:
                images.append(place(covered[f], self.size, self.rotation, jitter[f]))
                codes.append(code)
                faces.append(f)
        return Rendered(np.stack(images), np.array(codes, dtype=np.int64), np.array(faces, dtype=np.int64))
