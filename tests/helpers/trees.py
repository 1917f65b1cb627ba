"""Tiny copies of the published data sets, laid out as users have them.

Each function writes a copy and returns what it holds: for each part the class names in the order of their labels, and
for each image its label and its colour, which no other image of the copy has.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from scipy.io import savemat

IMAGES = 3
Colour = tuple[int, int, int]


class Part(NamedTuple):
    classes: list[str]
    images: list[tuple[int, Colour]]


Tree = dict[str, Part]


def colour(class_id: int, image: int) -> Colour:
    """Return a colour that survives JPEG: ids up to 400 and images up to 7 lie far enough apart."""
    return 12 * (class_id // 20) + 8, 12 * (class_id % 20) + 8, 32 * image + 8


def uniform(of: Colour) -> Image.Image:
    return Image.new("RGB", (40, 36), of)


def save(file: Path, of: Colour) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    uniform(of).save(file, "JPEG", quality=95)


def write(file: Path, lines: Sequence[str]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"{line}\n" for line in lines))


def part(names: dict[int, str], counts: dict[int, int]) -> Part:
    """Return what is to be found of some classes, sorted by their ids."""
    images = [(label, colour(c, i)) for label, c in enumerate(sorted(counts)) for i in range(counts[c])]
    return Part([names[c] for c in sorted(counts)], images)


def write_cub(root: Path, train: Sequence[int] = range(93, 101), test: Sequence[int] = range(101, 105)) -> Tree:
    """Write ``CUB_200_2011/``, with the files that macOS leaves beside the images."""
    home = root / "CUB_200_2011"
    names = {c: f"{c:03}.Bird_{c}" for c in (*train, *test)}
    rows = [(c, i, f"{names[c]}/Bird_{c}_{i:04}.jpg") for c in names for i in range(IMAGES)]
    for c, i, path in rows:
        save(home / "images" / path, colour(c, i))
        (home / "images" / path).with_name(f"._Bird_{c}_{i:04}.jpg").write_bytes(b"\0\5\26\7")
    write(home / "classes.txt", [f"{c} {name}" for c, name in names.items()])
    write(home / "images.txt", [f"{n} {path}" for n, (_, _, path) in enumerate(rows, 1)])
    write(home / "image_class_labels.txt", [f"{n} {c}" for n, (c, _, _) in enumerate(rows, 1)])
    write(home / "train_test_split.txt", [f"{n} {n % 2}" for n in range(1, len(rows) + 1)])
    return {which: part(names, dict.fromkeys(of, IMAGES)) for which, of in (("train", train), ("test", test))}


CAR_TRAIN, CAR_TEST = range(91, 99), range(99, 103)
CAR_NAMES = {c: f"Maker C/V Model {c}" for c in range(1, 197)}
MODELS = {c: f"model {c}" for c in range(1, 197)}


def _cars(names: dict[int, str]) -> Tree:
    parts = (("train", CAR_TRAIN), ("test", CAR_TEST))
    return {which: part(names, dict.fromkeys(classes, IMAGES)) for which, classes in parts}


def _car_rows() -> list[tuple[int, int, bool]]:
    """Return class, image of the class and whether it is in the official test; mixed, and in two orders."""
    rows = [(c, i, (c + i) % 2 == 0) for c in (*CAR_TRAIN, *CAR_TEST) for i in range(IMAGES)]
    return [rows[n] for n in np.random.default_rng(0).permutation(len(rows))]


def struct(rows: Sequence[dict[str, Any]]) -> np.ndarray:
    """Make a struct array as MATLAB saves it: fields are objects, numbers are 1 x 1 matrices."""
    fields = [(name, object) for name in rows[0]]
    made = np.empty((1, len(rows)), dtype=fields)
    for n, row in enumerate(rows):
        for name, value in row.items():
            wide = np.uint16 if name.startswith("bbox") else np.uint8
            made[0, n][name] = value if isinstance(value, str) else np.array([[value]], dtype=wide)
    return made


def _box() -> dict[str, int]:
    return {"bbox_x1": 2, "bbox_y1": 3, "bbox_x2": 300, "bbox_y2": 200}


def edit(file: Path, number: int, text: str) -> None:
    """Replace a line, counted from 1."""
    lines = file.read_text().splitlines()
    lines[number - 1] = text
    write(file, lines)


def save_annotations(file: Path, rows: Sequence[dict[str, Any]], **more: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    savemat(file, {"annotations": struct(rows), **more}, do_compression=True)


def _class_names() -> np.ndarray:
    names = np.empty((1, len(CAR_NAMES)), dtype=object)
    names[0, :] = list(CAR_NAMES.values())
    return names


def write_cars_all_in_one(root: Path) -> Tree:
    """Write ``car_ims/`` and ``cars_annos.mat``."""
    rows = []
    for n, (c, i, is_test) in enumerate(_car_rows(), 1):
        path = f"car_ims/{n:06}.jpg"
        save(root / path, colour(c, i))
        rows.append({"relative_im_path": path, **_box(), "class": c, "test": int(is_test)})
    save_annotations(root / "cars_annos.mat", rows, class_names=_class_names())
    return _cars(CAR_NAMES)


def write_cars_train_and_test(
    root: Path, *, nested: bool = False, labels_in: str = "devkit", meta: bool = False
) -> Tree:
    """Write ``cars_train/``, ``cars_test/`` and ``devkit/``; nested as ``cars_train/cars_train/``."""
    for which, is_test in (("train", False), ("test", True)):
        folder = root / f"cars_{which}" / (f"cars_{which}" if nested else "")
        rows = []
        for n, (c, i, _) in enumerate([row for row in _car_rows() if row[2] == is_test], 1):
            save(folder / f"{n:05}.jpg", colour(c, i))
            rows.append({**_box(), "class": c, "fname": f"{n:05}.jpg"})
        if is_test:
            save_annotations(root / labels_in / "cars_test_annos_withlabels.mat", rows)
            rows = [{name: value for name, value in row.items() if name != "class"} for row in rows]
        save_annotations(root / "devkit" / f"cars_{which}_annos.mat", rows)
    if meta:
        savemat(root / "devkit" / "cars_meta.mat", {"class_names": _class_names()})
    return _cars(CAR_NAMES if meta else MODELS)


def write_cars_folders_of_classes(root: Path) -> Tree:
    """Write ``car_data/car_data/{train,test}/<class>/`` and the CSV files."""
    write(root / "names.csv", list(CAR_NAMES.values()))
    for which, is_test in (("train", False), ("test", True)):
        rows = []
        for n, (c, i, _) in enumerate([row for row in _car_rows() if row[2] == is_test], 1):
            folder = root / "car_data" / "car_data" / which / CAR_NAMES[c].replace("/", "-")
            save(folder / f"{n:05}.jpg", colour(c, i))
            rows.append(f"{n:05}.jpg,2,3,300,200,{c}")
        write(root / f"anno_{which}.csv", rows)
    return _cars(CAR_NAMES)


def write_cars_parquet(root: Path) -> Tree:
    """Write ``data/{train,test}-*.parquet``, train in two files, with row groups of four images."""
    import pyarrow as pa
    from pyarrow import parquet

    (root / "data").mkdir(parents=True)
    for which, is_test in (("train", False), ("test", True)):
        rows = [row for row in _car_rows() if row[2] == is_test]
        shards = [rows[::2], rows[1::2]] if which == "train" else [rows]
        for k, shard in enumerate(shards):
            images = []
            for n, (c, i, _) in enumerate(shard):
                file = io.BytesIO()
                uniform(colour(c, i)).save(file, "JPEG", quality=95)
                images.append({"bytes": file.getvalue(), "path": f"{n}.jpg"})
            table = pa.table({"image": images, "label": [c - 1 for c, _, _ in shard]})
            name = f"{which}-{k:05}-of-{len(shards):05}.parquet"
            parquet.write_table(table, root / "data" / name, row_group_size=4)
            (root / "data" / f"._{name}").write_bytes(b"\0\5\26\7")
    return _cars(MODELS)


def write_sop(root: Path, *, images_apart: bool = False) -> Tree:
    """Write ``Stanford_Online_Products/``; or ``images/`` and ``Info_Files/``."""
    home = root / "Stanford_Online_Products"
    lists, images = (home / "Info_Files", home / "images") if images_apart else (home, home)
    categories = ["bicycle_final", "chair_final"]
    tree, n = {}, 0
    # Ids go on in the test; they are 1 to 22634 in the published lists.
    for which, ids in (("train", range(1, 9)), ("test", range(9, 13))):
        names, rows = {}, []
        for c in ids:
            kind = c % 2
            names[c] = f"{categories[kind]}/{c}"
            for i in range(IMAGES):
                n += 1
                path = f"{categories[kind]}/{111000 + c}_{i}.JPG"
                save(images / path, colour(c, i))
                rows.append(f"{n} {c} {kind + 1} {path}")
        write(lists / f"Ebay_{which}.txt", ["image_id class_id super_class_id path", *rows])
        tree[which] = part(names, dict.fromkeys(ids, IMAGES))
    return tree


def write_inshop(root: Path, *, lists: str = "Eval", images: str = "Img/img", single: Sequence[int] = ()) -> Tree:
    """Write the list and the images; items of ``single`` have one training image."""
    train, test = [2, 5, 9, 11, 40, 41, 60, 61], [3, 4, 10, 70]
    counts = {c: 1 if c in single else IMAGES for c in train}
    rows = [(c, i, "train") for c in train for i in range(counts[c])]
    rows += [(c, i, "query" if i == 0 else "gallery") for c in test for i in range(IMAGES)]
    lines = []
    for c, i, which in rows:
        path = f"WOMEN/Dresses/id_{c:08}/{i + 1:02}_1_front.jpg"
        save(root / images / path, colour(c, i))
        lines.append(f"{'img/' + path:<70} id_{c:08} {which:<8}")
    write(root / lists / "list_eval_partition.txt", [str(len(rows)), "image_name item_id evaluation_status", *lines])
    names = {c: f"id_{c:08}" for c in (*train, *test)}
    classes = [names[c] for c in test]
    return {
        "train": part(names, counts),
        "query": Part(classes, [(label, colour(c, 0)) for label, c in enumerate(test)]),
        "gallery": Part(classes, [(label, colour(c, i)) for label, c in enumerate(test) for i in range(1, IMAGES)]),
    }


SIZES = {"small": 800, "medium": 1600, "large": 2400}


def write_vehicle_id(root: Path, test_list: str = "large") -> Tree:
    """Write ``VehicleID_V1.0/`` with all lists; the larger ones hold more vehicles."""
    home = root / "VehicleID_V1.0"
    split = home / "train_test_split"
    train = [17, 40, 41, 99, 150, 151, 290, 312]
    tests = {"small": [5, 230], "medium": [5, 230, 18], "large": [5, 230, 18, 77]}
    number = {(c, i): 7 * (10 * c + i) for c in (*train, *tests["large"]) for i in range(IMAGES)}
    for (c, i), n in number.items():
        save(home / "image" / f"{n:07}.jpg", colour(c, i))
    lists = {"train_list": train, **{f"test_list_{SIZES[size]}": classes for size, classes in tests.items()}}
    for name, classes in lists.items():
        write(split / f"{name}.txt", [f"{number[c, i]:07} {c}" for i in range(IMAGES) for c in classes])
    names = {c: f"vehicle {c}" for c in (*train, *tests["large"])}
    test = tests[test_list]
    return {"train": part(names, dict.fromkeys(train, IMAGES)), "test": part(names, dict.fromkeys(test, IMAGES))}


def write_market(root: Path) -> Tree:
    """Write ``Market-1501-v15.09.15/``: a name is <identity>_c<camera>s<sequence>_<frame>_<box>.jpg."""
    home = root / "Market-1501-v15.09.15"
    train, test = [2, 7, 10, 11, 20, 23, 27, 28], [1, 3, 5, 1501]
    for c in (*train, *test):
        folder = "bounding_box_train" if c in train else "bounding_box_test"
        for i in range(IMAGES):
            save(home / folder / f"{c:04}_c{i + 1}s1_{i:06}_01.jpg", colour(c % 400, i))
        if c in test:
            save(home / "query" / f"{c:04}_c1s1_000900_00.jpg", colour(c % 400, 7))
    save(home / "bounding_box_test" / "0000_c2s1_000777_01.jpg", colour(399, 0))
    save(home / "bounding_box_test" / "-1_c6s4_002427_01.jpg", colour(399, 1))
    (home / "bounding_box_test" / "Thumbs.db").write_bytes(b"")
    names = {c: f"{c:04}" for c in (*train, *test)}
    classes = ["distractors", *(names[c] for c in test)]
    return {
        "train": part(names, dict.fromkeys(train, IMAGES)),
        "query": Part(classes, [(label, colour(c % 400, 7)) for label, c in enumerate(test, 1)]),
        "gallery": Part(
            classes,
            [
                (0, colour(399, 0)),
                *((label, colour(c % 400, i)) for label, c in enumerate(test, 1) for i in range(IMAGES)),
            ],
        ),
    }


WRITERS = {
    "cub200": write_cub,
    "cars196": write_cars_all_in_one,
    "sop": write_sop,
    "inshop": write_inshop,
    "vehicle_id": write_vehicle_id,
    "market1501": write_market,
}
"""What writes a data set in its first layout, by the name of its configuration."""
