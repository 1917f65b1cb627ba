"""Pictures: what is drawn, read back from the figure."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch, Rectangle
from matplotlib.text import Text
from numpy.typing import NDArray
from PIL import Image

from divconq_pl.app.plots import gallery, montage, save_figure, tree
from divconq_pl.errors import InputError


def grey(index: int) -> NDArray[np.uint8]:
    """Draw image i in the grey i, so that a picture tells which image it shows."""
    return np.full((20, 20), index, dtype=np.uint8)


def shade(axes: Axes) -> int:
    return int(np.asarray(axes.images[0].get_array())[100, 100, 0])


def assert_texts_apart_and_inside(figure: Figure) -> None:
    """Check that no text overlaps another or leaves the page."""
    figure.draw_without_rendering()
    texts = [text for text in figure.findobj(Text) if text.get_text().strip() and text.get_visible()]
    boxes = [(text.get_text(), text.get_window_extent()) for text in texts]
    for place, (name, box) in enumerate(boxes):
        inside = box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.width and box.y1 <= figure.bbox.height
        assert inside, f"{name!r} leaves the page"
        for other, far in boxes[:place]:
            apart = box.x1 <= far.x0 or far.x1 <= box.x0 or box.y1 <= far.y0 or far.y1 <= box.y0
            assert apart, f"{name!r} overlaps {other!r}"


def division(epoch: int, sizes: list[int], parents: list[int], nmi: float | None = 0.5) -> dict[str, Any]:
    classes = [2] * len(sizes)
    return {"epoch": epoch, "sizes": sizes, "classes": classes, "moved": 1234, "nmi": nmi, "parents": parents}


def boxes_by_row(figure: Figure) -> list[list[Rectangle]]:
    """Return the boxes of a tree from top to bottom and left to right."""
    rows: dict[float, list[Rectangle]] = {}
    for patch in figure.axes[0].patches:
        if isinstance(patch, Rectangle):
            rows.setdefault(round(patch.get_y(), 6), []).append(patch)
    return [sorted(rows[y], key=Rectangle.get_x) for y in sorted(rows)]


def bands(figure: Figure) -> list[tuple[float, float, float, float]]:
    """Return where each band begins (left, right) and ends (left, right)."""
    patches = [patch for patch in figure.axes[0].patches if isinstance(patch, PathPatch)]
    corners = [np.asarray(patch.get_path().vertices) for patch in patches]
    return [(v[0, 0], v[-2, 0], v[3, 0], v[4, 0]) for v in corners]


def test_gallery_frames_and_marks_right_and_wrong_neighbours():
    names = [f"class_{i}" for i in range(100)]
    neighbours = torch.tensor([[10, 20, 30], [40, 50, 60]])
    hits = torch.tensor([[True, False, True], [False, False, True]])
    figure = gallery(grey, names, [5, 6], neighbours, hits)

    cells = figure.axes
    assert [shade(axes) for axes in cells] == [5, 10, 20, 30, 6, 40, 50, 60]
    assert [axes.get_xlabel() for axes in cells[:3]] == ["class 5", "class 10", "class 20"]
    assert [axes.get_title() for axes in cells] == ["query", "1", "2", "3", "", "", "", ""]
    marks = ["".join(text.get_text() for text in axes.texts) for axes in cells]
    assert marks == ["", "✓", "✗", "✓", "", "✗", "✗", "✓"]
    frames = [to_hex(axes.spines["left"].get_edgecolor()) for axes in cells]
    assert len(set(frames)) == 3
    assert frames[1] == frames[3] == frames[7]
    assert frames[2] == frames[5] == frames[6]
    assert_texts_apart_and_inside(figure)


def test_gallery_takes_neighbours_from_another_set():
    figure = gallery(
        grey,
        ["query set"] * 9,
        [3],
        [[0, 1]],
        [[1, 0]],
        gallery_images=lambda index: grey(100 + index),
        gallery_names=["left", "right"],
    )
    assert [shade(axes) for axes in figure.axes] == [3, 100, 101]
    assert [axes.get_xlabel() for axes in figure.axes] == ["query set", "left", "right"]


def test_long_class_names_stay_in_their_column():
    names = [
        "016.A_bird_with_a_name_that_does_not_end_before_the_next_one",
        "LATIN CAPITAL LETTER W WITH CIRCUMFLEX",
        "W" * 60,
        3,
        "",
    ]
    assert_texts_apart_and_inside(gallery(grey, names, [0, 1, 2], [[0, 1, 2, 3, 4]] * 3, [[True] * 5] * 3))
    assert_texts_apart_and_inside(gallery(grey, names, [0], [[1]], [[False]]))


@pytest.mark.parametrize(
    "image",
    [
        Image.new("L", (30, 10), 128),
        Image.new("RGB", (10, 30), (128, 128, 128)),
        Image.new("RGBA", (10, 30), (128, 128, 128, 255)),
        np.full((30, 10), 128, dtype=np.uint8),
        np.full((30, 10, 3), 128 / 255, dtype=np.float32),
    ],
)
def test_any_kind_of_image_can_be_shown(image: Any):
    figure = gallery(lambda index: image, ["a", "b"], [0], [[1]], [[True]])
    picture = np.asarray(figure.axes[1].images[0].get_array())
    assert picture.shape[0] == picture.shape[1]
    assert picture[96, 96].tolist() == [128, 128, 128]
    assert picture[0, 0].tolist() == [255, 255, 255] or picture[0, 0].tolist() == [128, 128, 128]


def test_a_gallery_of_shapes_that_do_not_fit_is_refused():
    none = np.zeros((0, 3))
    for queries, found, hits in ([], none, none), ([1], [[1, 2]], [[1]]), ([1, 2], [[1]], [[1]]):
        with pytest.raises(InputError, match="make no picture"):
            gallery(grey, ["a"] * 5, queries, found, hits)


def test_montage_has_a_titled_block_for_each_cluster():
    assignment = torch.tensor([0] * 5 + [1] + [2] * 1500 + [-1] * 3)
    figure = montage(lambda index: grey(index % 250), assignment)
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == ["cluster 0  ·  5 images", "cluster 1  ·  1 image", "cluster 2  ·  1,500 images"]
    assert_texts_apart_and_inside(figure)


def test_a_montage_names_the_commonest_group_of_each_cluster():
    groups = [0, 0, 0, 0, 1, 1, 2, 2]
    figure = montage(grey, [0] * 5 + [1] * 3, groups=groups, group_names=["front", "back", "top"])
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == ["cluster 0  ·  5 images\n80 % front", "cluster 1  ·  3 images\n67 % top, 33 % back"]


def test_montage_shows_only_images_of_the_cluster_and_spreads_over_it():
    asked: list[int] = []

    def watched(index: int) -> NDArray[np.uint8]:
        asked.append(index)
        return grey(0)

    assignment = [k for k in range(4) for _ in range(100)]
    montage(watched, assignment, learners=[2], per_cluster=5)
    assert asked == [200, 225, 250, 274, 299]
    asked.clear()
    montage(watched, assignment, per_cluster=1000)
    assert asked == list(range(400))


@pytest.mark.parametrize(("clusters", "per_cluster"), [(1, 1), (2, 24), (8, 12), (32, 9)])
def test_montage_of_every_number_of_clusters_is_legible(clusters: int, per_cluster: int):
    figure = montage(grey, [i % clusters for i in range(clusters * 3)], per_cluster=per_cluster)
    assert len(figure.axes) == clusters
    assert_texts_apart_and_inside(figure)


def test_a_montage_of_nothing_is_refused():
    with pytest.raises(InputError, match=r"clusters \[7\] of \[0, 7\]"):
        montage(grey, [0, 1], learners=[0, 7])
    with pytest.raises(InputError, match="no image"):
        montage(grey, [-1, -1])
    with pytest.raises(InputError, match="per_cluster = 0"):
        montage(grey, [0, 1], per_cluster=0)


HISTORY = [
    division(2, [600, 400], [0, 0], nmi=None),
    division(4, [200, 400, 300, 100], [0, 0, 1, 1]),
    division(6, [250, 350, 300, 100], [0, 1, 2, 3], nmi=0.871),
]


def test_tree_has_a_row_for_the_start_each_division_and_the_end():
    figure = tree(HISTORY, conquered_at=9)
    rows = boxes_by_row(figure)
    assert [len(row) for row in rows] == [1, 2, 4, 4, 1]
    whole = rows[0][0].get_width()
    for row, entry in zip(rows[1:4], HISTORY, strict=True):
        shares = [box.get_width() / whole for box in row]
        assert shares == pytest.approx([size / 1000 for size in entry["sizes"]], abs=0.01)
    assert rows[-1][0].get_width() == whole

    texts = [text.get_text() for text in figure.axes[0].texts]
    for said in ("start", "epoch 2", "epoch 4", "epoch 6", "epoch 9", "600", "350", "1,000 images"):
        assert said in texts
    assert "2 clusters" in texts
    assert "4 clusters\n1,234 moved, NMI 0.87" in texts
    assert_texts_apart_and_inside(figure)
    assert len(boxes_by_row(tree(HISTORY))) == 4


def test_bands_lead_from_the_parent_to_the_cluster():
    figure = tree(HISTORY, conquered_at=9)
    rows = boxes_by_row(figure)
    parents = [[0, 0], [0, 0, 1, 1], [0, 1, 2, 3], None]
    found = iter(bands(figure))
    for above, row, descent in zip(rows, rows[1:], parents, strict=False):
        links = [(p, 0) for p in range(len(above))] if descent is None else [(p, k) for k, p in enumerate(descent)]
        edge = low_edge = above[0].get_x()
        for parent, child in links:
            left, right, low_left, low_right = next(found)
            for box, start, end in ((above[parent], left, right), (row[child], low_left, low_right)):
                assert box.get_x() - 0.03 <= start < end <= box.get_x() + box.get_width() + 0.03
            # Side by side, without a gap and without an overlap.
            assert (left, low_left) == pytest.approx((edge, low_edge), abs=0.03)
            edge, low_edge = right, low_right
    assert next(found, None) is None


def test_a_flat_division_and_a_progressive_merge_are_drawn():
    merged = [division(2, [1, 2, 3, 4], [0] * 4), division(4, [3, 7], [0, 2]), division(6, [10], [0])]
    figure = tree(merged)
    assert [len(row) for row in boxes_by_row(figure)] == [1, 4, 2, 1]
    assert len(bands(figure)) == 4 + 4 + 2


def test_a_history_that_begins_in_the_middle_has_no_start():
    assert [len(row) for row in boxes_by_row(tree(HISTORY[2:]))] == [4]


def test_of_a_long_run_only_the_changes_are_shown():
    same = [division(6 + 2 * i, [250, 350, 300, 100], [0, 1, 2, 3]) for i in range(40)]
    figure = tree([*HISTORY[:2], *same], conquered_at=90)
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert [text for text in texts if text.startswith(("epoch", "⋮"))] == [
        "epoch 2",
        "epoch 4",
        "epoch 6",
        "epoch 84",
        "⋮ 38 more",
        "epoch 90",
    ]
    assert_texts_apart_and_inside(figure)


@pytest.mark.parametrize("sizes", [[1861] * 32, [59_000] + [18] * 31])
def test_thirty_two_clusters_are_legible(sizes: list[int]):
    history = [division(2 * s, [sum(sizes) // 2**s] * 2**s, [k // 2 for k in range(2**s)]) for s in range(1, 5)]
    figure = tree([*history, division(10, sizes, [k // 2 for k in range(32)])])
    assert_texts_apart_and_inside(figure)
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts.count("1,861") in (0, 32)


def test_a_tree_of_nothing_is_refused():
    with pytest.raises(InputError, match="without a division"):
        tree([])


def test_a_picture_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = save_figure(tree(HISTORY), tmp_path / "plots" / "tree.png", dpi=50)
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert image.width == 550
    before = path.read_bytes()

    def full_disk(descriptor: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="no space"):
        save_figure(tree(HISTORY, conquered_at=9), path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_pictures_leave_pyplot_alone():
    import matplotlib.pyplot as plt

    open_figures = plt.get_fignums()
    tree(HISTORY)
    montage(grey, [0, 1])
    gallery(grey, ["a", "b"], [0], [[1]], [[True]])
    assert plt.get_fignums() == open_figures
