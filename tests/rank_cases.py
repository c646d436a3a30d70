"""Runs that must not depend on the number of ranks: trained without a group by tests, with one by `rank_program`."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np

from mlp_xp import SGD, Adam, Chain, Dense, EarlyStopping, Embedding, History, SquaredError, Tanh, Trainer, mlp
from mlp_xp.nn.schedules import Cosine, LossRatio
from mlp_xp_backends.trees import leaves

ROWS = 101
rng = np.random.default_rng(0)
x, labels, weights = rng.normal(size=(ROWS, 7)), rng.integers(0, 3, ROWS), rng.uniform(0.1, 2.0, ROWS)
valid = rng.normal(size=(29, 7)), rng.integers(0, 3, 29)
ids, targets = rng.integers(0, 9, (ROWS, 2)), rng.normal(size=(ROWS, 2))
some_zero = np.where(np.arange(ROWS) < 40, 0.0, weights)

Case = Callable[..., tuple[Trainer, dict[str, Any]]]


def case(
    network: Chain, data: tuple[Any, ...], max_epochs: int = 3, batch_size: int = 17, fit: Any = None, **trainer: Any
) -> Case:
    def make(**more: Any) -> tuple[Trainer, dict[str, Any]]:
        made = Trainer(network, **{"device": "cpu", "dtype": "float64"} | trainer | more)
        keys = ("x", "y", "sample_weight")
        return made, dict(zip(keys, data, strict=False)) | {"max_epochs": max_epochs, "batch_size": batch_size} | (
            fit or {}
        )

    return make


momentum = SGD(0.05, momentum=0.9)
CASES: dict[str, Case] = {
    "ragged batches": case(mlp(7, 16, 3), (x, labels), optimizer=Adam(Cosine(0.01)), clip_norm=0.5, max_norm=1.0),
    "sample weights": case(mlp(7, 16, 3), (x, labels, weights), l2=1e-2, class_weight="balanced"),
    "batches of weight 0": case(mlp(7, 5, 3), (x, labels, some_zero), fit={"shuffle": False}, optimizer=momentum),
    "a sum": case(mlp(7, 6, 2), (x, targets), loss=SquaredError(reduction="sum"), optimizer=SGD(1e-3)),
    "fewer rows than ranks": case(mlp(7, 6, 3), (x[:9], labels[:9]), batch_size=2, optimizer=momentum),
    "batch norm": case(mlp(7, 16, 8, 3, norm="batch"), (x, labels, weights), batch_size=50, optimizer=momentum),
    "layer norm": case(mlp(7, 8, 3, norm="layer"), (x, labels), optimizer=momentum),
    "dropout": case(mlp(7, 16, 3, dropout=0.4), (x, labels), optimizer=SGD(LossRatio(0.1, window=4))),
    "an embedding": case(
        Chain(Embedding(9, 2, ids_per_row=2), Dense(4, 6), Tanh(), Dense(6, 2)), (ids, targets), loss=SquaredError()
    ),
    "early stopping": case(
        mlp(7, 30, 3),
        (x, labels),
        max_epochs=30,
        optimizer=SGD(0.3, momentum=0.9),
        fit={"validation_data": {"valid": (*valid, weights[:29]), "one": (x[:1], labels[:1])}}
        | {"early_stopping": EarlyStopping(patience=2)},
    ),
    "streamed data": case(mlp(7, 16, 3), (x, labels, weights), fit={"resident": False}),
    "plain loops": case(mlp(7, 8, 3, norm="batch"), (x, labels), device="numpy:plain", optimizer=momentum),
    "the standard": case(mlp(7, 8, 3, norm="batch"), (x, labels), device="array_api_strict", optimizer=momentum),
    "float32": case(mlp(7, 16, 3, norm="batch", dropout=0.2), (x, labels), dtype="float32", optimizer=momentum),
}


def result(trainer: Trainer, history: History) -> dict[str, np.ndarray]:
    """The parameters, optimizer and layer states, and the records without times, in float64."""
    state = [np.ravel(a).astype(np.float64) for a in leaves(trainer.snapshot().state)]
    names = [name for name in history.columns if name != "seconds"]
    return {"state": np.concatenate(state), "history": np.array([history[name] for name in names])}


SHARDS = {1: (50,), 2: (30, 20), 3: (25, 15, 10), 4: (20, 15, 10, 5)}
"""Rows of each rank: five batches of 10 rows have a fifth of each."""


def sharded(size: int) -> tuple[np.ndarray, np.ndarray]:
    """The rows of each rank, as bounds, and all rows in the order in which unshuffled batches take them."""
    bounds = np.cumsum([0, *SHARDS[size]])
    parts = [np.arange(*pair).reshape(5, -1) for pair in pairwise(bounds)]
    return bounds, np.concatenate(parts, axis=1).ravel()
