"""Which parts of a data set the folders within a folder are, by their names."""

from __future__ import annotations

import warnings
from pathlib import Path

from divconq_pl.data.market1501 import MARKET_FOLDERS, is_named_by_camera
from divconq_pl.data.samples import list_folders, list_images
from divconq_pl.errors import InputError

PARTS = ("train", "val", "test", "query", "gallery")

LAYOUTS = "<root>/<class>/<image>, <root>/{train,test}/<class>/<image> or <root>/{train,query,gallery}/<class>/<image>"

_FLAT = {"bounding_box_train", "bounding_box_test", "gt_bbox", "gt_query", "image_train", "image_test", "image_query"}
"""How re-identification data sets name parts whose images lie side by side, named by identity and camera."""


def find_training_parts(root: Path) -> list[str]:
    """Return which parts are there to train, to validate and to test on; none if the folders are classes.

    Raises:
        InputError: if some are missing, or hold no folder for each class.
    """
    found = _find_parts(root)
    if found and "train" not in found:
        raise InputError(
            f"{str(root)!r} has {' and '.join(found)} but no train folder, so it can be evaluated on, by evaluate.py, "
            f"but not be trained on; to split the classes of one, give dataset.root={str(root / found[0])!r}"
        )
    layout = next((names for names in (("query", "gallery"), ("test",)) if set(names) <= set(found)), ())
    if found and not layout:
        raise InputError(
            f"{str(root)!r} has {' and '.join(found)} but neither test nor both query and gallery beside it; to split "
            f"the classes of train, give dataset.root={str(root / 'train')!r}"
        )
    used = [name for name in PARTS if name in found and name in ("train", "val", *layout)]
    if used and (unused := [name for name in list_folders(root) if name not in used]):
        warnings.warn(f"{str(root)!r} has the folders {used}; {unused} are ignored", stacklevel=3)
    return used


def find_evaluated_parts(root: Path, *, trained: bool = False) -> tuple[str, ...]:
    """Return which parts are there to evaluate on; none if the folders are classes, or there are none.

    Args:
        root: the folder.
        trained: also return train, where it is there.

    Raises:
        InputError: if there are other parts only, or they hold no folder for each class.
    """
    found = _find_parts(root)
    for layout in (("query", "gallery"), ("test",)):
        if set(layout) <= set(found):
            return ("train", *layout) if trained and "train" in found else layout
    if found:
        raise InputError(
            f"{str(root)!r} has {' and '.join(found)} but neither test nor both query and gallery; give the folder to "
            f"evaluate on, such as dataset.root={str(root / found[0])!r}"
        )
    return ()


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


def _find_parts(root: Path) -> list[str]:
    """Return which folders are parts: named as one, and holding folders, not images."""
    folders = list_folders(root)
    parts = [name for name in PARTS if name in folders and list_folders(root / name) and not list_images(root / name)]
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
