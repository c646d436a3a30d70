"""Helpers for the tests of the compiler: loops, comparisons, and training steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mlp_xp.nn.layers import Chain, Dense, Dropout, Embedding, ReLU, Sigmoid, Tanh
from mlp_xp.nn.losses import SoftmaxCrossEntropy
from mlp_xp.nn.optimizers import SGD, Adam, AdamW, Optimizer, Rates, RMSprop
from mlp_xp.nn.step import TrainStep
from mlp_xp_backends.compiler.loop import CompiledLoop
from mlp_xp_backends.compiler.passes import PASSES
from mlp_xp_backends.compiler.recorder import record
from mlp_xp_backends.compiler.targets.cpu.blas import Blas
from mlp_xp_backends.compiler.targets.cpu.libraries import blas, mkl, openblas
from mlp_xp_backends.compiler.targets.cpu.memory import plan_memory
from mlp_xp_backends.compiler.targets.cpu.run import Runner
from mlp_xp_backends.compiler.verify import verify, verify_memory
from mlp_xp_backends.loop import plain_loop
from mlp_xp_backends.numpy_namespace import xp as XP
from mlp_xp_backends.trees import ABSENT, leaves, tree_map

Library = Callable[[], Blas | None]
LIBRARIES = [
    pytest.param(lambda: None, id="numpy"),
    pytest.param(openblas, id="openblas", marks=pytest.mark.skipif(openblas() is None, reason="NumPy has no OpenBLAS")),
    pytest.param(mkl, id="mkl", marks=pytest.mark.skipif(mkl() is None, reason="MKL is not installed")),
]
needs_mkl = LIBRARIES[-1].marks[0]
TOLERANCE = {np.dtype(np.float32): 2e-5, np.dtype(np.float64): 2e-13}


def copied(tree: Any) -> Any:
    return tree_map(lambda a: a.copy(), tree)


def frozen(tree: Any) -> Any:
    for a in leaves(tree):
        a.flags.writeable = False
    return tree


def stepwise(body: Any) -> Any:
    return plain_loop(XP, body, np.stack)


def verified(program: Any, passes: Any = PASSES) -> Any:
    """The program after ``passes``, checked after each of them, and its memory."""
    verify(program)
    for rewrite in passes:
        program = verify(rewrite(program))
    plan = plan_memory(program)
    verify_memory(program, plan)
    return program, plan


def compiled(body: Any, library: Library = blas, passes: Any = PASSES) -> CompiledLoop:
    return CompiledLoop(body, stepwise(body), lambda program: Runner(program, library(), passes))


def assert_same(got: Any, expected: Any, amplified: float = 1.0) -> None:
    for a, b in zip(leaves(got), leaves(expected), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        if a.dtype.kind == "f":
            scale = np.max(np.abs(b), initial=1.0, where=np.isfinite(b))
            np.testing.assert_allclose(a, b, rtol=0, atol=float(scale) * TOLERANCE[a.dtype] * amplified)
        else:
            np.testing.assert_array_equal(a, b)


def assert_compiled(
    body: Any,
    carry: Any,
    consts: Any,
    items: Any,
    recorded: bool = True,
    amplified: float = 1.0,
    library: Library = blas,
) -> None:
    """Recorded, and equal to the plain loop over three calls; whatever may not be written to is read-only.

    ``amplified`` is by how much the body enlarges rounding errors.
    """
    loop, other = compiled(body, library), stepwise(body)
    frozen((consts, items))
    assert (loop.compiled(carry, consts, items) is not None) == recorded
    if recorded:
        verified(record(body, carry, consts, items))
    mine, theirs = copied(carry), copied(carry)
    for _ in range(3):
        mine, got = loop(mine, consts, items)
        theirs, expected = other(theirs, consts, items)
        assert_same((mine, got), (theirs, expected), amplified)


def f(shape: Any, seed: int = 0, dtype: str = "float32") -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


NETWORKS = {
    "relu": Chain(Dense(12, 40), ReLU(), Dense(40, 30), ReLU(), Dense(30, 7)),
    "sigmoid": Chain(Dense(12, 40), Sigmoid(), Dense(40, 7)),
    "dropout": Chain(Dense(12, 40), Tanh(), Dropout(0.3), Dense(40, 7)),
    "wide": Chain(Dense(12, 260), ReLU(), Dense(260, 260), ReLU(), Dense(260, 7)),  # too large to be packed
    "words": Chain(Embedding(9, 5, ids_per_row=3), Dense(15, 20), Sigmoid(), Dense(20, 7)),
    "classes": Chain(Dense(12, 40), ReLU(), Dense(40, 300)),
    "vocabulary": Chain(Embedding(800, 30, ids_per_row=3), Dense(90, 20), Sigmoid(), Dense(20, 7)),
}
OPTIMIZERS: dict[str, Optimizer] = {
    "sgd": SGD(0.1),
    "momentum": SGD(0.1, momentum=0.9),
    "nesterov": SGD(0.1, momentum=0.9, nesterov=True),
    "adam": Adam(0.01),
    "adamw": AdamW(0.01),
    "rmsprop": RMSprop(0.001),
}


def training(
    network: str,
    optimizer: Optimizer,
    steps: int = 6,
    dtype: str = "float64",
    models: tuple[int, ...] = (),
    **options: Any,
) -> tuple[Any, Any, Any, Any]:
    """``body, carry, consts, items`` of an epoch."""
    rng = np.random.default_rng(0)
    chain = NETWORKS[network]
    step = TrainStep(chain, SoftmaxCrossEntropy(), optimizer, **options)
    params = tree_map(lambda a: np.ascontiguousarray(np.broadcast_to(a, (*models, *a.shape)), dtype), chain.init(rng))
    state = step.init(np, params, chain.init_state(rng))
    ids = network in ("words", "vocabulary")
    X = rng.integers(0, 9, (100, 3)) if ids else rng.standard_normal((100, 12)).astype(dtype)
    Y, rows = rng.integers(0, 7, 100), rng.integers(0, 100, (steps, 16))
    rates = [leaves(optimizer.rates(0.01, t + 1)) for t in range(steps)]
    flat = iter([np.asarray(column, dtype) for column in zip(*rates, strict=True)])
    stacked = tree_map(lambda _: next(flat), optimizer.rates(0.01, 1))

    def body(xp: Any, carry: Any, consts: Any, item: Any) -> Any:
        rows, rates = item
        x, y = (xp.take(a, rows, axis=0) for a in consts)
        return step(xp, carry, x, y, ABSENT, Rates(*rates))

    return body, state, (X, Y), (rows, stacked)
