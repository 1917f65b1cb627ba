"""What two processes do that the Trainer's ``ddp`` strategy starts; test_processes.py runs this script once.

python tests/two_processes.py FOLDER writes down what every fit was, on every process, for the test to look at.
"""

import os
import random
import sys
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_metric_learning import losses
from stops import fit
from torch import nn
from torchvision.transforms import v2
from toys import loader, trainer, weights

from divconq_pl import DivideConquerCallback, DivideConquerModule, InputError
from divconq_pl.data import Glyphs, RetrievalDataModule

NAMES = {
    "fixed": ["005-step", "012-epoch", "025-step", "036-step", "040-step", "055-step"],
    "learned": ["012-epoch", "029-step", "048-epoch"],
    "training": ["012-epoch", "024-epoch", "029-step"],  # fixed subspaces, and the features of training
}
DDP = {"devices": 2, "strategy": "ddp"}
DIVIDE = {"images_per_class": 2}


class Learners(pl.Callback):
    """Begin with random numbers of one's own, and write down which learner each batch belonged to.

    The Trainer shuffles by the seed of ``seed_everything``, which all processes and a resumed run have in common.
    """

    def __init__(self, seed):
        self.seed, self.learners = seed, []

    def setup(self, trainer, pl_module, stage):
        torch.manual_seed(self.seed)
        random.seed(self.seed)
        np.random.seed(self.seed)

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        divide = next(c for c in trainer.callbacks if isinstance(c, DivideConquerCallback))
        self.learners.append(divide.learner)


def record(folder, keep=None, resume=None, subspaces="fixed", seed=0, devices=2):
    """Train through all stages, with other random numbers on each process, and write down what came of it.

    Args:
        folder: where, and the beginning of the file's name.
        keep: folder for checkpoints.
        resume: checkpoint to go on from.
        subspaces: ``"fixed"``, ``"learned"`` or ``"training"``.
        seed: what the random numbers begin with.
        devices: number of processes.
    """
    rank = int(os.environ.get("LOCAL_RANK", 0))
    learners = Learners(10 * seed + rank)
    options = {"data": partial(loader, batch_size=16 // devices), **(DDP if devices == 2 else {})}
    divide = DIVIDE
    if subspaces == "training":
        subspaces, divide = "fixed", {**DIVIDE, "features": "training"}
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        module, callback = fit(keep, resume, learners, subspaces=subspaces, divide=divide, **options)
    division = callback.division
    result = {
        "batches": module.seen,
        "learners": learners.learners,
        "weights": weights(module),
        "masks": callback.subspaces.state(),
        "assignment": division.assignment,
        "sizes": [summary["sizes"] for summary in callback.history],
        "said": [str(warning.message) for warning in said],
    }
    torch.save(result, f"{folder}-{rank}.pt")


def pictures():
    """Return a network for glyphs that has not learned anything."""
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.AvgPool2d(8), nn.Flatten(), nn.LazyLinear(20), nn.ReLU())
    backbone(torch.zeros(1, *glyphs(8).splits.train[0][0].shape))
    backbone.out_features = 20
    return Pictures(backbone, 16, losses.ContrastiveLoss(), optimizer=partial(torch.optim.Adam, lr=1e-3))


class Pictures(DivideConquerModule):
    """Writes down the classes of each batch."""

    def training_step(self, batch, batch_idx):
        self.seen = [*getattr(self, "seen", []), batch[0].sum((1, 2, 3)).tolist()]
        return super().training_step(batch, batch_idx)


def glyphs(batch_size):
    """Return small data for it."""
    data = Glyphs(num_classes=16, images_per_class=12, size=32)
    plain = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
    return RetrievalDataModule(data, plain, plain, batch_size=batch_size, images_per_class=2, eval_batch_size=7)


def train_on_pictures(folder):
    """Train the package's own module on its own data, as conf/trainer does, and test it."""
    module, data = pictures(), glyphs(8)
    divide = DivideConquerCallback(split_depth=1, every_n_epochs=1, warmup_epochs=0, images_per_class=2)
    fitted = trainer(divide, max_epochs=2, use_distributed_sampler=False, num_sanity_val_steps=1, **DDP)
    fitted.fit(module, datamodule=data)
    validated = {name: float(value) for name, value in fitted.callback_metrics.items() if name.startswith("val/")}
    (tested,) = fitted.test(module, datamodule=data, verbose=False)
    result = {"weights": weights(module), "seen": module.seen, "val": validated, "test": tested}
    torch.save(result, f"{folder}/pictures-{fitted.global_rank}.pt")


def main(folder):
    for subspaces, names in NAMES.items():
        own = folder / subspaces
        record(own / "straight", own, subspaces=subspaces)
        for name in names:
            record(own / name, resume=own / f"{name}.ckpt", subspaces=subspaces, seed=9)
    train_on_pictures(folder)
    record(folder / "of-one", resume=folder / "one" / "012-epoch.ckpt", seed=9)
    try:
        record(folder / "refused", resume=folder / "one" / "029-step.ckpt", seed=9)
    except InputError as error:
        (folder / f"refused-{os.environ.get('LOCAL_RANK', 0)}.txt").write_text(str(error))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
