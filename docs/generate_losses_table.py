"""Print docs/losses.md: what each loss and miner of pytorch-metric-learning does on a subspace.

Run ``python docs/generate_losses_table.py > docs/losses.md`` after an update of pytorch-metric-learning. Whether a
class is refused is found out by narrowing it; a class that this file does not know how to build stops it.
"""

from __future__ import annotations

import inspect
from types import ModuleType

from pytorch_metric_learning import losses, miners
from torch import nn

from divconq_pl.core.subspaces import FixedSubspaces
from divconq_pl.errors import InputError
from divconq_pl.losses.narrowing import narrow_losses

BASES = {"BaseLossWrapper", "BaseMetricLossFunction", "BaseMiner", "BaseProxyLoss", "GenericPairLoss"}
"""Public classes that are no losses or miners by themselves."""

HAS_CLASSES = "labels must be 0 to `num_classes` - 1, and the optimiser must have its weights"
NO_MINER = "takes no `indices_tuple`, so no miner"
MASKS_DIFFER = "with learned masks the zeros count as coordinates, so masking is not the same as slicing"

CONDITIONS = {
    "ArcFaceLoss": HAS_CLASSES,
    "CosFaceLoss": HAS_CLASSES,
    "CrossBatchMemory": "`embedding_size` is that of the full embedding, which it keeps: one memory serves all "
    "subspaces, and the references of a learner come from all clusters",
    "DistanceWeightedMiner": MASKS_DIFFER,
    "DynamicSoftMarginLoss": "in pytorch-metric-learning 2.9 itself the second `backward` fails unless "
    "`loss.hist_ = loss.hist_.detach()` follows each step, and a batch fails where a positive is farther than a "
    "negative by 1.6 or more; all subspaces share the running histogram",
    "EmbeddingsAlreadyPackagedAsTriplets": "the batch must hold anchor, positive, negative in turn, which the batches "
    "of a cluster do not",
    "InstanceLoss": NO_MINER,
    "LargeMarginSoftmaxLoss": HAS_CLASSES,
    "ManifoldLoss": "takes no labels; a batch needs at least `K` images",
    "MarginLoss": "with `num_classes`, labels must be 0 to `num_classes` - 1; with `learn_beta`, the optimiser must "
    "have `beta`",
    "MultipleLosses": "if every loss and miner in it works",
    "NormalizedSoftmaxLoss": HAS_CLASSES,
    "PNPLoss": NO_MINER,
    "ProxyAnchorLoss": HAS_CLASSES,
    "ProxyNCALoss": HAS_CLASSES,
    "RankedListLoss": NO_MINER,
    "SelfSupervisedLoss": "takes two views of each image and no labels",
    "SignalToNoiseRatioContrastiveLoss": MASKS_DIFFER,
    "SmoothAPLoss": "every class of a batch needs the same number of images, one class after the other; "
    "pytorch-metric-learning 2.9 itself is right only for as many classes as images per class",
    "SoftTripleLoss": HAS_CLASSES,
    "SphereFaceLoss": HAS_CLASSES,
    "SubCenterArcFaceLoss": HAS_CLASSES,
    "VICRegLoss": f"takes two views of each image and no labels; {NO_MINER}; {MASKS_DIFFER}",
}

HEADER = """# Losses and miners

What the public losses and miners of [pytorch-metric-learning](https://github.com/KevinMusgrave/pytorch-metric-learning)
do on a subspace. "Works": value and gradient are those of the same class built at the subspace's width, and the
coordinates outside the subspace get a gradient of exactly zero (fixed subspaces), or those of masking embedding and
weights by hand (learned masks). Losses compute in float32 there, also under mixed precision.

A loss of your own works too, if it derives from `BaseMetricLossFunction`. If it owns a weight that is as wide as the
embedding, declare which dimension that is: `weight_dims={"MyLoss": {"centres": 1}}`.

This page is printed by `docs/generate_losses_table.py`.
"""

OWN_MINER = """
## A miner of our own

`divconq_pl.DistanceWeightedMiner` is what `loss=margin` and the papers' recipes mine with, and works on a subspace as
all miners do. It draws negatives as the authors' code does: each anchor's weights are relative to its own greatest one,
its negatives are distinct, and all of its positives are taken. That of the same name in pytorch-metric-learning takes
weights relative to the greatest one in the batch: at 512 dimensions those of most anchors underflow, and these anchors
are left out (on 80 embeddings of rank 16, three quarters of them). It can be had with `miner=distance_weighted_pml`.

- `width`: a learner's miner sees a slice, and weighs distances by the slice's width. The authors set the other
  coordinates to zero and weigh by the whole width. For a slice of 16 of 512 and one negative for an anchor in a batch
  of 80, the mean rank of the negative that is drawn is 9 by the slice's width and 0, which is the nearest, by the whole
  one. `width=512`, or `miner=paper/distance_weighted` for `train.py`, is the authors' choice.
- `far_weight`: the authors give negatives at 1.4 or more, which have no loss, the weight 1e-6, and others at least
  1e-9. At a large width most weights are at that least value, so an anchor that draws three negatives often gets the
  nearest one and two without loss. `far_weight=1e-12` draws those within reach first.

The [benchmarks](benchmarks.md#losses-and-miners) show both.
"""


def public_classes(module: ModuleType) -> dict[str, type[nn.Module]]:
    """Return the losses or miners that a module of pytorch-metric-learning offers, by name."""
    return {
        name: cls
        for name, cls in sorted(vars(module).items())
        if inspect.isclass(cls) and issubclass(cls, nn.Module) and name not in BASES
    }


def build(cls: type[nn.Module], width: int, classes: int = 16) -> nn.Module:
    """Make a loss or miner for embeddings of some width.

    Args:
        cls: one of :func:`public_classes`.
        width: width of the embedding.
        classes: number of classes, for those that have to know.

    Raises:
        TypeError: if the class needs something that is not known here.
    """
    name = cls.__name__
    if name == "CrossBatchMemory":
        return cls(losses.ContrastiveLoss(), embedding_size=width, memory_size=40, miner=miners.MultiSimilarityMiner())
    if name == "MultipleLosses":
        return cls([losses.TripletMarginLoss(), losses.ArcFaceLoss(classes, width)])
    if name == "SelfSupervisedLoss":
        return cls(losses.NTXentLoss())
    if name == "ManifoldLoss":
        return cls(l=width, K=5)
    if name == "RankedListLoss":
        return cls(margin=0.4, Tn=1)
    if name == "P2SGradLoss":
        return cls(descriptors_dim=width, num_classes=classes)
    if CONDITIONS.get(name) == HAS_CLASSES:
        return cls(num_classes=classes, embedding_size=width)
    return cls()


def table(module: ModuleType) -> str:
    """Return the rows for the losses or the miners."""
    rows = []
    for name, cls in public_classes(module).items():
        parts = nn.ModuleList([build(cls, 16), losses.TripletMarginLoss()])
        try:
            narrow_losses(parts, FixedSubspaces(16, split_depth=1))
        except InputError as reason:
            rows.append(f"| {name} | refused | {reason} |")
        else:
            rows.append(f"| {name} | works{' with a condition' * (name in CONDITIONS)} | {CONDITIONS.get(name, '')} |")
    return "\n".join(rows)


def page() -> str:
    """Return the whole page."""
    unknown = CONDITIONS.keys() - public_classes(losses).keys() - public_classes(miners).keys()
    if unknown:
        raise ValueError(f"conditions for classes that do not exist: {sorted(unknown)}")
    head = "| | on a subspace | why |\n|---|---|---|\n"
    return f"{HEADER}\n## Losses\n\n{head}{table(losses)}\n\n## Miners\n\n{head}{table(miners)}\n{OWN_MINER}"


if __name__ == "__main__":
    print(page(), end="")
