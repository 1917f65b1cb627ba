"""The images nearest to the centre of each cluster."""

from __future__ import annotations

from typing import Any

import numpy as np

from divconq_pl.report.material import Material, Missing, name_commonest
from divconq_pl.report.svg import colour_of
from divconq_pl.report.thumbnails import Thumbnails

_MOST_CLUSTERS, _IMAGES = 16, 12


def show_clusters(material: Material, thumbnails: Thumbnails) -> dict[str, Any]:
    """Return the pictures of each cluster of the last division."""
    if not material.divisions or material.train is None or material.assignment is None:
        raise Missing("nothing was divided, so there are no clusters to look at")
    last, images = material.divisions[-1], material.train
    groups, names = images.groups, images.group_names
    central = last.get("central") or _pick(material.assignment)
    blocks = []
    for cluster, members in list(enumerate(central))[:_MOST_CLUSTERS]:
        pictures = [
            {"uri": thumbnails.make(images, int(i)), "name": f"{images.class_of(int(i))}: {images.name(int(i))}"}
            for i in members[:_IMAGES]
        ]
        blocks.append(
            {
                "number": cluster,
                "colour": colour_of(cluster, len(central)),
                "size": last["sizes"][cluster],
                "pictures": pictures,
                "groups": "" if groups is None else name_commonest(groups[material.assignment == cluster], names),
            }
        )
    return {"blocks": blocks, "hidden": max(len(central) - _MOST_CLUSTERS, 0), "epoch": last["epoch"]}


def _pick(assignment: Any) -> list[list[int]]:
    clusters = range(int(assignment.max()) + 1)
    return [np.flatnonzero(assignment == k)[:_IMAGES].tolist() for k in clusters]
