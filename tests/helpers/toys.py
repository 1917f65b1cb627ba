"""A plain LightningModule, data with classes and hidden groups, and a trainer: somebody else's project."""

import pytorch_lightning as pl
import torch
from pytorch_metric_learning import losses
from torch import nn
from torch.utils.data import DataLoader, Dataset

CLASSES, PER_CLASS, WIDTH = 24, 8, 16


class Vectors(Dataset):
    """Noisy copies of class centres; each item also carries its own index."""

    def __init__(self, labels=None, seed=0):
        generator = torch.Generator().manual_seed(seed)
        self.targets = torch.arange(CLASSES).repeat_interleave(PER_CLASS) if labels is None else labels
        centres = torch.randn(int(self.targets.max()) + 1, 12, generator=generator)
        self.values = centres[self.targets] + 0.3 * torch.randn(len(self.targets), 12, generator=generator)

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, i):
        return self.values[i], self.targets[i], i


class PlainModule(pl.LightningModule):
    """What a user of Lightning and PML writes."""

    def __init__(self, loss=None, miner=None, width=WIDTH, dropout=0.0):
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(12, 20), nn.ReLU(), nn.Dropout(dropout))
        self.head = nn.Linear(20, width)
        self.loss = loss or losses.ContrastiveLoss()
        self.miner = miner
        self.validated = []

    def forward(self, x):
        return self.head(self.backbone(x))

    def training_step(self, batch, batch_idx):
        z, labels = self(batch[0]), batch[1]
        return self.loss(z, labels, self.miner(z, labels) if self.miner else None)

    def validation_step(self, batch, batch_idx):
        self.validated.append(self.trainer.current_epoch)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-2)


def loader(dataset=None, batch_size=16, **options):
    return DataLoader(dataset or Vectors(), batch_size=batch_size, shuffle=True, **options)


def trainer(*callbacks, **options):
    defaults = {
        "max_epochs": 6,
        "accelerator": "cpu",
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "num_sanity_val_steps": 0,
    }
    return pl.Trainer(callbacks=list(callbacks), **{**defaults, **options})


def weights(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
