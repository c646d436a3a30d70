"""Arguments: every configuration rejects invalid values and stores NumPy scalars as Python numbers."""

from __future__ import annotations

import dataclasses
import math
from fractions import Fraction

import numpy as np
import pytest

from mlp_xp.nn import initializers, layers, losses, optimizers, schedules
from mlp_xp.nn.initializers import Constant, He, Uniform
from mlp_xp.nn.layers import BatchNorm, Chain, Dense, Dropout, Embedding, LayerNorm, LeakyReLU, ReLU
from mlp_xp.nn.losses import Huber, Quantile, SoftmaxCrossEntropy, SquaredError
from mlp_xp.nn.networks import mlp
from mlp_xp.nn.optimizers import SGD, Adam, AdamW, RMSprop
from mlp_xp.nn.schedules import (
    Cosine,
    ExponentialDecay,
    InverseScaling,
    LossRatio,
    Moment,
    OneCycle,
    ReduceOnPlateau,
    StepDecay,
    as_schedule,
)
from mlp_xp.nn.step import TrainStep

PUBLIC = sorted(
    {
        value
        for module in (layers, initializers, losses, optimizers, schedules)
        for value in vars(module).values()
        if isinstance(value, type) and dataclasses.is_dataclass(value) and value is not Chain
    }
    | {TrainStep},
    key=lambda cls: cls.__name__,
)
REQUIRED = {
    "Dense": {"n_in": 3, "n_out": 2},
    "LayerNorm": {"n": 3},
    "BatchNorm": {"n": 3},
    "Embedding": {"n_ids": 3, "dim": 2},
    "ConstantRate": {"lr": 0.1},
    "StepDecay": {"lr": 0.1, "every": 2},
    "Spec": {"rows": 1, "columns": 1},
    **{
        cls.__name__: {"lr": 0.1}
        for cls in (ExponentialDecay, InverseScaling, Cosine, OneCycle, ReduceOnPlateau, LossRatio)
    },
    "TrainStep": {"network": mlp(3, 2), "loss": SoftmaxCrossEntropy(), "optimizer": Adam()},
}
FIELDS = [
    pytest.param(cls, field.name, id=f"{cls.__name__}.{field.name}")
    for cls in PUBLIC
    for field in dataclasses.fields(cls)
]
SIGNED = {"mean", "low", "high", "value", "shift", "scale"}  # numbers that may be negative
OPTIONAL = {"clip_norm", "max_norm"}
WORDS = {"reduction", "distribution", "combine"}


def made(cls, **fields):
    return cls(**(REQUIRED.get(cls.__name__, {}) | fields))


@pytest.mark.parametrize(("cls", "name"), FIELDS)
def test_every_field_refuses_what_is_not_of_its_kind(cls, name):
    flag = isinstance(getattr(made(cls), name), bool)
    bad = ["norml", [0.5], np.array([0.5]), 1j, math.nan, SquaredError, *([2] if flag else [True, np.True_])]
    for value in (*bad, *([] if name in OPTIONAL else [None]), *([] if name in SIGNED else [-1, -0.5])):
        with pytest.raises((ValueError, TypeError)) as caught:
            made(cls, **{name: value})
        assert name in str(caught.value) or name == "lr"
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("cls", "name"), FIELDS)
def test_every_number_is_a_number_of_python(cls, name):
    held = getattr(made(cls), name)
    if name in OPTIONAL:
        held = 0.5
    if isinstance(held, bool):
        scalars, kind = [np.bool_(held)], bool
    elif isinstance(held, int):
        scalars, kind = [np.int64(held), np.uint8(held)], int
    elif isinstance(held, float):
        scalars, kind = [np.float32(held), np.float64(held), Fraction(held)], float
    else:
        return
    for scalar in scalars:
        stored = getattr(made(cls, **{name: scalar}), name)
        assert type(stored) is kind
        assert stored == scalar


@pytest.mark.parametrize("number", [1, np.int32(1), np.float16(1)])
def test_a_learning_rate_is_a_float_of_python(number):
    assert type(Adam(number).lr) is float
    assert type(as_schedule(number).lr) is float


@pytest.mark.parametrize("make", [SoftmaxCrossEntropy, SquaredError, Huber, Quantile])
def test_losses_are_configured_by_keyword(make):
    with pytest.raises(TypeError, match="positional"):
        make("sum")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: He("norml"), "He: distribution must be 'normal' or 'uniform', not 'norml'"),
        (lambda: Dense(0, 3), "Dense: n_in must be a positive integer, not 0"),
        (lambda: Dense(7, 2.5), "Dense: n_out must be a positive integer, not 2.5"),
        (lambda: Dense(7, 2, init_W=He), r"init_W must be an object such as Glorot\(\), not the class He: call it"),
        (lambda: Dropout(1.0), r"Dropout: rate must be a number in \[0, 1\), not 1.0"),
        (lambda: Dropout(-1e-9), "rate must be"),
        (lambda: LeakyReLU(1.0), r"slope must be a number in \[0, 1\), not 1.0"),
        (lambda: LayerNorm(3, eps=1.0), "eps must be"),
        (lambda: BatchNorm(4, momentum="0.1"), "momentum must be"),
        (lambda: Embedding(5, 3, combine="mean"), "'concat' or 'sum', not 'mean'"),
        (lambda: Uniform(low=1.0, high=0.0), "expected low <= high"),
        (lambda: Uniform(low=-1e308, high=1e308), "with a finite difference"),
        (lambda: Constant(10**400), "value must be a finite number, not 1000"),
        (lambda: Huber(delta=0.0), "Huber: delta must be a finite number above 0, not 0.0"),
        (lambda: Huber(delta=math.inf), "delta must be"),
        (lambda: Quantile(q=1.0), r"Quantile: q must be a number in \(0, 1\), not 1.0"),
        (lambda: Quantile(q=0.0), "q must be"),
        (lambda: SquaredError(reduction="median"), "reduction must be 'mean' or 'sum', not 'median'"),
        (lambda: SGD(momentum=1.0), r"SGD: momentum must be a number in \[0, 1\), not 1.0"),
        (lambda: SGD(nesterov=True), "nesterov needs a momentum"),
        (lambda: Adam(b1=-0.1), "b1 must be"),
        (lambda: Adam(b2=1.0), "b2 must be"),
        (lambda: Adam(eps=-1e-8), "eps must be a finite number of at least 0"),
        (lambda: Adam("fast"), "lr must be .* or a schedule such as"),
        (lambda: Adam(OneCycle), "lr must be .* not the class OneCycle: call it"),
        (lambda: Adam(math.inf), "lr must be"),
        (lambda: AdamW(b2=1.5), "b2 must be"),
        (lambda: AdamW(weight_decay=-0.1), "weight_decay must be"),
        (lambda: RMSprop(decay=1.0), "decay must be"),
        (lambda: StepDecay(0.1, every=0), "every must be a positive integer"),
        (lambda: StepDecay(0.1, every=2, factor=0.0), r"factor must be a number in \(0, 1\]"),
        (lambda: ExponentialDecay(0.1, decay=1e308), r"decay must be a number in \(0, 1\]"),
        (lambda: InverseScaling(0.1, power=-0.1), "power must be"),
        (lambda: Cosine(0.1, end=-0.1), "end must be"),
        (lambda: OneCycle(0.1, warmup=1.5), r"warmup must be a number in \[0, 1\]"),
        (lambda: OneCycle(0.1, start=0.5), "start must be a finite number of at least 1"),
        (lambda: OneCycle(0.1, end=0.01), "end must be at least 1 / start"),
        (lambda: ReduceOnPlateau(0.1, patience=-1), "patience must be an integer of at least 0"),
        (lambda: ReduceOnPlateau(0.1, threshold=1.0), "threshold must be"),
        (lambda: LossRatio(0.1, window=0), "window must be a positive integer"),
        (lambda: TrainStep(mlp(3, 2), SquaredError, Adam()), "loss must be .* not the class SquaredError: call it"),
        (lambda: TrainStep(mlp(3, 2), SquaredError(), Adam), "optimizer must be .* not the class Adam: call it"),
        (lambda: TrainStep(Dense, SquaredError(), Adam()), "network must be a Chain of layers, such as mlp"),
        (lambda: TrainStep(mlp(3, 2), SquaredError(), Adam(), l2=-0.1), "l2 must be"),
        (lambda: TrainStep(mlp(3, 2), SquaredError(), Adam(), clip_norm=0.0), "clip_norm must be"),
        (lambda: mlp(3), "mlp needs the numbers of inputs and of outputs"),
        (lambda: mlp(3, 0, 2), "each width of mlp must be a positive integer, not 0"),
        (lambda: mlp(3, True, 2), "each width of mlp must be a positive integer, not True"),
        (lambda: mlp(3, 2, norm="batchnorm"), "norm must be 'layer' or 'batch', not 'batchnorm'"),
        (lambda: mlp(3, 2, dropout=1.0), "dropout must be"),
        (lambda: mlp(3, 2, dropout=None), "dropout must be"),
        (lambda: mlp(3, 2, activation="relux"), "activation must be one of relu"),
        (lambda: mlp(3, 2, activation=ReLU), "activation must be .* not the class ReLU: call it"),
        (lambda: mlp(3, 2, init="he"), r"init must be an object such as Glorot\(\), not 'he'"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_sentence(make, words):
    with pytest.raises((ValueError, TypeError), match=words):
        make()


@pytest.mark.parametrize(
    "make",
    [
        lambda: Dropout(0),
        lambda: LeakyReLU(0.0),
        lambda: Adam(0.0, b1=0.0, eps=0.0),
        lambda: StepDecay(0.1, every=1, factor=1.0),
        lambda: OneCycle(0.1, warmup=0.0, start=1.0, end=1.0),
        lambda: OneCycle(0.1, warmup=1.0),
        lambda: ReduceOnPlateau(0.1, patience=0, threshold=0.0),
        lambda: LossRatio(0.1, window=1),
        lambda: Uniform(low=0.0, high=0.0),
        lambda: mlp(np.int64(3), np.uint8(1)),
        lambda: mlp(3, 4, 2, dropout=np.float32(0.5)),
    ],
)
def test_the_ends_of_a_range_belong_to_it(make):
    make()


def test_a_large_power_of_inverse_scaling_underflows():
    assert InverseScaling(0.1, power=1e308).rate(Moment(5, 9, 1, 1000)) == 0.0
