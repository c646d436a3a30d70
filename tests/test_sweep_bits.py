"""A model of a sweep has the bits of the model trained alone, at sizes at which the compiler decides differently."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mlp_xp import (
    SGD,
    Adam,
    AdamW,
    Chain,
    Dense,
    Dropout,
    EarlyStopping,
    Halving,
    LayerNorm,
    ReLU,
    RMSprop,
    SquaredError,
    Sweep,
    mlp,
    schedules,
)
from tests.sweep_cases import alone, same, values

RNG = np.random.default_rng(0)
X = RNG.standard_normal((240, 64))
Y = np.argmax(X[:, :3] + RNG.standard_normal((240, 3)), axis=1)
X, Y, XV, YV = X[:200], Y[:200], X[200:], Y[200:]
DATA: dict[str, Any] = {"validation_data": (XV, YV), "max_epochs": 2, "batch_size": 100}

NETWORKS: dict[str, Any] = {
    "192": lambda: mlp(64, 3),
    "19,200": lambda: Chain(Dense(64, 300)),
    "16,320 and 65,535": lambda: mlp(64, 255, 257, 3),
    "16,384 and 65,536": lambda: mlp(64, 256, 256, 3),
    "16,448 and 65,792": lambda: mlp(64, 257, 256, 3),
}
"""Elements of the weights: below, at and above the limits of `packable`."""
RULES: dict[str, tuple[Any, list[dict[str, Any]]]] = {
    "descent": (SGD(), [{"lr": 0.1}, {"lr": schedules.Cosine(0.05)}]),
    "momentum": (SGD(0.1), [{"lr": 0.1, "momentum": 0.5}, {"lr": 0.05, "momentum": 0.9}]),
    "one momentum": (SGD(momentum=0.9), [{"lr": 0.1}, {"lr": 0.05}]),
    "nesterov": (SGD(momentum=0.9, nesterov=True), [{"lr": 0.1}, {"lr": 0.05, "momentum": 0.5}]),
    "Adam": (Adam(), [{"lr": 0.01}, {"lr": 0.02, "b1": 0.5}]),
    "AdamW": (AdamW(0.01), [{"weight_decay": 0.1}, {"weight_decay": 0.5, "b2": 0.9}]),
    "RMSprop": (RMSprop(), [{"lr": 0.01}, {"lr": 0.02, "decay": 0.5, "eps": 0.1}]),
}
OPTIONS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "": ({}, {}),
    "l2": ({"l2": 0.001}, {"l2": 0.1}),
    "one l2": ({"l2": 0.1}, {"l2": 0.1}),
    "clip_norm": ({"clip_norm": 0.5}, {"clip_norm": 0.1}),
    "max_norm": ({"max_norm": 1.0}, {"max_norm": 0.3}),
    "all": ({"l2": 0.001, "clip_norm": 0.5, "max_norm": 1.0}, {"l2": 0.1, "clip_norm": 0.1, "max_norm": 0.3}),
}


CASES = [
    pytest.param(size, rule, options, marks=[pytest.mark.slow] if (i + j + k) % 3 else [])
    for i, size in enumerate(NETWORKS)
    for j, rule in enumerate(RULES)
    for k, options in enumerate(OPTIONS)
]
"""Every third one by default: each size with each rule, each rule with each of the options."""


def check(build: Any, optimizer: Any, settings: Any, dtype: str = "float32", x: Any = X, y: Any = Y, **fit: Any) -> Any:
    """Assert that all models of a sweep on the compiled engine are those of trainers; return its result."""
    own = {name for setting in settings for name in setting} & {"dropout"}
    network = build if own else build()
    options = DATA | {"together": 2} | fit
    sweep = Sweep(network, optimizer=optimizer, settings=settings, device="numpy", dtype=dtype)
    result = sweep.fit(x, y, **options)
    options.pop("together")
    for i, setting in enumerate(settings):
        same(result, i, alone(build, setting, optimizer, "numpy", dtype, x, y, **options))
    return result


@pytest.mark.parametrize(("size", "rule", "options"), CASES)
def test_weights_of_every_size(size: str, rule: str, options: str) -> None:
    optimizer, settings = RULES[rule]
    check(NETWORKS[size], optimizer, [a | b for a, b in zip(settings, OPTIONS[options], strict=True)])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("settings", [1, 2, 3])
def test_weighted_rows(settings: int, dtype: str) -> None:
    fit: dict[str, Any] = {"sample_weight": RNG.random(200), "batch_size": 16, "together": settings}
    check(NETWORKS["192"], SGD(), [{"lr": lr} for lr in (0.1, 0.2, 0.3)[:settings]], dtype, **fit)


LONG = [
    pytest.param(rule, options, marks=[] if rule in ("descent", "nesterov") and not options else [pytest.mark.slow])
    for rule in RULES
    for options in OPTIONS
]


@pytest.mark.parametrize(("rule", "options"), LONG)
def test_batches_longer_than_a_block_of_blas(rule: str, options: str) -> None:
    optimizer, settings = RULES[rule]
    settings = [a | b for a, b in zip(settings, OPTIONS[options], strict=True)]
    x, y = np.tile(X, (4, 1)), np.tile(Y, 4)
    check(NETWORKS["16,448 and 65,792"], optimizer, settings, x=x, y=y, batch_size=None)


def normed(dropout: float = 0.2) -> Chain:
    return Chain(Dense(64, 257), LayerNorm(257), ReLU(), Dropout(dropout), Dense(257, 80), LayerNorm(80), Dense(80, 3))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("rule", ["momentum", "Adam"])
def test_norms_dropout_and_early_stopping(rule: str, dtype: str) -> None:
    """Five models, two at a time; they stop at different epochs, and others take their places."""
    optimizer, settings = RULES[rule]
    varied = [
        setting | {"seed": seed, "dropout": dropout, "l2": l2}
        for setting in settings
        for seed, dropout, l2 in ((0, 0.2, 0.01), (1, 0.5, 0.1), (2, 0.1, 0.3))
    ]
    early = EarlyStopping(patience=1)
    result = check(normed, optimizer, varied[:5], dtype, max_epochs=8, early_stopping=early)
    assert len({record["epochs"] for record in result.records}) > 1


@pytest.mark.parametrize("rule", ["descent", "Adam"])
def test_one_output(rule: str) -> None:
    """A bias of one element has the shape of a number."""
    optimizer, settings = RULES[rule]
    settings = [a | b | {"loss": SquaredError()} for a, b in zip(settings, OPTIONS["all"], strict=True)]
    check(lambda: mlp(64, 257, 1), optimizer, settings, y=X[:, :1] ** 2, validation_data=(XV, XV[:, :1]))


def test_a_rate_that_follows_the_loss() -> None:
    settings = [{"lr": schedules.LossRatio(rate, window=2)} for rate in (0.1, 0.2)]
    check(NETWORKS["16,448 and 65,792"], SGD(), settings, max_epochs=3)


def test_survivors_of_halving() -> None:
    optimizer = SGD(schedules.Cosine(0.1))
    settings = [{"lr": lr, "momentum": momentum} for lr in (0.3, 0.1, 0.03) for momentum in (0.5, 0.9)]
    build, data = NETWORKS["16,448 and 65,792"], DATA | {"max_epochs": 6}
    sweep = Sweep(build(), optimizer=optimizer, settings=settings, device="numpy")
    result = sweep.fit(X, Y, **data, halving=Halving(factor=2, min_epochs=1))
    epochs = [record["epochs"] for record in result.records]
    assert sorted(epochs) == [1, 1, 1, 2, 4, 6]
    for i, setting in enumerate(settings):
        trainer = alone(build, setting, optimizer, "numpy", "float32", X, Y, **data)
        if epochs[i] == 6:
            same(result, i, trainer)
        assert values(result.history(i)) == values(trainer.history)[: epochs[i]]
