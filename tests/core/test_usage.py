"""Who gave gradients since an optimiser's last step."""

import torch
from torch import nn

from divconq_pl.core.usage import Usage


def make(count=2):
    optimizers = [torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1) for _ in range(count)]
    usage = Usage()
    return usage, optimizers, usage.follow(optimizers)


def test_each_optimiser_steps_in_its_own_time():
    usage, (first, second), _ = make()
    for learner in (0, 2, 0):
        usage.note(learner)
    first.step()
    usage.note(1)
    assert usage.since_step(first) == {1}
    assert usage.since_step(second) == {0, 1, 2}


def test_gradients_that_are_dropped_without_a_step_leave_the_active_learner():
    usage, (first, second), _ = make()
    usage.note(0)
    usage.note(3)
    usage.drop_gradients(first, active=3)
    assert usage.since_step(first) == {3}
    assert usage.since_step(second) == {0, 3}
    usage.drop_gradients(second, active=None)
    assert usage.since_step(second) == set()


def test_a_state_is_restored_where_optimisers_are_followed_anew():
    usage, (first, _), _ = make()
    usage.note(2)
    first.step()
    usage.note(1)
    other, optimizers = Usage(), make()[1]
    other.load_state(usage.state())
    assert other.state() == usage.state() == [[1], [1, 2]]
    other.follow(optimizers)
    assert [other.since_step(optimizer) for optimizer in optimizers] == [{1}, {1, 2}]


def test_nothing_is_noted_for_an_optimiser_that_is_not_followed():
    usage, (first, _), handles = make()
    stranger = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    usage.note(0)
    usage.drop_gradients(stranger, active=None)
    assert usage.since_step(stranger) == set()
    for handle in handles:
        handle.remove()
    first.step()
    assert usage.since_step(first) == {0}
