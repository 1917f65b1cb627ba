"""Learned masks are optimised in any project, at their own rate, and leave no trace in it."""

from functools import partial

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from toys import PlainModule, Vectors, loader, same, trainer, weights

from divconq_pl import DivideConquerCallback, InputError, LearnedSubspaces
from divconq_pl.lightning.subspace_optimizer import SubspaceOptimizer

KEPT = {"SGD": {"momentum": 0.9}, "Adam": {}, "AdamW": {}, "RMSprop": {"momentum": 0.5}, "NAdam": {}, "Adagrad": {}}


def attached(name="SGD", lr=0.1, weight_decay=0.0, options=None, **factors):
    layer = nn.Linear(3, 16)
    leader = getattr(torch.optim, name)(
        [
            {"params": nn.Linear(2, 2).parameters(), "lr": 7.0},
            {"params": layer.parameters(), "lr": lr, "weight_decay": weight_decay},
        ],
        **(options or {}),
    )
    subspaces = LearnedSubspaces(16, 2, orthogonality_weight=0.5, **factors)
    subspaces.set_depth(2)
    own = SubspaceOptimizer(subspaces, [leader], layer)
    own.follow(trainer())
    subspaces.usage.follow([leader])
    return leader, subspaces, own


def backward(subspaces, *learners):
    for learner in learners:
        subspaces.activate(learner)
        subspaces.narrow(torch.arange(80.0).view(5, 16), 1).square().sum().backward()
    subspaces.activate(None)


def moved(subspaces, step):
    before = subspaces.state()
    step()
    return [k for k, (name, value) in enumerate(subspaces.state().items()) if not torch.equal(value, before[name])]


@pytest.mark.parametrize("name", KEPT)
def test_masks_step_with_the_optimiser_of_the_embedding_layer_at_a_multiple_of_its_rate(name):
    settings = {"lr": 0.01, "weight_decay": 0.1, "lr_factor": 3, "weight_decay_factor": 2}
    leader, subspaces, _ = attached(name, options=KEPT[name], **settings)
    masks = [nn.Parameter(mask.detach().clone()) for mask in subspaces.masks]
    reference = getattr(torch.optim, name)(masks, lr=0.03, weight_decay=0.2, **KEPT[name])
    for _ in range(3):
        backward(subspaces, 1, 3)
        for k in (1, 3):
            masks[k].grad = subspaces.masks[k].grad.clone()
        leader.step()
        reference.step()
        for k in (1, 3):
            assert torch.allclose(subspaces.masks[k], masks[k])
        assert torch.equal(subspaces.masks[0], torch.ones(16))


def test_a_mask_that_no_batch_has_used_stays_where_it_is_momentum_and_decay_notwithstanding():
    leader, subspaces, _ = attached("Adam", weight_decay=0.1, weight_decay_factor=1.0, lr_factor=1.0)
    for used in ([0, 2], [1], [2, 2, 3], []):
        backward(subspaces, *used)
        assert moved(subspaces, leader.step) == sorted(set(used))


def test_a_schedule_of_the_embedding_layers_rate_is_followed():
    leader, subspaces, _ = attached(lr=0.1, lr_factor=10)
    leader.param_groups[1]["lr"] = 0.0
    backward(subspaces, 0)
    assert moved(subspaces, leader.step) == []
    state = leader.state_dict()
    leader.load_state_dict(state)  # which makes new groups
    leader.param_groups[1]["lr"] = 1e-6
    backward(subspaces, 0)
    assert moved(subspaces, leader.step) == [0]


def test_masks_are_pushed_apart_while_divided_only():
    leader, subspaces, own = attached(lr=0.1, lr_factor=1)
    assert moved(subspaces, leader.step) == []
    own.divided = True
    with torch.no_grad():
        subspaces.masks[1][:8] = 0.5
    assert moved(subspaces, leader.step) == [0, 1, 2, 3]


def test_gradients_that_are_dropped_move_nothing():
    leader, subspaces, own = attached()
    backward(subspaces, 0)
    own.drop_gradients(leader)
    assert moved(subspaces, leader.step) == []


def test_children_begin_with_moments_of_their_own():
    leader, subspaces, own = attached("Adam")
    backward(subspaces, 0)
    leader.step()
    assert own.state()["state"]
    own.reset()
    assert not own.state()["state"]


class SeparateParts(PlainModule):
    """Hands over its own parameters by name, and schedules their rates one by one."""

    def configure_optimizers(self):
        groups = [{"params": self.backbone.parameters(), "lr": 1e-3}, {"params": self.head.parameters()}]
        self.optimizer = torch.optim.Adam(groups, lr=1e-2)
        return [self.optimizer], [torch.optim.lr_scheduler.LambdaLR(self.optimizer, [lambda e: 1, lambda e: 0.9**e])]


def test_in_a_foreign_project_masks_learn_at_their_rate_and_leave_no_trace():
    def learn(lr_factor):
        pl.seed_everything(0)
        callback = DivideConquerCallback(
            split_depth=1, every_n_epochs=1, conquer_at=3, subspaces=partial(LearnedSubspaces, lr_factor=lr_factor)
        )
        module = SeparateParts()
        keys, children = list(module.state_dict()), list(module._modules)
        trainer(callback, max_epochs=3).fit(module, loader())
        assert list(module.state_dict()) == keys
        assert list(module._modules) == children
        assert [len(group["params"]) for group in module.optimizer.param_groups] == [2, 2]
        return torch.stack([mask.detach() for mask in callback.subspaces.masks]), module

    still, _ = learn(0.0)
    slow, _ = learn(1.0)
    fast, _ = learn(100.0)
    assert torch.equal(still, torch.ones_like(still))
    assert (fast - 1).abs().mean() > 5 * (slow - 1).abs().mean() > 0


def test_a_plain_module_that_was_trained_is_pickled_without_this_package(tmp_path):
    module = PlainModule()
    trainer(DivideConquerCallback(split_depth=1, every_n_epochs=1, subspaces="learned"), max_epochs=2).fit(
        module, loader(Vectors())
    )
    before = weights(module)
    torch.save(module, tmp_path / "module.pt")
    assert b"divconq_pl" not in (tmp_path / "module.pt").read_bytes()
    assert same(weights(torch.load(tmp_path / "module.pt", weights_only=False)), before)


def test_an_optimiser_that_evaluates_the_loss_itself_is_refused():
    class Newton(PlainModule):
        def configure_optimizers(self):
            return torch.optim.LBFGS(self.parameters())

    with pytest.raises(InputError, match=r"LBFGS evaluates the loss several times .* subspaces='fixed'"):
        trainer(DivideConquerCallback(split_depth=1, subspaces="learned"), max_epochs=2).fit(Newton(), loader())


def test_the_momentum_of_a_schedule_is_followed():
    leader, subspaces, own = attached(options={"momentum": 0.9})
    leader.param_groups[1]["momentum"] = 0.5
    backward(subspaces, 0)
    leader.step()
    assert own.state()["param_groups"][0]["momentum"] == 0.5
