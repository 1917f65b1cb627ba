"""Isolation keeps the other learners' coordinates exactly where they are."""

import pytest
import pytorch_lightning as pl
import torch
from pytorch_metric_learning import losses
from toys import CLASSES, WIDTH, PlainModule, loader, trainer

from divconq_pl import DivideConquerCallback, InputError


class Moves(pl.Callback):
    """Write down which rows of the embedding layer and which columns of the proxies each step moved."""

    def __init__(self, divide):
        self.divide, self.moves = divide, []

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        self.learner, self.depth = self.divide.learner, self.divide.stage.depth
        self.before = [module.head.weight.clone(), module.head.bias.clone(), module.loss.proxies.T.clone()]

    def on_train_batch_end(self, trainer, module, *_):
        after = [module.head.weight, module.head.bias, module.loss.proxies.T]
        moved = [
            set(
                (old != new).flatten(1).any(1).nonzero().flatten().tolist()
                if old.ndim > 1
                else (old != new).nonzero().flatten().tolist()
            )
            for old, new in zip(self.before, after, strict=True)
        ]
        self.moves.append((self.learner, self.depth, moved))


class Decaying(PlainModule):
    def __init__(self, optimizer, steps="automatic"):
        super().__init__(losses.ProxyAnchorLoss(CLASSES, WIDTH))
        self.make, self.steps = optimizer, steps
        self.automatic_optimization = steps == "automatic"

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        if not self.automatic_optimization:
            optimizers = self.optimizers() if self.steps == "by hand, two" else [self.optimizers()]
            for optimizer in optimizers:
                optimizer.zero_grad()
            self.manual_backward(loss)
            for optimizer in optimizers:
                optimizer.step()
        return loss

    def configure_optimizers(self):
        if self.steps == "by hand, two":
            network = [*self.backbone.parameters(), *self.head.parameters()]
            return [self.make(network), self.make(self.loss.parameters())]
        return self.make(self.parameters())


OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01),
    "adam": lambda p: torch.optim.Adam(p, lr=1e-2, weight_decay=0.01),
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-2),
}


def moves(optimizer, isolate, steps="automatic", **options):
    divide = DivideConquerCallback(split_depth=2, every_n_epochs=1, conquer_at=4, isolate=isolate)
    witness = Moves(divide)
    trainer(divide, witness, max_epochs=5, **options).fit(Decaying(OPTIMIZERS[optimizer], steps), loader())
    return witness.moves


@pytest.mark.parametrize("steps", ["automatic", "by hand", "by hand, two"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_only_the_active_coordinates_move(optimizer, steps):
    divided = 0
    for learner, depth, moved in moves(optimizer, isolate=True, steps=steps):
        width = WIDTH >> depth
        own = set(range(WIDTH)) if learner is None else set(range(learner * width, (learner + 1) * width))
        divided += learner is not None
        for rows in moved:
            assert rows == own
    assert divided


def test_without_isolation_momentum_and_weight_decay_move_the_others_too():
    others = [rows for learner, _, moved in moves("adam", isolate=False) for rows in moved if learner is not None]
    assert any(len(rows) == WIDTH for rows in others)


def test_a_step_over_several_batches_moves_the_coordinates_of_all_of_them():
    recorded = moves("adam", isolate=True, accumulate_grad_batches=2)
    for (first, depth, before), (second, _, moved) in zip(recorded[::2], recorded[1::2], strict=True):
        width = WIDTH >> depth
        learners = range(1 << depth) if first is None else {first, second}
        assert before == [set()] * 3
        assert moved[0] == {c for k in learners for c in range(k * width, (k + 1) * width)}


def test_a_layer_that_is_not_linear_cannot_be_isolated():
    class Sequential(PlainModule):
        def __init__(self):
            super().__init__()
            self.embedding = torch.nn.Sequential(torch.nn.Linear(20, WIDTH), torch.nn.BatchNorm1d(WIDTH))

        def forward(self, x):
            return self.embedding(self.backbone(x))

    with pytest.raises(InputError, match=r"needs a linear embedding layer.* not a Sequential"):
        trainer(DivideConquerCallback(split_depth=1, isolate=True)).fit(Sequential(), loader())
