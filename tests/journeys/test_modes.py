"""Precision, accumulation, clipping, compilation and memory layout: each against the plain way of training."""

import copy
import math
from functools import partial

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.precision import MixedPrecision
from pytorch_metric_learning import losses
from torch import nn
from torch.utils.data import DataLoader
from toys import CLASSES, WIDTH, PlainModule, Vectors, loader, same, trainer, weights
from witnesses import assert_divided, fit, masks_of

from divconq_pl import DivideConquerCallback, DivideConquerModule, InputError, LearnedSubspaces

BATCHES = CLASSES * 8 // 16
SUBSPACES = pytest.mark.parametrize("subspaces", ["fixed", "learned"])
SGD = partial(torch.optim.SGD, lr=1e-2, momentum=0.9)
STAGES = ["undivided", "divided", "divided", "merged", "conquered"]


class Groups(Vectors):
    """Two pairs of groups of classes, so far apart that rounding does not change the clusters."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        directions = torch.linalg.qr(torch.randn(12, 12, generator=generator))[0]
        group = self.targets % 4
        self.values = 3 * directions[group // 2] + 1.5 * directions[2 + group]
        self.values += 0.25 * torch.randn(CLASSES, 12, generator=generator)[self.targets]
        self.values += 0.1 * torch.randn(len(self), 12, generator=generator)


class Plain(PlainModule):
    """A module whose loss owns weights and is computed wherever the Trainer's precision says."""

    def __init__(self, optimizer=SGD):
        super().__init__(losses.NormalizedSoftmaxLoss(CLASSES, WIDTH, temperature=0.2))
        self.backbone = nn.Sequential(nn.Linear(12, 20), nn.Tanh())
        self.make_optimizer = optimizer

    def configure_optimizers(self):
        return self.make_optimizer(self.parameters())


class Ours(DivideConquerModule):
    """The package's own module, which computes its loss in single precision."""

    def __init__(self):
        backbone = nn.Sequential(nn.Linear(12, 20), nn.Tanh())
        backbone.out_features = 20
        loss = losses.NormalizedSoftmaxLoss(CLASSES, WIDTH, temperature=0.2)
        super().__init__(backbone, WIDTH, loss, optimizer=SGD)

    def training_step(self, batch, batch_idx):
        return super().training_step(batch[:2], batch_idx)

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        super().validation_step(batch[:2], batch_idx, dataloader_idx)


class Record(pl.Callback):
    """Write down every batch, its loss, and the precision of what the loss owns."""

    def __init__(self, callback):
        self.callback, self.batches, self.losses, self.dtypes = callback, [], [], set()

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        self.batches.append((self.callback.stage.phase, self.callback.learner, batch[2].tolist()))

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.losses.append(float(outputs["loss"]))
        self.dtypes |= {parameter.dtype for parameter in getattr(module, "loss", module).parameters()}


def train(
    make=Plain, subspaces="fixed", *others, data=None, module=None, divide=None, prepare=None, val=None, **options
):
    """Train through all stages; return the record, the module and the callback."""
    torch.manual_seed(0)
    module = make() if module is None else module
    settings = {"split_depth": 2, "every_n_epochs": 1, "merge_at": 3, "conquer_at": 4, "images_per_class": 2}
    callback = DivideConquerCallback(**{**settings, "subspaces": subspaces, **(divide or {})})
    record = Record(callback)
    fitted = trainer(callback, record, *others, **{"max_epochs": 5, **options})
    fitted.fit(module if prepare is None else prepare(module), loader(Groups()) if data is None else data, val)
    return record, module, callback


def scaled(init_scale=1024.0):
    """Return float16 on a CPU, which the Trainer itself takes for a GPU's."""
    return MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=init_scale))


# Precision.


@SUBSPACES
@pytest.mark.parametrize("make", [Plain, Ours])
@pytest.mark.parametrize(
    ("options", "tolerance", "dtype"),
    [
        (lambda: {"precision": "bf16-mixed"}, 0.01, torch.float32),
        (lambda: {"plugins": scaled()}, 0.002, torch.float32),
        (lambda: {"precision": "bf16-true"}, 0.05, torch.bfloat16),
    ],
    ids=["bf16-mixed", "16-mixed", "bf16-true"],
)
def test_half_precision_trains_on_the_same_batches_to_nearly_the_same_losses(
    make, subspaces, options, tolerance, dtype
):
    full, _, callback = train(make, subspaces)
    half, module, other = train(make, subspaces, **options())
    assert [full.batches[i * BATCHES][0] for i in range(5)] == STAGES
    assert {learner for _, learner, _ in full.batches} == {None, 0, 1, 2, 3}
    assert half.batches == full.batches
    assert torch.equal(callback.division.assignment, other.division.assignment)
    assert half.losses == pytest.approx(full.losses, rel=tolerance)
    assert half.losses != full.losses
    assert full.losses[-1] < 0.8 * full.losses[0]
    assert half.dtypes == {dtype}
    assert all(value.isfinite().all() for value in module.state_dict().values())


@SUBSPACES
@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
@pytest.mark.parametrize("make", [Plain, Ours])
def test_an_optimiser_with_moments_goes_on_after_conquering(make, precision, subspaces):
    """The loss sees float32 embeddings while it is narrowed, and the network's own ones afterwards."""
    divide = {"warmup_epochs": 0, "merge_at": 2, "conquer_at": 3}
    make_adam = partial(torch.optim.Adam, lr=1e-3)
    module = make()
    module._make_optimizer = module.make_optimizer = make_adam
    half, _, _ = train(make, subspaces, module=module, divide=divide, precision=precision)
    assert half.batches[0][0] == "divided"
    assert half.batches[-1][0] == "conquered"
    assert half.dtypes == {torch.bfloat16 if precision == "bf16-true" else torch.float32}
    assert all(map(math.isfinite, half.losses))


def test_float16_on_a_cpu_is_taken_for_bfloat16_by_the_trainer():
    with pytest.warns(UserWarning, match="Using `precision='bf16-mixed'` instead"):
        assert trainer(precision="16-mixed").precision == "bf16-mixed"


class Overflowing(Plain):
    """Has a gradient that is infinite in some steps, as a large scale makes it."""

    def on_after_backward(self):
        if self.trainer.fit_loop.total_batch_idx % 3 == 2:
            self.head.bias.grad[0] = torch.inf


@pytest.mark.parametrize("isolated", [False, True])
def test_a_step_that_the_scaler_skips_moves_nothing_and_no_one_later(isolated):
    moves = []

    class Spy(pl.Callback):
        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            self.before = module.head.weight.detach().clone()

        def on_train_batch_end(self, trainer, module, *_):
            moves.append(set((module.head.weight != self.before).any(1).nonzero().flatten().tolist()))

    record, _, _ = train(Overflowing, "fixed", Spy(), divide={"isolate": isolated}, plugins=scaled(2.0**15))
    assert len(moves) == len(record.batches) == 5 * BATCHES
    more = 0
    for i, (rows, (phase, learner, _)) in enumerate(zip(moves, record.batches, strict=True)):
        width = WIDTH // (2 if i // BATCHES == 1 else 4)
        if i % 3 == 2:
            assert rows == set()
        elif phase == "divided":
            more += rows > set(range(learner * width, (learner + 1) * width))
    assert (more == 0) == isolated


@pytest.mark.parametrize("fused", [False, True])
def test_masks_are_pushed_apart_alike_whoever_divides_scaled_gradients(fused):
    make = partial(Plain, partial(torch.optim.SGD, lr=1e-2, fused=fused))

    def masks(weight, **options):
        subspaces = partial(LearnedSubspaces, orthogonality_weight=weight)
        return masks_of(train(make, subspaces, divide={"merge_at": None}, **options)[2])

    full = masks(200.0)
    effect = (full - masks(0.0)).abs().max()
    assert effect > 0.05
    assert (full - masks(200.0, plugins=scaled())).abs().max() < 0.1 * effect


# Gradients.


def by_hand(module, initial, batch, learner, depth, masks):
    """Return the gradient of one batch in which everything was narrowed by hand."""
    network = copy.deepcopy(module)
    network.load_state_dict(initial)
    weight, z = network.loss.W, network(batch[0])
    if masks is None:
        width = WIDTH >> depth
        own = slice(learner * width, (learner + 1) * width)
        z, weight = z[:, own], weight[own]
    else:
        z, weight = z * masks[learner].relu(), weight * masks[learner].relu()[:, None]
    logits = nn.functional.normalize(z) @ nn.functional.normalize(weight, dim=0) / 0.2
    loss = nn.functional.cross_entropy(logits, batch[1])
    parameters = dict(network.named_parameters())
    return dict(zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True))


@SUBSPACES
def test_an_accumulated_step_is_the_mean_over_its_batches_of_any_clusters(subspaces):
    reference, mixed = Plain(), []

    class Spy(pl.Callback):
        def on_train_start(self, trainer, module):
            self.window = []

        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            if batch_idx % 3 == 0:
                self.window = []
                self.initial = weights(module)
            self.window.append((batch, record.callback.learner))

        def on_before_optimizer_step(self, trainer, module, optimizer):
            if record.callback.stage.phase != "divided":
                return
            subs = record.callback.subspaces
            masks = subs.masks if subspaces == "learned" else None
            each = [by_hand(reference, self.initial, *pair, subs.depth, masks) for pair in self.window]
            for name, parameter in module.named_parameters():
                if name in each[0]:
                    expected = torch.stack([gradients[name] for gradients in each]).mean(0)
                    assert torch.allclose(parameter.grad, expected, atol=1e-6), name
            learners = {learner for _, learner in self.window}
            if masks is not None:
                for k, mask in enumerate(subs.parameters()):
                    assert (mask.grad is not None and bool(mask.grad.any())) == (k in learners)
            mixed.append(len(learners))

    torch.manual_seed(0)
    spy, callback = Spy(), DivideConquerCallback(split_depth=2, every_n_epochs=1, conquer_at=3, subspaces=subspaces)
    record = Record(callback)
    trainer(callback, record, spy, max_epochs=4, accumulate_grad_batches=3).fit(Plain(), loader(Groups()))
    assert len(mixed) == 2 * BATCHES // 3
    assert max(mixed) > 1


# Compilation.


class Graphs:
    """A backend that runs what it is given as it is, and counts what it was given."""

    def __init__(self):
        self.count, self.after = 0, []

    def __call__(self, graph, inputs):
        self.count += 1
        return graph.forward


class Counts(pl.Callback):
    """Note after each batch how many graphs there are."""

    def __init__(self, graphs):
        self.graphs = graphs

    def on_train_batch_end(self, *_):
        self.graphs.after.append(self.graphs.count)


class Scored(PlainModule):
    """Also classifies, so that the embedding leaves its layer masked."""

    def __init__(self):
        super().__init__()
        self.classifier = nn.Linear(WIDTH, CLASSES)

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self.classifier(self(batch[0])), batch[1])


def test_what_was_compiled_in_an_earlier_training_is_not_used_again():
    torch.compiler.reset()
    trainer(max_epochs=1).fit(torch.compile(Scored(), backend=Graphs()), loader())
    callback = DivideConquerCallback(split_depth=1, every_n_epochs=1, merge_at=None)
    _, batches = fit(callback, torch.compile(Scored(), backend=Graphs()), max_epochs=3)
    torch.compiler.reset()
    assert_divided(batches, [1, 2])


@pytest.mark.parametrize("part", ["module", "backbone", "loss"])
@SUBSPACES
def test_compiled_training_is_the_same_and_has_no_graph_for_each_learner(subspaces, part):
    def compile_part(backend, module):
        torch.compiler.reset()
        if part == "module":
            return torch.compile(module, backend=backend)
        getattr(module, part).compile(backend=backend)
        return module

    graphs = Graphs()
    plain, module, _ = train(subspaces=subspaces)
    compiled, other, _ = train(Plain, subspaces, Counts(graphs), prepare=partial(compile_part, graphs))
    torch.compiler.reset()
    assert compiled.batches == plain.batches
    assert compiled.losses == pytest.approx(plain.losses, rel=1e-5)
    for name, value in weights(module).items():
        assert torch.allclose(weights(other)[name], value, atol=1e-5), name
    assert len(graphs.after) == len(plain.batches)
    assert graphs.after[0] > 0
    # A narrower slice is compiled in the first batch of its epoch, and then serves all learners.
    for first, last in zip(graphs.after[::BATCHES], graphs.after[BATCHES - 1 :: BATCHES], strict=True):
        assert first == last
    # Back at the full embedding, what was compiled before the first division serves again.
    assert graphs.after[2 * BATCHES] == graphs.after[-1]


# Layout and evaluation.


class Pictures(Groups):
    """The vectors as small pictures of three channels."""

    def __getitem__(self, i):
        value, target, index = super().__getitem__(i)
        return value.view(3, 2, 2).repeat(1, 4, 4), target, index


class Convolutional(Plain):
    def __init__(self):
        super().__init__()
        convolution = nn.Conv2d(3, 8, 3, padding=1)
        self.backbone = nn.Sequential(convolution, nn.BatchNorm2d(8), nn.ReLU(), nn.AvgPool2d(4), nn.Flatten())
        self.head = nn.Linear(32, WIDTH)


class LastChannels(Convolutional):
    def __init__(self):
        super().__init__()
        self.to(memory_format=torch.channels_last)
        self.strides = set()

    def training_step(self, batch, batch_idx):
        batch[0] = batch[0].contiguous(memory_format=torch.channels_last)
        self.strides.add((batch[0].stride(1), self.backbone[0].weight.stride(1)))
        return super().training_step(batch, batch_idx)


@SUBSPACES
def test_channels_may_come_last(subspaces):
    plain, _, _ = train(Convolutional, subspaces, data=loader(Pictures()))
    other, module, _ = train(LastChannels, subspaces, data=loader(Pictures()))
    assert module.strides == {(1, 1)}
    assert other.batches == plain.batches
    assert other.losses == pytest.approx(plain.losses, rel=1e-3)


@SUBSPACES
def test_evaluation_in_inference_mode_leaves_the_training_as_it_is(subspaces):
    def halves(**options):
        """Train, evaluate or not, and train on with the same Trainer."""
        torch.manual_seed(0)
        module, seen = Ours(), []
        module.register_forward_hook(lambda *_: seen.append(torch.is_inference_mode_enabled()))
        settings = {"split_depth": 1, "every_n_epochs": 2, "warmup_epochs": 1, "subspaces": subspaces}
        callback = DivideConquerCallback(**settings)
        val, data = DataLoader(Vectors(seed=1), batch_size=64), loader(Groups())
        fitted = trainer(callback, max_epochs=2, **options)
        fitted.fit(module, data, val)
        seen.clear()
        if options:
            fitted.validate(module, val, verbose=False)
        evaluated, fitted.fit_loop.max_epochs = set(seen), 4
        torch.manual_seed(1)
        fitted.fit(module, data, val)
        assert [summary["epoch"] for summary in callback.history] == [1, 3]
        return weights(module), evaluated

    expected, _ = halves()
    for mode in (True, False):
        after, evaluated = halves(inference_mode=mode)
        assert evaluated == {mode}
        assert same(expected, after)


# Strategies that cannot work.


def named(*names):
    """Return a strategy class of these names, the last one's base being that of a single device."""
    made = pl.strategies.SingleDeviceStrategy
    for name in reversed(names):
        made = type(name, (made,), {})
    return made()


REFUSED = ["FSDPStrategy", "DeepSpeedStrategy", "ModelParallelStrategy", "XLAStrategy", "SingleDeviceXLAStrategy"]


@pytest.mark.parametrize("names", [*((name,) for name in REFUSED), ("MyOwn", "FSDPStrategy")], ids="-".join)
def test_a_strategy_that_cuts_parameters_is_refused_by_name(names):
    module = Plain()
    with pytest.raises(InputError, match=rf"strategy {names[0]},.*use strategy='ddp' or 'ddp_spawn', or a single dev"):
        train(module=module, strategy=named(*names))
    assert [name for name, _ in module.named_children()] == [name for name, _ in Plain().named_children()]
    train(strategy=named(*names), divide={"split_depth": 0}, max_epochs=1)


def test_the_strategies_that_are_refused_are_those_of_the_trainer():
    assert set(REFUSED) <= {cls.__name__ for cls in vars(pl.strategies).values() if isinstance(cls, type)}
    train(strategy=named("AnyOther"), max_epochs=1)
