"""A batch size and a split depth that few images allow, where nobody asked for others."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor

from divconq_pl.core.usable import check_divisible, usable_images
from divconq_pl.data import RetrievalDataModule
from divconq_pl.errors import InputError

SMALLEST_BATCH = 16


def list_asked(overrides: Sequence[str]) -> set[str]:
    """List the keys that a command line sets.

    Args:
        overrides: its arguments.

    Example:
        >>> sorted(list_asked(["data.batch_size=8", "divide={split_depth: 1}", "loss=margin"]))
        ['data.batch_size', 'divide.split_depth', 'loss']
    """
    asked = set()
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        value = override.value()
        names = value if isinstance(value, dict) else [""]
        asked |= {f"{override.key_or_group}.{name}".rstrip(".") for name in names}
    return asked


def fit_to_few_images(cfg: DictConfig, data: RetrievalDataModule, asked: Collection[str]) -> None:
    """Make batches smaller and the tree of divisions less deep until an epoch has a batch for each learner.

    The batch size is the same with and without a division, so that the two can be compared. What was asked for stays as
    it is; whether it can work, the training says.

    Args:
        cfg: the configuration, in which both are replaced.
        data: the images, likewise.
        asked: the keys that the user has set.
    """
    labels = data.splits.train.targets
    images = int(usable_images(labels * 0, labels).sum()) // _count_processes(cfg)
    before, batch = data.batch_size, data.batch_size
    depth = wanted = int((cfg.divide or {}).get("split_depth") or 0)
    if "data.batch_size" not in asked:
        smallest = max(SMALLEST_BATCH, 2 * data.images_per_class)
        while images // batch < 2**depth and batch // 2 >= smallest and batch // 2 % data.images_per_class == 0:
            batch //= 2
    if "divide.split_depth" not in asked:
        while depth and not (max(1, images // batch) >= 2**depth and _can_divide(labels, 2**depth)):
            depth -= 1
    said = []
    if batch != before:
        data.batch_size = cfg.data.batch_size = batch
        said.append(f"data.batch_size={batch} in place of {before}")
    if depth != wanted:
        cfg.divide.split_depth = depth
        said.append(f"divide.split_depth={depth} in place of {wanted}")
    if said:
        rank_zero_warn(
            f"{len(labels)} training images of {len(labels.unique())} classes are few, so the training takes "
            f"{' and '.join(said)}; a value that you give is taken as it is"
        )


def _count_processes(cfg: DictConfig) -> int:
    devices, nodes = cfg.trainer.get("devices", 1), cfg.trainer.get("num_nodes", 1)
    return max(1, int(devices) if isinstance(devices, int) else 1) * int(nodes)


def _can_divide(labels: Tensor, num_clusters: int) -> bool:
    try:
        check_divisible(labels, num_clusters)
    except InputError:
        return False
    return True
