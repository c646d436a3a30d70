"""The recorded loop of the NumPy backend says what the plain loop says, whatever the body does."""

from __future__ import annotations

import gc
import os
import platform
import signal
import sys
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from benchmarks.peers import PlainNumpy
from mlp_xp.nn.layers import Chain, Dense, Dropout, Embedding, ReLU, Sigmoid, Tanh
from mlp_xp.nn.losses import SoftmaxCrossEntropy
from mlp_xp.nn.optimizers import SGD, Adam, AdamW, Optimizer, Rates, RMSprop
from mlp_xp.nn.step import TrainStep
from mlp_xp.training.trainer import Trainer
from mlp_xp_backends.loop import plain_loop
from mlp_xp_backends.numpy_backend import CompiledLoop, NumpyBackend
from mlp_xp_backends.numpy_engine.blas import Blas, openblas
from mlp_xp_backends.numpy_engine.mkl import Mkl, blas, mkl
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


def compiled(body: Any, library: Library = blas) -> CompiledLoop:
    loop = NumpyBackend(library).compile(body)
    assert isinstance(loop, CompiledLoop)
    return loop


def assert_same(got: Any, expected: Any, amplified: float = 1.0) -> None:
    for a, b in zip(leaves(got), leaves(expected), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        if a.dtype.kind == "f":
            scale = np.max(np.abs(b), initial=1.0, where=np.isfinite(b))
            np.testing.assert_allclose(a, b, rtol=0, atol=float(scale) * TOLERANCE[a.dtype] * amplified)
        else:
            np.testing.assert_array_equal(a, b)


def assert_engine(
    body: Any,
    carry: Any,
    consts: Any,
    items: Any,
    plans: bool = True,
    amplified: float = 1.0,
    library: Library = blas,
) -> None:
    """Recorded, and equal to the plain loop over three calls; whatever may not be written to is read-only.

    ``amplified`` is by how much the body enlarges rounding errors.
    """
    loop, plain = compiled(body, library), plain_loop(np, body, np.stack)
    frozen((consts, items))
    assert (loop.plan(carry, consts, items) is not None) == plans
    mine, theirs = copied(carry), copied(carry)
    for _ in range(3):
        mine, got = loop(mine, consts, items)
        theirs, expected = plain(theirs, consts, items)
        assert_same((mine, got), (theirs, expected), amplified)


def f(shape: Any, seed: int = 0, dtype: str = "float32") -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


ELEMENTWISE = [
    "abs",
    "acos",
    "acosh",
    "add",
    "asin",
    "asinh",
    "atan",
    "atan2",
    "atanh",
    "ceil",
    "copysign",
    "cos",
    "cosh",
    "divide",
    "equal",
    "exp",
    "expm1",
    "floor",
    "floor_divide",
    "greater",
    "greater_equal",
    "hypot",
    "isfinite",
    "isinf",
    "isnan",
    "less",
    "less_equal",
    "log",
    "log10",
    "log1p",
    "log2",
    "logaddexp",
    "maximum",
    "minimum",
    "multiply",
    "negative",
    "nextafter",
    "not_equal",
    "positive",
    "pow",
    "reciprocal",
    "remainder",
    "sign",
    "signbit",
    "sin",
    "sinh",
    "sqrt",
    "square",
    "subtract",
    "tan",
    "tanh",
    "trunc",
]


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_elementwise_functions(name: str) -> None:
    two = getattr(np, name).nin == 2

    def body(xp: Any, carry: Any, consts: Any, item: Any) -> Any:
        g = getattr(xp, name)
        with np.errstate(all="ignore"):
            return carry, g(item, consts) if two else g(item)

    with np.errstate(all="ignore"):
        assert_engine(body, (), np.abs(f((3, 4), 1)) + 1, np.abs(f((5, 3, 4), 2)) % 1)


A, B, V = f((4, 3), 1), f((3, 5), 2), f((4, 3), 3) > 0
K = np.array([2, 0, 1, 1])
FUNCTIONS = {
    "matmul": lambda xp, x, y: xp.matmul(x, xp.matrix_transpose(x)) + x @ x.mT,
    "batched matmul": lambda xp, x, y: xp.matmul(xp.stack([x, y]), xp.matrix_transpose(x)),
    "permute_dims": lambda xp, x, y: xp.permute_dims(xp.stack([x, y]), (2, 0, 1)),
    "reshape": lambda xp, x, y: xp.reshape(x, (-1,)) + xp.reshape(xp.matrix_transpose(x), (-1,)),
    "expand and squeeze": lambda xp, x, y: xp.squeeze(xp.expand_dims(x, axis=1), axis=1) - y,
    "broadcast_to": lambda xp, x, y: xp.broadcast_to(xp.sum(x, axis=0), (4, 3)) * y,
    "concat": lambda xp, x, y: xp.concat([x, y, x], axis=1),
    "concat flat": lambda xp, x, y: xp.concat([x, y], axis=None),
    "stack": lambda xp, x, y: xp.stack([x, y], axis=-1),
    "take": lambda xp, x, y: xp.take(x, xp.argmax(y, axis=0), axis=0),
    "take columns": lambda xp, x, y: xp.take(x, xp.asarray([2, 0]), axis=1),
    "take_along_axis": lambda xp, x, y: xp.take_along_axis(x, xp.expand_dims(xp.argmin(y, axis=1), axis=1), axis=1),
    "where": lambda xp, x, y: xp.where(x > y, x, 0.0) + xp.where(x > 0, 1.0, y),
    "sum": lambda xp, x, y: xp.sum(x) + xp.sum(y, axis=(0, 1)) + xp.sum(x, axis=-1) - xp.sum(y, axis=-1, keepdims=True),
    "sum of rows": lambda xp, x, y: xp.sum(x, axis=-2, keepdims=True) - xp.sum(y, axis=0, keepdims=True),
    "sum of integers": lambda xp, x, y: xp.sum(xp.astype(x > y, xp.int8), axis=0),
    "mean": lambda xp, x, y: xp.mean(x, axis=0) + xp.mean(y),
    "max and min": lambda xp, x, y: xp.max(x, axis=1) - xp.min(y, axis=1) * xp.prod(x, axis=1),
    "any and all": lambda xp, x, y: xp.any(x > y, axis=0) ^ xp.all(x > y, axis=0),
    "arg": lambda xp, x, y: xp.argmax(x) + xp.argmin(x, axis=1),
    "astype": lambda xp, x, y: xp.astype(x * 3, xp.int32) + xp.astype(x > 0, xp.int32) * 2,
    "dtypes mixed": lambda xp, x, y: x + xp.astype(y, xp.float64) * 2,
    "creation": lambda xp, x, y: x + xp.zeros((4, 3), dtype=x.dtype) - xp.ones_like(x) * xp.full((3,), 2.0),
    "arange": lambda xp, x, y: xp.astype(xp.expand_dims(xp.argmax(x, axis=1), axis=-1) == xp.arange(3), x.dtype),
    "indexing": lambda xp, x, y: x[1:3, ::2] + y[None, 0, :2] - x[..., 1:][0, 0],
    "integer rows": lambda xp, x, y: x[xp.argmax(y, axis=1)],
    "clip": lambda xp, x, y: xp.clip(x, -0.5, 0.5) + xp.clip(x, min=0.0) - xp.clip(y, max=1.0),
    "operators": lambda xp, x, y: (2 - x) / (1 + abs(y)) - (-x) ** 2 % 3 // 2 + (1 / (2 + y * y)),
    "shifts": lambda xp, x, y: (xp.astype(x * 99, xp.int32) >> 2) ^ ~(xp.astype(y * 99, xp.int32) << 3) & 0xFF | 1,
    "comparisons": lambda xp, x, y: ((x < y) | (x >= 0)) & (x != y) & ~(x <= -1) & (x == x),
    "flip and roll": lambda xp, x, y: xp.flip(x, axis=0) + xp.roll(y, 1, axis=0),
    "scalar arrays": lambda xp, x, y: x * xp.asarray(0.5, dtype=x.dtype) + xp.sum(x) * 2.0,
    "the body's arrays": lambda xp, x, y: x + A - A * V,
    "softmax": lambda xp, x, y: xp.exp(x - xp.max(x, axis=-1, keepdims=True))
    / xp.sum(xp.exp(x - xp.max(x, axis=-1, keepdims=True)), axis=-1, keepdims=True),
    "facts": lambda xp, x, y: x * (x.shape[0] + x.ndim + x.size + len(x)) + float(xp.finfo(x.dtype).eps),
    "empty": lambda xp, x, y: xp.sum(x[:0], axis=0) + xp.sum(xp.matmul(x[:0].mT, y[:0])),
    "cumulative": lambda xp, x, y: xp.cumulative_sum(x, axis=0) + xp.sort(y, axis=0),
}  # fmt: skip


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_functions(name: str, dtype: str) -> None:
    def body(xp: Any, carry: Any, consts: Any, item: Any) -> Any:
        carry += item
        return carry, FUNCTIONS[name](xp, item, carry) * 1

    assert_engine(body, f((4, 3), 4, dtype), (), f((6, 4, 3), 5, dtype))


@pytest.mark.parametrize(
    "body",
    [
        lambda xp, c, k, x: (c, float(xp.sum(x)) * x),
        lambda xp, c, k, x: (c, x if xp.sum(x) > 0 else -x),
        lambda xp, c, k, x: (c, xp.sum(x[x > 0])),
        lambda xp, c, k, x: (c, x.sum()),
        lambda xp, c, k, x: (c, xp.asarray([float(v) for v in x[0]])),
    ],
)
def test_what_cannot_be_recorded_runs_step_by_step(body: Any) -> None:
    assert_engine(body, (), (), f((4, 3, 2)), plans=False)


def test_a_view_does_not_outlive_a_write() -> None:
    def body(xp: Any, c: Any, k: Any, x: Any) -> Any:
        t = c.mT
        c *= 2.0
        return c, t + 0.0

    assert_engine(body, f((3, 3)), (), f((2, 1)), plans=False)


CARRIES = {
    "swap": lambda xp, c, k, x: ((c[1], c[0]), c[0] + x),
    "swap and change": lambda xp, c, k, x: ((c[1] + x, c[0] * 0.5), x),
    "one array twice": lambda xp, c, k, x: ((c[0], c[0]), c[1]),
    "transposed": lambda xp, c, k, x: ((c[0].mT, c[1] + c[0]), x),
    "constant": lambda xp, c, k, x: ((k, c[0] + c[1]), x),
    "item": lambda xp, c, k, x: ((x, c[0] + c[1]), c[0]),
    "number": lambda xp, c, k, x: ((xp.zeros_like(c[0]), c[0] + c[1]), c[0]),
    "old value read after the new one": lambda xp, c, k, x: ((c[0] * 0.5 + x, c[1] - c[0]), c[0] * c[1]),
    "product over itself": lambda xp, c, k, x: ((xp.matmul(c[0], c[1]) * 0.3, c[0] - xp.matmul(c[1], x) * 0.1), c[1]),
    "sum of a product and itself": lambda xp, c, k, x: ((c[0] - 0.1 * xp.matmul(c[0], k), c[1] - c[1] @ c[1] * 0.1), x),
    "unchanged": lambda xp, c, k, x: (c, x + c[1]),
    "view of itself": lambda xp, c, k, x: ((c[0] + c[0].mT * 0.1, c[1] - c[1][:, :1]), xp.sum(c[0])),
}  # fmt: skip


@pytest.mark.parametrize("name", CARRIES)
def test_what_is_carried(name: str) -> None:
    assert_engine(CARRIES[name], (f((3, 3), 1), f((3, 3), 2)), f((3, 3), 3), f((5, 3, 3), 4))


@pytest.mark.parametrize(("seed", "size"), [*((seed, 3) for seed in range(150)), *((seed, 300) for seed in range(25))])
def test_programs_drawn_at_random(seed: int, size: int) -> None:
    """Bodies of random operations, in-place ones among them; 300 x 300 is large enough for blocks."""

    def body(xp: Any, carry: Any, consts: Any, item: Any) -> Any:
        rng = np.random.default_rng(seed)
        carry, pool = list(carry), [*carry, consts, item[0]]
        for _ in range(rng.integers(3, 25)):
            x, y = (pool[k] for k in rng.integers(len(pool), size=2))
            match rng.integers(9):
                case 0:
                    pool.append(x * 0.5 + y * 0.25)
                case 1:
                    pool.append(xp.matmul(x, y) * (0.5 / size) + xp.sum(y, axis=0, keepdims=True) / size)
                case 2:
                    pool.append(xp.matmul(xp.matrix_transpose(x), y) / size)
                case 3:
                    pool.append(xp.tanh(x) - xp.astype(y > 0, x.dtype))
                case 4 | 5:
                    k = int(rng.integers(len(carry)))
                    pool = [p for p in pool if p is not carry[k]]
                    g = pool[int(rng.integers(len(pool)))] * 1.0
                    if rng.integers(2):
                        carry[k] *= 0.5
                    carry[k] -= item[1] * (xp.matmul(g.mT, g) / size if rng.integers(2) else g)
                    pool.append(carry[k])
                case 6:
                    pool.append(x - xp.max(x, axis=-1, keepdims=True) * 0.1)
                case 7:
                    pool.append(xp.where(x > y, x, y * 0.5))
                case 8:
                    carry[int(rng.integers(len(carry)))] = x * 0.5
                    pool = [p for p in pool if any(p is c for c in carry)] + [x * 0.1]
        return tuple(carry), xp.sum(pool[-1]) / size**2

    items = (f((3, size, size), seed, "float64"), np.array([0.1, 0.2, 0.3]))
    loop, plain = compiled(body), plain_loop(np, body, np.stack)
    carry = tuple(f((size, size), k, "float64") for k in range(3))
    mine, theirs = copied(carry), copied(carry)
    assert loop.plan(mine, f((size, size), 9, "float64"), items) is not None
    consts = frozen(f((size, size), 9, "float64"))
    for _ in range(2):
        mine, got = loop(mine, consts, items)
        theirs, expected = plain(theirs, consts, items)
        assert_same((mine, got), (theirs, expected))


NETWORKS = {
    "relu": Chain(Dense(12, 40), ReLU(), Dense(40, 30), ReLU(), Dense(30, 7)),
    "sigmoid": Chain(Dense(12, 40), Sigmoid(), Dense(40, 7)),
    "dropout": Chain(Dense(12, 40), Tanh(), Dropout(0.3), Dense(40, 7)),
    "wide": Chain(Dense(12, 400), ReLU(), Dense(400, 400), ReLU(), Dense(400, 7)),
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
    steps: int = 12,
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


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("library", LIBRARIES)
def test_training(network: str, optimizer: str, library: Library) -> None:
    case = training(network, OPTIMIZERS[optimizer])
    assert_engine(*case, amplified=1000, library=library)  # g / sqrt(v) where g is nearly 0


@pytest.mark.parametrize("options", [{"l2": 0.01}, {"clip_norm": 0.1}, {"max_norm": 1.0}, {"models": (2,)}])
@pytest.mark.parametrize("optimizer", ["momentum", "adam"])
def test_training_with(options: dict[str, Any], optimizer: str) -> None:
    assert_engine(*training("relu", OPTIMIZERS[optimizer], **options), amplified=1000)


@needs_mkl
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_blocks_that_end_in_a_shorter_one(optimizer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Mkl, "block", 18_000)
    assert_engine(*training("wide", OPTIMIZERS[optimizer]), amplified=1000, library=mkl)


WITH_NUMBERS: dict[str, Callable[..., Any]] = {
    "x + s": lambda xp, x, y, s: x + s,
    "s - x": lambda xp, x, y, s: s - x,
    "x - s": lambda xp, x, y, s: x - s,
    "s x": lambda xp, x, y, s: s * x,
    "x / s": lambda xp, x, y, s: x / s,
    "s / x": lambda xp, x, y, s: s / x,
    "x x": lambda xp, x, y, s: x * x,
    "x^2": lambda xp, x, y, s: xp.square(x),
    "x + y": lambda xp, x, y, s: x + y,
    "x - y": lambda xp, x, y, s: x - y,
    "x y": lambda xp, x, y, s: x * y,
    "x / y": lambda xp, x, y, s: x / y,
    "tanh": lambda xp, x, y, s: xp.tanh(x),
    "quotient": lambda xp, x, y, s: s * x / (xp.abs(y) + s),
    "root": lambda xp, x, y, s: s * x / (xp.sqrt(xp.abs(y)) + s),
}


@pytest.mark.parametrize("formula", WITH_NUMBERS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_large_arrays_and_numbers(formula: str, dtype: str, library: Library) -> None:
    """What is infinite, not a number, zero or denormal comes out as NumPy's functions have it."""
    special = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1e-40, 1e30], dtype)
    x, y = f(40_000, 0, dtype), f(40_000, 1, dtype)
    x[:49], y[:49] = np.repeat(special, 7), np.tile(special, 7)
    numbers = np.asarray([0.5, 3.0], dtype)

    def body(xp: Any, carry: Any, consts: Any, item: Any) -> Any:
        return carry + 1, WITH_NUMBERS[formula](xp, *consts, item[0])

    loop = compiled(body, library)
    assert loop.plan(np.zeros(()), (x, y), (numbers,)) is not None
    _, got = loop(np.zeros(()), (x, y), (numbers,))
    x, y = (np.where(np.abs(a) < np.finfo(dtype).tiny, 0 * a, a) for a in (x, y))  # denormals are zero inside a loop
    for k, s in enumerate(numbers):
        defined = ~np.isinf(y) if formula in ("quotient", "root") else slice(None)
        expected = WITH_NUMBERS[formula](np, x, y, s)
        np.testing.assert_allclose(got[k][defined], expected[defined], 10 * np.finfo(dtype).eps, 1e-30)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("optimizer", ["momentum", "adam"])
def test_steps_do_not_know_how_they_are_chunked(network: str, optimizer: str) -> None:
    """Bit for bit, on another loop object too: a run that is resumed ends as one that was never stopped."""
    body, carry, consts, items = training(network, OPTIMIZERS[optimizer], dtype="float32")
    whole, losses = compiled(body)(copied(carry), consts, items)
    first, a = compiled(body)(copied(carry), consts, tree_map(lambda x: x[:5], items))
    second, b = compiled(body)(copied(first), consts, tree_map(lambda x: x[5:], items))
    for x, y in zip(leaves(whole), leaves(second), strict=True):
        np.testing.assert_array_equal(x, y)
    np.testing.assert_array_equal(losses, np.concatenate([a, b]))


def test_two_carries_on_one_loop() -> None:
    body, carry, consts, items = training("relu", OPTIMIZERS["adam"])
    loop = compiled(body)
    one, _ = loop(copied(carry), consts, items)
    one, _ = loop(one, consts, items)
    a, b = copied(carry), copied(carry)
    a, _ = loop(a, consts, items)
    kept = copied(a)
    b, _ = loop(b, consts, items)
    a, losses = loop(a, consts, items)
    b, _ = loop(b, consts, items)
    again, same = loop(kept, consts, items)
    for x, y, z, w in zip(*map(leaves, (one, a, b, again)), strict=True):
        assert np.array_equal(x, y) and np.array_equal(x, z) and np.array_equal(x, w)
        assert not (np.may_share_memory(y, z) or np.may_share_memory(y, w))
    np.testing.assert_array_equal(losses, same)


def test_carried_arrays_that_share_memory_or_cannot_be_written_to() -> None:
    def body(xp: Any, c: Any, k: Any, x: Any) -> Any:
        w, v, u = c
        v *= 0.5
        v += x
        w += v
        u -= k
        return (w, v, u), ()

    loop, plain = compiled(body), plain_loop(np, body, np.stack)
    w, k, x = f((3, 4)), f((3, 4), 1), f((5, 3, 4), 2)
    expected, _ = plain((w.copy(), w.copy(), k.copy()), k, x)
    shared, _ = loop((w, w, k), k, x)
    assert_same(shared, expected)
    assert_same(k, f((3, 4), 1))
    strided = (np.asfortranarray(f((3, 4))), frozen(f((3, 4))), np.repeat(k, 2, axis=1)[:, ::2])
    assert_same(loop(strided, k, x)[0], expected)


def test_data_that_change_between_calls_are_read_anew() -> None:
    loop = compiled(lambda xp, c, k, x: (c, xp.sum(k * k) * x))
    k, x = f((3, 4)), f(5)
    _, a = loop((), k, x)
    k *= 2
    _, b = loop((), k, x)
    np.testing.assert_allclose(b, 4 * a, rtol=1e-6)


@pytest.mark.parametrize("label", [-1, 300])
def test_labels_of_no_class_have_no_one_in_their_row(label: int) -> None:
    body, carry, (x, y), items = training("classes", OPTIMIZERS["sgd"])
    y[:] = np.where(np.arange(100) % 3, y, label)
    assert_engine(body, carry, (x, y), items)


@pytest.mark.parametrize("row", [100, -101])
def test_rows_that_are_not_there(row: int) -> None:
    loop = compiled(lambda xp, c, k, rows: (c, xp.sum(xp.take(k, rows, axis=0))))
    with pytest.raises(IndexError, match="out of bounds"):
        loop((), f((100, 2)), np.array([[1, 2], [3, row]]))


def test_rows_counted_from_the_end() -> None:
    assert_engine(lambda xp, c, k, rows: (c, xp.take(k, rows, axis=0)), (), f((100, 2)), np.array([[1, -2], [3, -100]]))


def test_errors_are_those_of_numpy() -> None:
    with pytest.raises(ValueError, match="matmul"):
        compiled(lambda xp, c, k, x: (c, xp.matmul(x, x)))((), (), f((2, 3, 4)))


def test_memory_is_used_again() -> None:
    """Twenty arrays one after the other need the memory of two."""

    def body(xp: Any, c: Any, k: Any, x: Any) -> Any:
        for _ in range(20):
            x = xp.matmul(x, k)
        return c, xp.sum(x)

    plan = compiled(body).plan((), k := f((50, 50)), f((3, 50, 50)))
    assert plan is not None
    assert sum(plan.layout.buffers) <= 2 * k.nbytes + 1024


def test_many_small_updates_are_one() -> None:
    body, *arrays = training("relu", OPTIMIZERS["adam"])
    plan = compiled(body).plan(*arrays)
    assert plan is not None
    assert plan.source.text.count("sqrt") == 1


def test_denormals_are_zero_inside_a_loop_only() -> None:
    if sys.platform != "linux" or platform.machine() != "x86_64":
        pytest.skip("denormals are flushed on x86-64 Linux only")
    tiny = np.full(8, 1e-40, np.float32)
    _, outs = compiled(lambda xp, c, k, x: (c, x * k))((), np.full(8, 0.5, np.float32), tiny[None])
    assert not np.any(outs)
    assert np.all(tiny * np.float32(0.5) > 0)


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32"])
@pytest.mark.parametrize("columns", [1, 10, 64, 65, 250])
def test_extremes_of_rows(columns: int, dtype: str) -> None:
    x = (f((3, 40, columns), dtype="float64") * 100).astype(dtype)
    if x.dtype.kind == "f":
        x[0, 3, -1], x[0, 4, 0], x[1, 5] = np.nan, np.inf, -np.inf

    def body(xp, c, k, x):
        return c, (xp.max(x, axis=-1, keepdims=True), xp.min(x, axis=1), xp.max(x[:, ::2], axis=1))

    _, got = compiled(body)((), (), x)
    expected = (x.max(axis=2, keepdims=True), x.min(axis=2), x[:, :, ::2].max(axis=2))
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("computed", [False, True])
@pytest.mark.parametrize("width", [40, 250])
def test_one_hot_rows_follow_their_ids_from_step_to_step(width: int, computed: bool) -> None:
    """Large enough to be kept and moved; ids that are out of range have rows of zeros, as in the comparison."""

    def body(xp, carry, consts, ids):
        (total,) = carry
        ids = ids * 1 if computed else ids
        hot = xp.astype(xp.expand_dims(ids, axis=-1) == xp.arange(width, dtype=ids.dtype), xp.float32)
        total += xp.matmul(xp.matrix_transpose(hot), consts)
        return (total,), xp.sum(hot, axis=-1)

    rng = np.random.default_rng(0)
    ids = rng.integers(-3, width + 3, (5, 1000)).astype(np.int32)
    weights = rng.standard_normal((1000, 3)).astype(np.float32)
    loop = NumpyBackend().compile(body)
    (total,), counts = loop((np.zeros((width, 3), np.float32),), weights, ids)
    expected = np.zeros((width, 3))
    inside = (ids >= 0) & (ids < width)
    for row, known in zip(ids, inside, strict=True):
        np.add.at(expected, row[known], weights[known].astype(np.float64))
    np.testing.assert_allclose(total, expected, atol=1e-4)
    np.testing.assert_array_equal(counts, inside)


@pytest.mark.parametrize(("find", "file"), [(openblas, "openblas"), (mkl, "mkl")])
def test_one_core_inside_and_as_many_as_before_after(find: Library, file: str) -> None:
    """Two runs that overlap leave the number of threads as they found it, and so does one that fails."""
    threadpoolctl = pytest.importorskip("threadpoolctl")
    library = find()
    if library is None:
        pytest.skip(f"{file} is not installed")

    def threads() -> int:
        pools = threadpoolctl.ThreadpoolController().select(internal_api=file).info()
        return min(pool["num_threads"] for pool in pools if file == "mkl" or "numpy" in pool["filepath"])

    def fail() -> None:
        with library.on_one_core():
            assert threads() == 1
            raise ZeroDivisionError

    with threadpoolctl.threadpool_limits(2):
        first, second = library.on_one_core(), library.on_one_core()
        first.__enter__()
        second.__enter__()
        assert threads() == 1
        if file == "mkl":  # its number is one of each thread, where runs cannot overlap but end in reverse
            first, second = second, first
        first.__exit__(None, None, None)
        assert threads() == 1
        second.__exit__(None, None, None)
        assert threads() == 2
        with pytest.raises(ZeroDivisionError):
            fail()
        assert threads() == 2


def test_small_products_run_on_one_core_and_large_ones_on_all() -> None:
    for library in filter(None, (openblas(), mkl())):
        assert library.small([(64, 100, 100), (100, 128, 250)])
        assert not library.small([(64, 100, 100), (512, 784, 1000)])
        assert library.small([])


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("shape", [(257, 257), (255, 333)])
def test_masks_of_an_odd_number_of_bytes_lend_their_memory(shape: tuple[int, int], library: Library) -> None:
    """Blocks of floats lie where truth values were, of which there may be any number."""
    rows, units = shape
    network = Chain(Dense(20, units), ReLU(), Dense(units, units), ReLU(), Dropout(0.3), Dense(units, 3))
    x, y, losses = f((2 * rows, 20)), np.arange(2 * rows) % 3, []
    for backend in (NumpyBackend(library), PlainNumpy()):
        trainer = Trainer(network, optimizer=Adam(0.01), device=backend)
        losses.append([record["loss"] for record in trainer.fit(x, y, max_epochs=2, batch_size=rows)])
    np.testing.assert_allclose(*losses, rtol=1e-5)


def strided(a: np.ndarray) -> np.ndarray:
    return np.repeat(a, 2, axis=1)[:, ::2]


def unaligned(a: np.ndarray) -> np.ndarray:
    b = np.empty(a.nbytes + 1, np.uint8)[1:].view(a.dtype).reshape(a.shape)
    b[...] = a
    return b


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("lying", [np.asfortranarray, strided, unaligned])
def test_carried_arrays_that_stay_may_lie_anyhow(lying: Any, library: Library) -> None:
    def body(xp: Any, carry: Any, k: Any, x: Any) -> Any:
        w, s = carry
        return (w, s + xp.sum(xp.matmul(x, w))), xp.matmul(x, k) + xp.sum(w * k)

    x, k = f((3, 20, 30)), f((30, 40), 2)
    loop, plain = compiled(body, library), plain_loop(np, body, np.stack)
    for consts in (k, lying(k), k):
        for scale in (1.0, 2.0):
            w = lying(f((30, 40), 1)) * np.float32(scale)
            assert_same(loop((w, np.zeros((), "f")), consts, x), plain((w, np.zeros((), "f")), consts, x), 10.0)
    carry, _ = loop((lying(f((30, 40), 1)), np.zeros((), "f")), k, x)
    carry[0][...] *= 2  # numbers that change between calls are read anew
    assert_same(loop(carry, k, x)[1], plain(carry, k, x)[1], 10.0)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint64"])
def test_ids_of_every_dtype(dtype: str) -> None:
    def body(xp: Any, carry: Any, y: Any, ids: Any) -> Any:
        layer = Embedding(300, 4, ids_per_row=3, combine="sum")
        (g,) = layer.gradient(xp, (), ids, y)
        return (carry[0] + g,), xp.sum(g)

    ids = np.random.default_rng(0).integers(0, 100, (3, 200, 3)).astype(dtype)
    assert_engine(body, (np.zeros((300, 4), "f"),), f((200, 4)), ids, amplified=10.0)


@needs_mkl
def test_memory_of_many_shapes_is_given_back() -> None:
    library = mkl()
    assert isinstance(library, Mkl)
    loop = compiled(lambda xp, c, k, x: (c, 1.0 - x), mkl)
    gc.collect()
    before = len(library._ones)
    for rows in range(100, 140):
        loop((), (), f((1, rows, 300)))
    gc.collect()
    assert len(library._ones) <= before + 8


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_forked_process_does_not_wait_for_who_is_not_there() -> None:
    """A thread that trained when the process was forked holds locks which nobody gives back."""
    loop = compiled(lambda xp, c, k, x: (c, xp.matmul(x, k)))
    k, x = f((20, 20)), f((2, 20, 20))
    loop((), k, x)
    (plan,) = loop.plans.values()
    assert plan is not None
    with plan.lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of newer Pythons, about threads
        child = os.fork()
        if child == 0:  # never returns
            signal.alarm(20)
            loop((), k, x)
            os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
