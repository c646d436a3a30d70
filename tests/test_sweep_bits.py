"""A model of a sweep has the bits of the model alone at every size from which the compiler decides differently."""

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
    RMSprop,
    Sweep,
    mlp,
    schedules,
)
from tests.sweep_cases import alone, same

RNG = np.random.default_rng(0)
X = RNG.standard_normal((640, 64))
Y = np.argmax(X[:, :3] + RNG.standard_normal((640, 3)), axis=1)
X, Y, XV, YV = X[:600], Y[:600], X[600:], Y[600:]
DATA: dict[str, Any] = {"validation_data": (XV, YV), "max_epochs": 2, "batch_size": 300}

NETWORKS: dict[str, Any] = {
    "192": lambda: mlp(64, 3),
    "19,200": lambda: Chain(Dense(64, 300)),
    "16,320 and 65,535": lambda: mlp(64, 255, 257, 3),
    "16,384 and 65,536": lambda: mlp(64, 256, 256, 3),
    "16,448 and 65,792": lambda: mlp(64, 257, 256, 3),
}
"""Elements of the weights: below, at and above the limits of `horizontal_fusion`."""
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


def check(build: Any, optimizer: Any, settings: Any, dtype: str = "float32", **fit: Any) -> None:
    sweep = Sweep(
        build() if "dropout" not in settings[0] else build,
        optimizer=optimizer,
        settings=settings,
        device="numpy",
        dtype=dtype,
    )
    result = sweep.fit(X, Y, **DATA | fit)
    for i, setting in enumerate(settings):
        same(result, i, alone(build, setting, optimizer, "numpy", dtype, X, Y, **DATA | fit))


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("size", NETWORKS)
def test_weights_of_every_size(size: str, rule: str, options: str) -> None:
    optimizer, settings = RULES[rule]
    check(NETWORKS[size], optimizer, [a | b for a, b in zip(settings, OPTIONS[options], strict=True)])
