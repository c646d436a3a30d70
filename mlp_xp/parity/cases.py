"""The cases of the parity check, as data: every layer, every loss, every optimizer, the training step and a short run.

A case is the body of a loop for `Backend.compile` and its input arrays. Each row of the report judges one result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import Any

import numpy as np  # noqa: TID251  inputs are drawn on the host

from mlp_xp.data.feed import Batch, gather
from mlp_xp.nn.initializers import Normal
from mlp_xp.nn.layers import (
    GELU,
    BatchNorm,
    Chain,
    Dense,
    Dropout,
    Embedding,
    Identity,
    Layer,
    LayerNorm,
    LeakyReLU,
    ReLU,
    Rescale,
    Sigmoid,
    Softplus,
    StatefulLayer,
    Tanh,
)
from mlp_xp.nn.losses import (
    AbsoluteError,
    BinaryCrossEntropy,
    Huber,
    Loss,
    Poisson,
    Quantile,
    SoftmaxCrossEntropy,
    SquaredError,
)
from mlp_xp.nn.networks import mlp
from mlp_xp.nn.optimizers import SGD, Adam, AdamW, Optimizer, RMSprop
from mlp_xp.nn.schedules import LossRatio, Moment, as_schedule
from mlp_xp.nn.step import TrainState, TrainStep
from mlp_xp_backends.trees import ABSENT, tree_map
from mlp_xp_backends.typing import Array, Tree

Body = Callable[[Any, Tree, Tree, Tree], tuple[Tree, Tree]]

ROWS, FEATURES, OUTPUTS = 12, 32, 10
RUN_STEPS, RUN_BATCH = 30, 128


@dataclass(frozen=True, eq=False)
class Case:
    """A loop body, its inputs on the host, and names for the entries of its result.

    The result is the tuple of outputs of ``body``. If the body carries a state, the result consists of the state after
    the last step and the outputs.

    >>> cases()[0].rows
    ('Dense forward', 'Dense backward')
    """

    rows: tuple[str, ...]
    """The names of the entries of the result, which are the rows of the report."""
    body: Body = field(repr=False)
    carry: Tree = field(repr=False)
    consts: Tree = field(repr=False)
    items: Tree = field(repr=False)
    run: bool = False
    """Whether this is a run of many steps, judged by the parameters at its end."""

    def result(self, carry: Tree, outs: Tree) -> Tree:
        """The part of the loop's ``(carry, outs)`` that is judged: one entry per row."""
        if self.run:
            return (carry.params,)
        return outs if self.carry is ABSENT else ((carry, outs),)


@cache
def cases() -> tuple[Case, ...]:
    """Return all cases, always with the same inputs.

    >>> "run, 30 steps of 784-128-10, Adam" in [row for case in cases() for row in case.rows]
    True
    """
    return (*_layers(), *_losses(), *_metrics(), *_optimizers(), *_schedules(), *_initial_states(), *_steps(), _run())


def _pure(rows: tuple[str, ...], f: Callable[..., Tree], *inputs: Tree) -> Case:
    """The case of ``f(xp, *inputs)``, which returns one entry per row."""

    def body(xp: Any, carry: Tree, consts: Tree, item: Tree) -> tuple[Tree, Tree]:
        return carry, f(xp, *consts)

    return Case(rows, body, ABSENT, inputs, np.zeros(1, np.int32))


def layer_case(name: str, layer: Layer | StatefulLayer, x: Array, rng: np.random.Generator) -> Case:
    """The forward and backward pass of a layer and, if it has a state, its prediction."""
    chain = Chain(layer)
    params = _drawn(chain, rng)
    state = tree_map(lambda s: s if s.dtype.kind == "i" else s + rng.uniform(0.0, 0.5, s.shape), chain.init_state(rng))
    if isinstance(layer, Dropout):
        state = tree_map(lambda s: s + 7, state)
    width = chain.width(x.shape[-1])
    dy = rng.standard_normal((len(x), width if width is not None else x.shape[-1]))

    def f(xp: Any, params: Tree, state: Tree, x: Array, dy: Array) -> Tree:
        y, caches, after = chain.forward(xp, params, state, x, True)
        dx, grads = chain.backward(xp, params, caches, dy)
        both = ((y, after), (ABSENT if dx is None else dx, grads, chain.gradient(xp, params, caches, dy)))
        return (*both, chain.forward(xp, params, state, x, False)[0]) if layer.stateful else both

    parts = ("forward", "backward", *(("predict",) if layer.stateful else ()))
    return _pure(tuple(f"{name} {part}" for part in parts), f, params, state, x, dy)


def _drawn(chain: Chain, rng: np.random.Generator) -> Tree:
    """Initial parameters, with noise added to zeros and ones."""
    return tree_map(lambda p: p + 0.3 * rng.standard_normal(p.shape), chain.init(rng))


def _layers() -> Iterator[Case]:
    rng = np.random.default_rng(1)
    x = rng.standard_normal((ROWS, FEATURES)) * np.geomspace(1e-3, 30.0, ROWS)[:, None]
    even = rng.standard_normal((ROWS, FEATURES)) + 0.5
    ids = rng.integers(0, 9, (ROWS, 3), dtype=np.int32)
    pixels = rng.integers(0, 256, (ROWS, FEATURES), dtype=np.uint8)
    yield layer_case("Dense", Dense(FEATURES, OUTPUTS), even, rng)
    yield layer_case("Dense 784", Dense(784, OUTPUTS), rng.standard_normal((ROWS, 784)), rng)
    yield layer_case("Embedding concat", Embedding(9, 4, ids_per_row=3, combine="concat"), ids, rng)
    yield layer_case("Embedding sum", Embedding(9, 4, ids_per_row=3, combine="sum"), ids, rng)
    for layer in (Identity(), ReLU(), LeakyReLU(0.1), Sigmoid(), Tanh(), Softplus(), GELU()):
        yield layer_case(type(layer).__name__, layer, x, rng)
    yield layer_case("LayerNorm", LayerNorm(FEATURES), even, rng)
    yield layer_case("BatchNorm", BatchNorm(FEATURES), even, rng)
    yield layer_case("Dropout", Dropout(0.4), even, rng)
    yield layer_case("Rescale", Rescale(shift=3.0, scale=1.0 / 255.0), pixels, rng)
    key = Dropout(0.3).init_state(rng)
    yield _pure(("Dropout mask",), lambda xp, key: (Dropout(0.3).keep(xp, key, (ROWS, FEATURES)),), key)


def loss_case(name: str, make: Callable[..., Loss], z: Array, y: Array, w: Array) -> Case:
    """Mean, sum and weighted mean of a loss with their derivatives, and the prediction."""
    mean, total = make(), make(reduction="sum")

    def both(xp: Any, loss: Loss, z: Array, y: Array, w: Array) -> Tree:
        cost, cache = loss.forward(xp, z, y, w)
        return cost, loss.backward(xp, cache)

    def f(xp: Any, z: Array, y: Array, w: Array) -> Tree:
        return (
            both(xp, mean, z, y, ABSENT),
            both(xp, total, z, y, ABSENT),
            (both(xp, mean, z, y, w), both(xp, total, z, y, w)),
            mean.output(xp, z),
        )

    return _pure(tuple(f"{name} {part}" for part in ("mean", "sum", "weighted", "output")), f, z, y, w)


def _losses() -> Iterator[Case]:
    rng = np.random.default_rng(2)
    shape = (ROWS, OUTPUTS)
    w = rng.uniform(0.0, 2.0, ROWS)
    w[0] = 0.0
    targets: dict[str, tuple[Callable[..., Loss], Array]] = {
        "SoftmaxCrossEntropy": (SoftmaxCrossEntropy, rng.integers(0, OUTPUTS, ROWS, dtype=np.int32)),
        "SoftmaxCrossEntropy soft": (SoftmaxCrossEntropy, rng.dirichlet(np.ones(OUTPUTS), ROWS)),
        "BinaryCrossEntropy": (BinaryCrossEntropy, (rng.random(shape) < 0.4).astype(np.float64)),
        "SquaredError": (SquaredError, rng.standard_normal(shape)),
        "Poisson": (Poisson, rng.poisson(3.0, shape).astype(np.float64)),
        "AbsoluteError": (AbsoluteError, rng.standard_normal(shape)),
        "Huber": (partial(Huber, delta=0.7), rng.standard_normal(shape)),
        "Quantile": (partial(Quantile, q=0.8), rng.standard_normal(shape)),
    }
    z = 2.0 * rng.standard_normal(shape)
    huge = 1e4 * np.sign(rng.standard_normal(shape))
    for name, (make, y) in targets.items():
        case = loss_case(name, make, z, y, w)
        yield case
        yield replace(case, rows=tuple(f"{row}, 1e4" for row in case.rows), consts=(huge, y, w))


def _metrics() -> Iterator[Case]:
    rng = np.random.default_rng(3)
    z = rng.standard_normal((ROWS, OUTPUTS))
    classes = np.argmax(z, axis=-1).astype(np.int32)
    classes[::3] = 0
    flags = (rng.random(z.shape) < 0.5).astype(np.float64)
    for loss, y in ((SoftmaxCrossEntropy(), classes), (BinaryCrossEntropy(), flags)):
        for metric in loss.metrics:
            yield _pure((metric.__name__,), lambda xp, z, y, metric=metric: (metric(xp, z, y),), z, y)


OPTIMIZERS: dict[str, Optimizer] = {
    "SGD": SGD(0.1),
    "SGD momentum": SGD(0.1, momentum=0.9),
    "SGD Nesterov": SGD(0.1, momentum=0.9, nesterov=True),
    "Adam": Adam(0.01),
    "Adam eps_hat": Adam(0.01, eps=1e-3, eps_hat=True),
    "AdamW": AdamW(0.01, weight_decay=0.1),
    "RMSprop": RMSprop(0.01),
}


def optimizer_case(name: str, optimizer: Optimizer, steps: int = 4) -> Case:
    """Some steps of an optimizer along given gradients."""
    rng = np.random.default_rng(4)
    w = rng.standard_normal((FEATURES, OUTPUTS))
    g = rng.standard_normal((steps, FEATURES, OUTPUTS)) * np.geomspace(1e-6, 1e2, FEATURES)[:, None]

    def body(xp: Any, carry: Tree, consts: Tree, item: Tree) -> tuple[Tree, Tree]:
        return optimizer.update(xp, *carry, *item), ABSENT

    return Case((name,), body, (w, optimizer.init(np, w)), ABSENT, (g, rates_of(optimizer, steps)))


def rates_of(optimizer: Optimizer, steps: int) -> Tree:
    """The coefficients of each step, (steps,) each."""
    schedule = as_schedule(optimizer.lr)
    table = [optimizer.rates(schedule.rate(Moment(t, steps, 0, 0)), t + 1) for t in range(steps)]
    return tree_map(lambda *column: np.array(column), table[0], *table[1:])


def _optimizers() -> Iterator[Case]:
    for name, optimizer in OPTIMIZERS.items():
        yield optimizer_case(name, optimizer)


def _schedules() -> Iterator[Case]:
    rule = LossRatio(0.1, window=2)

    def body(xp: Any, state: Tree, consts: Tree, loss: Array) -> tuple[Tree, Tree]:
        state = rule.observe(xp, state, loss)
        return state, state.factor

    losses = np.random.default_rng(5).uniform(0.5, 2.0, (9, 3))
    yield Case(("LossRatio",), body, rule.init(np, (3,), np.float64), ABSENT, losses)


def _initial_states() -> Iterator[Case]:
    network = mlp(FEATURES, 8, OUTPUTS, dropout=0.5, norm="batch")
    for name, optimizer in (("Adam", Adam()), ("momentum, LossRatio", SGD(LossRatio(0.1), momentum=0.9))):
        step = TrainStep(network, SoftmaxCrossEntropy(), optimizer)
        rng = np.random.default_rng(6)
        host = network.init(rng), network.init_state(rng)
        yield _pure((f"initial state, {name}",), lambda xp, p, s, step=step: (tuple(step.init(xp, p, s)),), *host)


def step_case(name: str, step: TrainStep, data: Batch, batch: int, steps: int, models: int = 0, **more: Any) -> Case:
    """Training steps on ``data`` as the trainer takes them; ``models`` > 0 trains that many models at once."""
    rng = np.random.default_rng(7)
    drawn = [
        tree_map(np.asarray, (_drawn(step.network, rng), step.network.init_state(rng))) for _ in range(models or 1)
    ]
    params, layers = tree_map(lambda *m: np.stack(m), drawn[0], *drawn[1:]) if models else drawn[0]
    rows = rng.permuted(np.tile(np.arange(len(data.x), dtype=np.int32), (steps, 1)), axis=1)[:, :batch]

    def body(xp: Any, state: TrainState, data: Batch, item: Tree) -> tuple[TrainState, Array]:
        return step(xp, state, *gather(xp, data, item[0]), item[1])

    items = (rows, rates_of(step.optimizer, steps))
    return Case((name,), body, step.init(np, params, layers), data, items, **more)


def _steps() -> Iterator[Case]:
    rng = np.random.default_rng(8)
    x = rng.standard_normal((2 * ROWS, FEATURES))
    y = rng.integers(0, OUTPUTS, 2 * ROWS, dtype=np.int32)
    w = rng.uniform(0.5, 2.0, 2 * ROWS)
    step = partial(step_case, batch=ROWS, steps=1)
    small = partial(mlp, FEATURES, 16, OUTPUTS, init=Normal(std=0.2))
    softmax = SoftmaxCrossEntropy()
    yield step("step, SGD", TrainStep(small(), softmax, SGD(0.1)), Batch(x, y, ABSENT))
    yield step(
        "step, Adam, dropout, batch norm, l2, clip, max-norm",
        TrainStep(
            small(activation="tanh", dropout=0.3, norm="batch"),
            softmax,
            Adam(0.01, eps=1e-3),
            l2=0.01,
            clip_norm=0.1,
            max_norm=0.5,
        ),
        Batch(x, y, w),
    )
    yield step(
        "step, three models, momentum, LossRatio",
        TrainStep(small(activation="gelu", norm="layer"), softmax, SGD(LossRatio(0.1, window=1), momentum=0.9)),
        Batch(x, y, w),
        steps=2,
        models=3,
    )
    pixels = rng.integers(0, 256, x.shape, dtype=np.uint8)
    yield step(
        "step, bytes, RMSprop, binary",
        TrainStep(
            small(first=Rescale(shift=0.0, scale=1 / 255), activation="sigmoid"),
            BinaryCrossEntropy(),
            RMSprop(0.01, eps=0.1),
        ),
        Batch(pixels, (rng.random((len(x), OUTPUTS)) < 0.5).astype(np.float64), ABSENT),
    )
    ids = rng.integers(0, 9, (len(x), 3), dtype=np.int32)
    words = Chain(Embedding(9, 4, ids_per_row=3), Dense(12, OUTPUTS))
    yield step("step, ids, Nesterov", TrainStep(words, softmax, OPTIMIZERS["SGD Nesterov"]), Batch(ids, y, ABSENT))


def _run() -> Case:
    """30 steps of a 784-128-10 network by Adam on synthetic images of ten classes."""
    rng = np.random.default_rng(9)
    y = rng.integers(0, 10, 1024, dtype=np.int32)
    ink = np.maximum(rng.standard_normal((10, 784)) - 0.5, 0.0)
    x = np.minimum(ink[y] * rng.uniform(0.5, 1.0, (1024, 1)) + 0.1 * rng.random((1024, 784)), 1.0)
    step = TrainStep(mlp(784, 128, 10), SoftmaxCrossEntropy(), Adam())
    return step_case("run, 30 steps of 784-128-10, Adam", step, Batch(x, y, ABSENT), RUN_BATCH, RUN_STEPS, run=True)
