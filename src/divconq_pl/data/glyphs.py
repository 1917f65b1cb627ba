"""Unicode glyphs: a retrieval data set that is rendered from matplotlib's typefaces, with nothing to download.

A class is a character, its images are the typefaces that cover it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from divconq_pl.data.characters import FACES, characters, check_drawing, draw_in_all, load_fonts, name_of, place
from divconq_pl.data.dataset import ArrayDataset, Splits
from divconq_pl.data.rendered import Rendered, RenderingCache, cache_folder
from divconq_pl.data.splitting import split_by_class
from divconq_pl.errors import InputError

FORMAT_VERSION = 1
MIN_FACES = 12


class Glyphs:
    """Render characters as a retrieval data set: class = character, instance = typeface.

    Classes are drawn at random among the letters, numbers, symbols and punctuation that 12 of the 16 faces cover, so
    that scripts are mixed; of characters that look the same (A, Greek Alpha, Cyrillic A) only the first is used. Each
    image is white on black and has one fixed rotation, scale and shift. The same arguments give the same images in any
    process. They are kept in a cache folder; where that cannot be written, in memory only.

    Args:
        cache_dir: the cache folder; by default :func:`.cache_folder`.
        num_classes: number of characters over all parts; None for all, about 2,100.
        images_per_class: upper bound on the images of a class, drawn at random; None for all, 12 to 16.
        rotation: largest rotation in degrees, to either side. With 180 the orientation becomes a strong latent factor
            (and a rotated 6 a 9).
        size: height and width of the images in pixels.
        val_fraction: share of the classes for validation, 0 for none.
        test_fraction: share of the classes for the test.
        fold: for cross-validation, in place of ``val_fraction``: which of ``num_folds`` equal shares of the classes
            that are not for the test is for validation.
        num_folds: number of folds.
        seed: seed of all draws.

    Raises:
        InputError: for arguments out of range.
    """

    def __init__(
        self,
        cache_dir: str | Path | None = None,
        *,
        num_classes: int | None = 1000,
        images_per_class: int | None = None,
        rotation: float = 15.0,
        size: int = 32,
        val_fraction: float = 0.2,
        test_fraction: float = 0.3,
        fold: int | None = None,
        num_folds: int = 4,
        seed: int = 0,
    ) -> None:
        check_drawing(rotation, size)
        if images_per_class is not None and images_per_class < 2:
            raise InputError(f"images_per_class={images_per_class} leaves no pair of a class; use 2 or more")
        if num_classes is not None and num_classes < 4:
            raise InputError(f"num_classes={num_classes} is too few to train and test on; use 4 or more")
        self.cache_dir = cache_folder() if cache_dir is None else Path(cache_dir).expanduser()
        self.num_classes = num_classes
        self.images_per_class = images_per_class
        self.rotation = float(rotation)
        self.size = size
        self.val_fraction = val_fraction
        self.test_fraction = test_fraction
        self.fold = fold
        self.num_folds = num_folds
        self.seed = seed

    @property
    def cache_file(self) -> Path:
        """Where the images are kept; the name depends on all that they depend on."""
        return self._cache.file

    def splits(self) -> Splits:
        """Return training, validation and test part, disjoint in their classes.

        Raises:
            InputError: if there are not as many characters, or too few for the split.
        """
        rendered = self._cache.load(self._render)
        codes = list(dict.fromkeys(rendered.codes.tolist()))
        label = {code: i for i, code in enumerate(codes)}
        data = ArrayDataset(
            rendered.images,
            torch.tensor([label[code] for code in rendered.codes.tolist()]),
            [name_of(code) for code in codes],
            origins=[FACES[face] for face in rendered.faces.tolist()],
        )
        return split_by_class(
            data,
            self.val_fraction,
            self.test_fraction,
            fold=self.fold,
            num_folds=self.num_folds,
            seed=self.seed,
        )

    @property
    def _cache(self) -> RenderingCache:
        knobs = ("num_classes", "images_per_class", "rotation", "size", "seed")
        made_from = {"version": FORMAT_VERSION, **{knob: getattr(self, knob) for knob in knobs}}
        return RenderingCache(self.cache_dir, "glyphs", made_from)

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
