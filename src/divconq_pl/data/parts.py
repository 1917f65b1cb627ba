"""Which parts of a data set the folders within a folder are, by their names."""

from __future__ import annotations

import warnings
from pathlib import Path

from divconq_pl.data.market1501 import MARKET_FOLDERS, is_named_by_camera
from divconq_pl.data.samples import is_visible, list_folders, list_images
from divconq_pl.errors import InputError

PARTS = ("train", "val", "test", "query", "gallery")

_ALIASES = {
    **{name: name for name in PARTS},
    **dict.fromkeys(("training", "train_set", "trainset"), "train"),
    **dict.fromkeys(("valid", "validation", "dev"), "val"),
    **dict.fromkeys(("testing", "test_set", "testset"), "test"),
    **dict.fromkeys(("queries", "probe"), "query"),
    "database": "gallery",
}
"""Other names of parts, in lower case."""

LAYOUTS = "<root>/<class>/<image>, <root>/{train,test}/<class>/<image> or <root>/{train,query,gallery}/<class>/<image>"

_FLAT = {"bounding_box_train", "bounding_box_test", "gt_bbox", "gt_query", "image_train", "image_test", "image_query"}
"""How re-identification data sets name parts whose images lie side by side, named by identity and camera."""


def name_part(folder: str) -> str | None:
    """Return which part a folder is by its name, if any."""
    return _ALIASES.get(folder.lower())


def find_training_parts(root: Path) -> dict[str, str]:
    """Return the folders of the parts to train, to validate and to test on; none if the folders are classes.

    Raises:
        InputError: if some are missing, or hold no folder for each class.
    """
    found = _find_parts(root)
    if found and "train" not in found:
        one = next(iter(found.values()))
        raise InputError(
            f"{str(root)!r} has {' and '.join(found)} but no train folder, so it can be evaluated on, by evaluate.py, "
            f"but not be trained on; to split the classes of one, give dataset.root={str(root / one)!r}"
        )
    layout = next((names for names in (("query", "gallery"), ("test",)) if set(names) <= set(found)), ())
    if found and not layout:
        raise InputError(
            f"{str(root)!r} has {' and '.join(found)} but neither test nor both query and gallery beside it; to split "
            f"the classes of train, give dataset.root={str(root / found['train'])!r}"
        )
    used = {part: found[part] for part in PARTS if part in found and part in ("train", "val", *layout)}
    if used and (unused := [name for name in list_folders(root) if name not in used.values()]):
        warnings.warn(f"{str(root)!r} has the folders {list(used.values())}; {unused} are ignored", stacklevel=3)
    return used


def find_evaluated_parts(root: Path, *, trained: bool = False) -> dict[str, str]:
    """Return the folders of the parts to evaluate on; none if the folders are classes, or there are none.

    Args:
        root: the folder.
        trained: also return train, where it is there.

    Raises:
        InputError: if there are other parts only, or they hold no folder for each class.
    """
    found = _find_parts(root)
    for layout in (("query", "gallery"), ("test",)):
        if set(layout) <= set(found):
            return {part: found[part] for part in (*(["train"] if trained else []), *layout) if part in found}
    if found:
        raise InputError(
            f"{str(root)!r} has {' and '.join(found)} but neither test nor both query and gallery; give the folder to "
            f"evaluate on, such as dataset.root={str(root / next(iter(found.values())))!r}"
        )
    return {}


def descend(root: Path) -> Path:
    """Go down as long as a folder holds a single folder which itself holds folders and no image."""
    folder = root
    while len(names := list_folders(folder)) == 1:
        inner = folder / names[0]
        if list_images(inner) or not list_folders(inner):
            break
        folder = inner
    if folder != root:
        warnings.warn(f"{str(root)!r} holds a single folder; {str(folder)!r} is used as root", stacklevel=3)
    return folder


def suggest_other(root: Path) -> str:
    """Say what reads images that do not lie in a folder for each class, by what else there is."""
    names = sorted(entry.name for entry in root.iterdir() if is_visible(entry.name))
    if any(name.lower().endswith(".parquet") for name in names):
        return f"parquet files are read by dataset=huggingface dataset.root={str(root)!r}"
    tables = [name for name in names if name.lower().endswith((".csv", ".tsv"))]
    table = str(root / tables[0]) if tables else "FILE.csv"
    return f"classes that a table lists are read by dataset=csv dataset.root={table!r}"


def _find_parts(root: Path) -> dict[str, str]:
    """Return which folder is which part: named as one, and holding folders, not images."""
    folders = list_folders(root)
    parts: dict[str, str] = {}
    for name in sorted(folders, key=lambda name: name not in PARTS):  # of two for one part, that of its very name
        part = name_part(name)
        if part is not None and part not in parts and list_folders(root / name) and not list_images(root / name):
            parts[part] = name
    parts = {part: parts[part] for part in PARTS if part in parts}
    if not parts and len(folders) > 1 and set(folders) <= {*PARTS, *_FLAT}:
        if set(folders) >= MARKET_FOLDERS and all(is_named_by_camera(root / name) for name in MARKET_FOLDERS):
            raise InputError(
                f"{str(root)!r} is laid out as Market-1501, with identity and camera in the names of its files; use "
                "dataset=market1501"
            )
        raise InputError(
            f"{str(root)!r} has {' and '.join(folders)}, which are parts of a data set and not its classes, as "
            "re-identification has them; ImageFolder needs a folder for each class (identity) within train, query and "
            "gallery"
        )
    return parts
