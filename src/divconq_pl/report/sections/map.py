"""The test embedding in two dimensions."""

from __future__ import annotations

import json
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from markupsafe import Markup
from numpy.typing import NDArray
from torch import Tensor

from divconq_pl.report.material import Material, Missing
from divconq_pl.report.svg import colour_of
from divconq_pl.report.thumbnails import Thumbnails

_MOST, _PICTURES = 1500, 700


def show_map(material: Material, thumbnails: Thumbnails) -> dict[str, Any]:
    """Return the points with their colours and pictures."""
    test = material.test
    if test is None or not material.embeddings or len(material.embeddings[0]) < 3:
        raise Missing("the run was not tested, so there is nothing to draw a map of")
    embeddings = material.embeddings[0].detach().cpu().float()
    shown = np.unique(np.linspace(0, len(embeddings) - 1, min(_MOST, len(embeddings))).round().astype(int))
    values = embeddings[torch.from_numpy(shown)]
    places, method, explained = flatten(values)
    labels = test.labels[shown]
    classes = np.unique(labels, return_inverse=True)[1]
    colours = {"class": [_class_colour(int(c), int(classes.max()) + 1) for c in classes]}
    if material.centres is not None:
        nearest = (values @ material.centres.detach().cpu().float().T).argmax(1).tolist()
        colours["learner"] = [colour_of(k, len(material.centres)) for k in nearest]
    if material.answers is not None and "recall_at_1" in material.answers.values:
        hits = material.answers.values["recall_at_1"].cpu().numpy()[shown]
        colours["error"] = ["var(--good)" if hit else "var(--bad)" for hit in hits]
    stride = max(1, -(-len(shown) // _PICTURES))
    pictures = [thumbnails.make(test, int(i), 48) if n % stride == 0 else "" for n, i in enumerate(shown)]
    points = [
        {"x": round(float(x), 1), "y": round(float(y), 1), "n": test.class_of(int(i)), "p": picture}
        for (x, y), i, picture in zip(places, shown, pictures, strict=True)
    ]
    return {
        "data": _as_script({"points": points, "colours": colours}),
        "points": points,
        "colours": colours,
        "method": method,
        "explained": explained,
        "shown": len(shown),
        "all": len(embeddings),
    }


def flatten(values: Tensor) -> tuple[NDArray[np.float64], str, float | None]:
    """Put points on a map of 600 x 400: by UMAP where umap-learn is installed, else by PCA.

    Returns:
        Places, shape (N, 2); the method; the share of the variance that the two dimensions of PCA have.
    """
    if find_spec("umap") is not None:
        import umap

        flat = np.asarray(umap.UMAP(random_state=0).fit_transform(values.numpy()), dtype=float)
        return _fit(flat), "UMAP", None
    centred = values - values.mean(0)
    _, spread, directions = torch.linalg.svd(centred, full_matrices=False)
    flat = (centred @ directions[:2].T).double().numpy()
    if flat.shape[1] < 2:
        flat = np.column_stack([flat[:, 0], np.zeros(len(flat))])
    shares = spread.double() ** 2
    return _fit(flat), "PCA", float(shares[:2].sum() / shares.sum().clamp(min=1e-12))


def _fit(flat: NDArray[np.float64]) -> NDArray[np.float64]:
    low, high = flat.min(axis=0), flat.max(axis=0)
    fitted: NDArray[np.float64] = (flat - low) / np.maximum(high - low, 1e-9) * [580, 380] + [10, 10]
    return fitted


def _class_colour(place: int, count: int) -> str:
    return f"hsl({360 * (place * 0.618034 % 1):.0f} {55 + 25 * (place % 3 == 0)}% {42 + 12 * (place % 2)}%)"


def _as_script(data: object) -> Markup:
    """Return JSON that can stand inside a script element, whatever names it holds."""
    text = json.dumps(data, ensure_ascii=True, separators=(",", ":"))
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)
