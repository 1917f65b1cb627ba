"""Pictures: what is drawn, read back from the figure."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch, Rectangle
from matplotlib.text import Text
from numpy.typing import NDArray
from PIL import Image

from divconq_pl.app.plots import curves, gallery, montage, save_figure, tree
from divconq_pl.app.plots.montage import square
from divconq_pl.errors import InputError


def grey(index: int) -> NDArray[np.uint8]:
    """Draw image i in the grey i, so that a picture tells which image it shows."""
    return np.full((20, 20), index, dtype=np.uint8)


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
    return {
        "epoch": epoch,
        "sizes": sizes,
        "classes": classes,
        "moved": sum(sizes) // 8,
        "nmi": nmi,
        "parents": parents,
    }


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


def cells_of(figure: Figure) -> list[tuple[int, str, str]]:
    """Return the grey, the frame's colour and the label of each image of a gallery, row by row."""
    page = np.asarray(figure.artists[0].get_array())
    cells = []
    for text in figure.axes[0].texts:
        if text.get_gid() == "name":
            x, y = round(150 * text.get_position()[0]), round(150 * (text.get_position()[1] - 0.56))
            cells.append((int(page[y, x, 0]), to_hex(page[y, x - 73] / 255), text.get_text()))
    return cells


def texts_of(figure: Figure, kind: str) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts if text.get_gid() == kind]


def test_gallery_frames_and_marks_right_and_wrong_neighbours():
    names = [f"class_{i}" for i in range(100)]
    neighbours = torch.tensor([[10, 20, 30], [40, 50, 60]])
    hits = torch.tensor([[True, False, True], [False, False, True]])
    figure = gallery(grey, names, [5, 6], neighbours, hits, distances=neighbours / 100)

    greys, frames, labels = zip(*cells_of(figure), strict=True)
    assert greys == (5, 10, 20, 30, 6, 40, 50, 60)
    assert labels[:3] == ("class 5", "class 10\n0.10", "class 20\n0.20")
    assert texts_of(figure, "column") == ["query", "1", "2", "3"]
    assert texts_of(figure, "mark") == ["✓", "✗", "✓", "✗", "✗", "✓"]
    assert len(set(frames)) == 3
    assert frames[1] == frames[3] == frames[7]
    assert frames[2] == frames[5] == frames[6]
    assert_texts_apart_and_inside(figure)


def test_a_saved_gallery_shows_each_pixel_of_its_images(tmp_path: Path):
    figure = gallery(lambda index: np.full((4, 4), 40 * index, np.uint8), ["a"] * 4, [1], [[2, 3]], [[True, False]])
    page = np.asarray(figure.artists[0].get_array())
    middle = 220  # of the row of images, below their marks
    for dpi, step in ((150, 1), (75, 2)):
        shown = np.asarray(Image.open(save_figure(figure, tmp_path / "gallery.png", dpi=dpi)).convert("RGB"))
        greys = [shown[middle // step, column // step].tolist() for column in range(40, page.shape[1], 40)]
        assert [[grey] * 3 in greys for grey in (40, 80, 120)] == [True] * 3
        if step == 1:
            assert (shown[middle] == page[middle]).all()


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
    greys, _, labels = zip(*cells_of(figure), strict=True)
    assert greys == (3, 100, 101)
    assert labels == ("query set", "left", "right")


def test_a_long_name_is_not_cut_before_the_word_that_distinguishes_it():
    names = [f"a bird whose name is long enough for three lines and ends in {end}" for end in ("red", "blue")]
    labels = texts_of(gallery(grey, names, [0], [[1]], [[False]]), "name")
    assert [label.split()[-1] for label in labels] == ["red", "blue"]


def test_curves_show_loss_and_validation_with_divisions_marked():
    epochs = [
        {"epoch": 0, "losses": {-1: 2.0}, "batches": {-1: 5}, "metrics": {"val/recall_at_1": 0.5}},
        {"epoch": 1, "losses": {0: 1.0, 1: 4.0}, "batches": {0: 2, 1: 1}, "metrics": {"val/recall_at_1": 0.6}},
        {"epoch": 2, "losses": {}, "batches": {}, "metrics": {}},
    ]
    figure = curves(epochs, [1])
    loss, recall = (axes.lines[0] for axes in figure.axes)
    assert np.asarray(loss.get_ydata())[:2].tolist() == [2.0, 2.0], "mean over batches, not over learners"
    assert list(recall.get_ydata()) == [0.5, 0.6]
    marked = [line.get_xdata()[0] for line in figure.axes[0].lines if str(line.get_gid()).startswith("division")]
    assert marked == [0.5]
    with pytest.raises(InputError, match="without an epoch"):
        curves([])


def test_clusters_have_the_colours_of_the_tree_and_say_their_classes():
    figure = montage(grey, [0, 0, 1, 1], classes=[3, 4, 5, 5])
    assert [axes.get_title(loc="left") for axes in figure.axes] == [
        "cluster 0  ·  2 images, 2 classes",
        "cluster 1  ·  2 images, 1 class",
    ]
    boxes = boxes_by_row(tree([division(2, [600, 400], [0, 0])]))[1]
    for axes, box in zip(figure.axes, boxes, strict=True):
        frame = np.asarray(axes.images[0].get_array())[0, 0] / 255
        assert frame == pytest.approx(box.get_facecolor()[:3], abs=0.01)


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
    assert [shade for shade, _, _ in cells_of(figure)] == [128, 128]
    picture = square(image, 100)
    assert picture.shape == (100, 100, 3)
    assert picture[50, 50].tolist() == [128, 128, 128]
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
    montage(watched, assignment, per_cluster=5)
    assert asked[10:15] == [200, 225, 250, 274, 299]
    asked.clear()
    montage(watched, assignment, per_cluster=1000)
    assert asked == list(range(400))


@pytest.mark.parametrize(("clusters", "per_cluster"), [(1, 1), (2, 24), (8, 12), (32, 9)])
def test_montage_of_every_number_of_clusters_is_legible(clusters: int, per_cluster: int):
    figure = montage(grey, [i % clusters for i in range(clusters * 3)], per_cluster=per_cluster)
    assert len(figure.axes) == clusters
    assert_texts_apart_and_inside(figure)


def test_a_montage_of_nothing_is_refused():
    with pytest.raises(InputError, match="no image"):
        montage(grey, [-1, -1])


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
    assert "4 clusters\n12 % moved, NMI 0.87" in texts
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
