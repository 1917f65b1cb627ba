"""A module is the user's: nothing of ours in a file that another callback saves, nor after a fit that ended early."""

import io

import pytest
import pytorch_lightning as pl
import torch
from pytorch_metric_learning import losses
from toys import CLASSES, WIDTH, PlainModule, loader, same, weights
from witnesses import Unique, fit, validation

HOOKS = ["on_train_batch_start", "on_before_backward", "on_train_batch_end", "on_validation_end", "on_train_epoch_end"]


class Functional(PlainModule):
    """Its loss is a function, so the output of the embedding layer is narrowed."""

    def __init__(self):
        super().__init__()
        self.loss = None

    def training_step(self, batch, batch_idx):
        z = torch.nn.functional.normalize(self(batch[0]))
        return torch.nn.functional.cross_entropy(10 * z @ z.T, torch.arange(len(z)))


def proxies():
    return PlainModule(losses.ProxyAnchorLoss(num_classes=CLASSES, embedding_size=WIDTH))


class Saves(pl.Callback):
    """Keeps the whole module, as some projects do."""

    def __init__(self, hook):
        self.files = []
        setattr(self, hook, self._save)

    def _save(self, trainer, module, *_):
        torch.save(module, file := io.BytesIO())
        self.files.append(file.getvalue())


def no_hooks_of_ours(module):
    hooks = [h for m in module.modules() for h in (*m._forward_pre_hooks.values(), *m._forward_hooks.values())]
    return not any(type(hook).__module__.startswith("divconq_pl") for hook in hooks)


@pytest.mark.parametrize("make", [proxies, Functional])
@pytest.mark.parametrize("hook", HOOKS)
def test_another_callback_may_save_the_whole_module_at_any_time(make, hook):
    saves = Saves(hook)
    fit(Unique(), make(), saves, val=validation())
    assert b"divconq_pl" not in saves.files[-1]
    loaded = torch.load(io.BytesIO(saves.files[-1]), weights_only=False)
    assert no_hooks_of_ours(loaded)
    batch = next(iter(loader()))
    assert loaded(batch[0]).shape == (16, WIDTH)
    loaded.training_step(batch, 0).backward()
    fit(Unique(), loaded)


class Interrupted(losses.ProxyAnchorLoss):
    """Something happens while it computes."""

    raises = None

    def compute_loss(self, *args):
        if self.raises is not None and self.calls == 0:
            raise self.raises
        self.calls -= 1
        return super().compute_loss(*args)


@pytest.mark.parametrize("raises", [KeyboardInterrupt, SystemExit, RuntimeError])
def test_whatever_ends_a_fit_in_the_middle_of_a_loss_leaves_the_module_as_it_was(raises):
    module = PlainModule(Interrupted(num_classes=CLASSES, embedding_size=WIDTH))
    own = set(vars(module.loss))
    module.loss.raises, module.loss.calls = raises, 30
    with pytest.raises((raises, SystemExit)):
        fit(Unique(), module)
    assert set(vars(module.loss)) == own | {"raises", "calls"}
    assert no_hooks_of_ours(module)
    assert module.loss.proxies.shape == (CLASSES, WIDTH)
    module.loss.raises = None
    _, batches = fit(Unique(), module)
    assert all(len(set(b["rows"])) in (WIDTH, WIDTH // 2) for b in batches)


def test_a_second_fit_is_that_of_a_new_callback():
    def train(first, second):
        torch.manual_seed(0)
        module = PlainModule()
        fit(first, module)
        torch.manual_seed(1)
        fit(second, module)
        return weights(module)

    callback = Unique()
    assert same(train(callback, callback), train(Unique(), Unique()))
