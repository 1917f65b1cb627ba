"""The rows of the study: what each run is asked for, beside its seed."""

from __future__ import annotations

from dataclasses import dataclass

PLAIN = "plain"


@dataclass(frozen=True)
class Row:
    """One line of a table: a setting, on one data set, with some seeds.

    Attributes:
        group: the table it belongs to.
        name: how the table names it.
        overrides: what ``train.py`` is asked for.
        seeds: how many, from 0 on.
        rival: the name of the row in the same group that it is compared with, seed by seed.
        networks: so many are trained apart, each with another seed, and their embeddings laid side by side.
    """

    group: str
    name: str
    overrides: tuple[str, ...]
    seeds: int
    rival: str = PLAIN
    networks: int = 1

    @property
    def key(self) -> str:
        """What the row is known by in the CSV."""
        return " ".join(self.overrides) + (f" networks={self.networks}" if self.networks > 1 else "")


METHODS = {
    PLAIN: ("divide=none",),
    "fixed subspaces": ("divide=hierarchical",),
    "learned masks": ("divide=learned",),
    "clusters alone": ("divide=clusters",),
    "random division": ("divide=random",),
}
NEVER = ("divide.merge_at=null",)
CHOICES = {
    "merged at 25 %": ("divide.merge_at=0.25",),
    "merged at 45 % (the authors')": ("divide.merge_at=0.45",),
    "merged at 75 %": ("divide.merge_at=0.75",),
    "never merged": NEVER,
    "mixed from 75 % on": (*NEVER, "divide.conquer_at=0.75"),
    "merged at 50 %, mixed from 75 % on": ("divide.conquer_at=0.75",),
    "2 learners": ("divide.split_depth=1",),
    "8 learners": ("divide.split_depth=3",),
    "flat": ("divide=flat",),
    "zeroed coordinates": ("divide.subspaces=zeroed",),
    "random coordinates in each step": ("divide.subspaces=random",),
    "subspaces without clusters": (
        *("divide.clustering=random", "divide.every_n_epochs=1", "divide.warmup_epochs=2"),  # drawn anew in each epoch
    ),
    "features of training": ("divide.features=training",),
    "a division every four epochs": ("divide.flat=true", "divide.every_n_epochs=4", "divide.warmup_epochs=2"),
    "whole classes in a cluster": ("divide.whole_classes=true",),
    "no warm-up": ("divide.warmup_epochs=0",),
    "backbone frozen for an epoch": ("divide.freeze_epochs=1",),
    "k-means with the same seed": ("divide.start=same_seed",),
    "BatchNorm renewed": ("+callbacks.batch_norm._target_=divconq_pl.RenewBatchNorm",),
    "k-means from the last centres": ("divide.start=previous",),
}
APART = ("divide=none", "module.embedding_dim=32")
ICONS = (
    *("dataset=image_folder", "dataset.root=${oc.env:ICONS}", "data.num_workers=0"),
    *("backbone=efficientnet_lite0", "image_size=64", "module.parameter_groups.backbone.lr=1e-4"),
    *("trainer.max_epochs=8", "trainer.limit_train_batches=60"),  # 480 steps: pretrained, and slow on one thread
)
OBJECTS = ("dataset=image_folder", "data.num_workers=0", "image_size=32")
LOSSES = ("triplet", "contrastive", "multi_similarity", "proxy_anchor")


def all_rows() -> list[Row]:
    """Return every row, the most telling ones first."""
    rows = [
        Row(dataset, name, (f"dataset={dataset}", *overrides), 5)
        for dataset in ("sides", "glyphs")
        for name, overrides in METHODS.items()
    ]
    rows += [Row("sides", "4 networks of width 32 side by side", ("dataset=sides", *APART), 2, networks=4)]
    rows += [Row("choices", PLAIN, ("dataset=sides", "divide=none"), 3)]
    rows += [Row("choices", "fixed subspaces", ("dataset=sides", "divide=hierarchical"), 3)]
    rows += [
        Row("choices", name, ("dataset=sides", "divide=hierarchical", *overrides), 3, "fixed subspaces")
        for name, overrides in CHOICES.items()
    ]
    for sides, images in ((1, 16), (2, 8), (8, 2)):
        shape = ["dataset=sides", f"dataset.num_sides={sides}", f"dataset.images_per_side={images}"]
        if sides == 8:
            shape.append("dataset.num_classes=null")  # 634 objects: the characters give no more
        for name in (PLAIN, "fixed subspaces"):
            rows.append(Row(f"{sides} sides", name, (*shape, *METHODS[name]), 3))
    for colours in ("own", "random"):
        views = (*OBJECTS, f"dataset.root=${{oc.env:OBJECTS}}/{colours}")
        for name in (PLAIN, "fixed subspaces", "clusters alone", "learned masks"):
            rows.append(Row(f"objects, {colours} colours", name, (*views, *METHODS[name]), 3))
    for loss in LOSSES:
        for name in (PLAIN, "fixed subspaces", "clusters alone"):
            rows.append(Row(loss, name, ("dataset=sides", f"loss={loss}", *METHODS[name]), 3))
    for name in (PLAIN, "fixed subspaces"):
        method = ("dataset=sides", *METHODS[name])
        rows.append(Row("bf16", name, method, 3))
        rows.append(Row("bf16", f"{name}, bf16", (*method, "trainer=cpu_bf16"), 3, name))
    for epochs in (24, 48):
        for name in (PLAIN, "fixed subspaces"):
            overrides = ("dataset=sides", f"trainer.max_epochs={epochs}", *METHODS[name])
            rows.append(Row(f"{epochs} epochs", name, overrides, 2))
    for group, data in (("group norm", ("dataset=sides", "backbone.norm=group")), ("icons", ICONS)):
        for name in (PLAIN, "fixed subspaces", "clusters alone"):
            rows.append(Row(group, name, (*data, *METHODS[name]), 3))
        training = (*data, "divide=hierarchical", "divide.features=training")
        rows.append(Row(group, "features of training", training, 3, "fixed subspaces"))
    return rows
