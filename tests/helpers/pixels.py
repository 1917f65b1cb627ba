"""A folder of images, and what stands in for a network: their pixels."""

import numpy as np
import torch
from PIL import Image

from divconq_pl.data.decoding import read_rgb


class Embedder:
    """Embed images by their pixels, and note which files were asked for.

    Args:
        stop_after: so many images are embedded; then whatever ``stop`` does happens.
    """

    def __init__(self, stop_after=None, stop=None):
        self.files, self.stop_after, self.stop = [], stop_after, stop

    def __call__(self, images):
        rows = []
        for image in images:
            if self.stop_after is not None and len(self.files) >= self.stop_after:
                self.stop()
            self.files.append(image)
            pixels = read_rgb(image) if isinstance(image, str) else image
            rows.append(np.asarray(pixels.resize((4, 4)), dtype=np.float32).flatten() - 127.5)
        return torch.nn.functional.normalize(torch.from_numpy(np.stack(rows)))


def draw_images(folder, count, seed=0):
    """Write images of noise, in folders of five."""
    random = np.random.default_rng(seed)
    for i in range(count):
        draw_image(folder / f"class {i // 5}" / f"{i:03}.png", random)
    return folder


def draw_image(path, random):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(random.integers(0, 256, (4, 4, 3), dtype=np.uint8)).save(path)
    return path
