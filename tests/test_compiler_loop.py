"""The guarantees of a compiled loop about the arrays that it reads and writes."""

from __future__ import annotations

import os
import platform
import signal
import sys
import warnings
from typing import Any

import numpy as np
import pytest

from mlp_xp.nn.layers import Embedding
from mlp_xp_backends.compiler.recorder import record
from mlp_xp_backends.compiler.targets.cpu.libraries import openblas
from mlp_xp_backends.trees import leaves, tree_map
from tests.compiler_cases import (
    LIBRARIES,
    NETWORKS,
    OPTIMIZERS,
    Library,
    assert_compiled,
    assert_same,
    compiled,
    copied,
    f,
    frozen,
    stepwise,
    training,
    verified,
)

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
    assert_compiled(CARRIES[name], (f((3, 3), 1), f((3, 3), 2)), f((3, 3), 3), f((5, 3, 3), 4))


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("optimizer", ["momentum", "adam"])
def test_steps_do_not_know_how_they_are_chunked(network: str, optimizer: str) -> None:
    """The results are bitwise equal, even with another loop object, so a resumed run equals an uninterrupted one."""
    body, carry, consts, items = training(network, OPTIMIZERS[optimizer], dtype="float32")
    whole, losses = compiled(body)(copied(carry), consts, items)
    first, a = compiled(body)(copied(carry), consts, tree_map(lambda x: x[:4], items))
    second, b = compiled(body)(copied(first), consts, tree_map(lambda x: x[4:], items))
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


def test_an_array_of_the_body_s_own_that_is_carried_on_is_written_to() -> None:
    """In the plain loop, the second step writes to it."""

    def body(xp: Any, c: Any, k: Any, x: Any) -> Any:
        a, b = c
        a += x
        b += a
        return (a, OWN), b * 1

    OWN, x = f((2, 2)), f((4, 2, 2), 1)
    kept = OWN.copy()
    expected = stepwise(body)((f((2, 2), 2), f((2, 2), 3)), (), x)
    assert not np.array_equal(OWN, kept)
    OWN[...] = kept
    assert_same(compiled(body)((f((2, 2), 2), f((2, 2), 3)), (), x), expected)


@pytest.mark.parametrize("dtype", [">f4", "U3", "O"])
def test_arrays_of_other_dtypes(dtype: str) -> None:
    k = np.ones(3).astype(dtype)
    loop = compiled(lambda xp, c, k, x: (c, xp.stack([k, k])))
    assert loop.compiled((), k, f(2)) is None
    np.testing.assert_array_equal(loop((), k, f(2))[1], np.stack([np.stack([k, k])] * 2))


def test_carried_arrays_that_share_memory_or_cannot_be_written_to() -> None:
    def body(xp: Any, c: Any, k: Any, x: Any) -> Any:
        w, v, u = c
        v *= 0.5
        v += x
        w += v
        u -= k
        return (w, v, u), ()

    loop, plain = compiled(body), stepwise(body)
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


def test_labels_of_no_class_are_refused_as_by_the_plain_loop() -> None:
    body, carry, (x, y), items = training("classes", OPTIMIZERS["sgd"])
    y[:] = 300
    with pytest.raises(IndexError, match="index 300 is out of bounds"):
        compiled(body)(carry, (x, y), items)


@pytest.mark.parametrize("row", [100, -101])
def test_rows_that_are_not_there(row: int) -> None:
    loop = compiled(lambda xp, c, k, rows: (c, xp.sum(xp.take(k, rows, axis=0))))
    with pytest.raises(IndexError, match="out of bounds"):
        loop((), f((100, 2)), np.array([[1, 2], [3, row]]))


def test_rows_counted_from_the_end() -> None:
    assert_compiled(
        lambda xp, c, k, rows: (c, xp.take(k, rows, axis=0)), (), f((100, 2)), np.array([[1, -2], [3, -100]])
    )


def test_no_rows_at_all() -> None:
    assert_compiled(lambda xp, c, k, rows: (c, xp.take(k, rows, axis=0) * 2.0), (), f((9, 2)), np.zeros((3, 0), int))


def test_errors_are_those_of_numpy() -> None:
    with pytest.raises(ValueError, match="matmul"):
        compiled(lambda xp, c, k, x: (c, xp.matmul(x, x)))((), (), f((2, 3, 4)))


def test_memory_is_used_again() -> None:
    """Twenty arrays one after the other need the memory of two."""

    def body(xp: Any, c: Any, k: Any, x: Any) -> Any:
        for _ in range(20):
            x = xp.matmul(x, k)
        return c, xp.sum(x)

    _, plan = verified(record(body, (), k := f((50, 50)), f((3, 50, 50))))
    assert sum(plan.buffers) <= 2 * k.nbytes + 1024


def test_many_small_updates_are_one() -> None:
    body, *arrays = training("relu", OPTIMIZERS["adam"])
    program, _ = verified(record(body, *arrays))
    assert [op.name for op in program.ops].count("sqrt") == 1


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
    """Ids that are out of range have rows of zeros."""

    def body(xp, carry, consts, ids):
        (total,) = carry
        ids = ids * 1 if computed else ids
        hot = xp.one_hot(ids, width, dtype=xp.float32)
        total += xp.matmul(xp.matrix_transpose(hot), consts)
        return (total,), xp.sum(hot, axis=-1)

    rng = np.random.default_rng(0)
    beyond = int(computed)  # ids whose rows are not computed are checked before the loop
    ids = rng.integers(-beyond, width + beyond, (5, 1000)).astype(np.int32)
    weights = rng.standard_normal((1000, 3)).astype(np.float32)
    loop = compiled(body)
    (total,), counts = loop((np.zeros((width, 3), np.float32),), weights, ids)
    expected = np.zeros((width, 3))
    inside = (ids >= 0) & (ids < width)
    for row, known in zip(ids, inside, strict=True):
        np.add.at(expected, row[known], weights[known].astype(np.float64))
    np.testing.assert_allclose(total, expected, atol=1e-4)
    np.testing.assert_array_equal(counts, inside)


def test_one_hot_rows_are_not_overwritten() -> None:
    """Neither in place nor by another result, as long as they are read."""

    def body(xp: Any, c: Any, k: Any, ids: Any) -> Any:
        changed = xp.one_hot(ids * 1, 50, dtype=xp.float32) * 2.0 - 1.0
        read = xp.sum(xp.one_hot(ids * 2, 60, dtype=xp.float32), axis=0)
        return c, (xp.sum(changed * k, axis=-1), read + xp.sum(xp.tanh(xp.exp(k[:, :1]) * read), axis=0))

    assert_compiled(body, (), f((1000, 50)), np.random.default_rng(0).integers(0, 30, (4, 1000)), amplified=100.0)


def test_one_core_inside_and_as_many_as_before_after() -> None:
    """Two overlapping runs restore the number of threads, and so does a run that fails."""
    threadpoolctl, library = pytest.importorskip("threadpoolctl"), openblas()
    if library is None:
        pytest.skip("NumPy has no OpenBLAS")

    def threads() -> int:
        pools = threadpoolctl.ThreadpoolController().select(internal_api="openblas").info()
        return min(pool["num_threads"] for pool in pools if "numpy" in pool["filepath"])

    def fail() -> None:
        with library.on_one_core():
            assert threads() == 1
            raise ZeroDivisionError

    with threadpoolctl.threadpool_limits(2):
        first, second = library.on_one_core(), library.on_one_core()
        first.__enter__()
        second.__enter__()
        assert (threads(), library.threads) == (1, 2)
        first.__exit__(None, None, None)
        assert threads() == 1
        second.__exit__(None, None, None)
        assert (threads(), library.threads) == (2, 2)
        with pytest.raises(ZeroDivisionError):
            fail()
        assert threads() == 2


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
    loop, plain = compiled(body, library), stepwise(body)
    for consts in (k, lying(k), k):
        for scale in (1.0, 2.0):
            w = lying(f((30, 40), 1)) * np.float32(scale)
            assert_same(loop((w, np.zeros((), "f")), consts, x), plain((w, np.zeros((), "f")), consts, x), 10.0)
    carry, _ = loop((lying(f((30, 40), 1)), np.zeros((), "f")), k, x)
    carry[0][...] *= 2  # numbers that change between calls are read again
    assert_same(loop(carry, k, x)[1], plain(carry, k, x)[1], 10.0)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint64"])
def test_ids_of_every_dtype(dtype: str) -> None:
    def body(xp: Any, carry: Any, y: Any, ids: Any) -> Any:
        layer = Embedding(300, 4, ids_per_row=3, combine="sum")
        (g,) = layer.gradient(xp, (), ids, y)
        return (carry[0] + g,), xp.sum(g)

    ids = np.random.default_rng(0).integers(0, 100, (3, 200, 3)).astype(dtype)
    assert_compiled(body, (np.zeros((300, 4), "f"),), f((200, 4)), ids, amplified=10.0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_forked_process_does_not_wait_for_who_is_not_there() -> None:
    """Locks that another thread held when the process was forked are never released in the child."""
    loop = compiled(lambda xp, c, k, x: (c, xp.matmul(x, k)))
    k, x = f((20, 20)), f((2, 20, 20))
    loop((), k, x)
    (plan,) = loop.ready.values()
    assert plan is not None
    with plan.lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of newer Pythons, about threads
        child = os.fork()
        if child == 0:  # never returns
            signal.alarm(60)
            loop((), k, x)
            os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
