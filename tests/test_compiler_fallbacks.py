"""The choice between the compiled and the plain loop: which bodies are recorded, and what a loop keeps."""

from __future__ import annotations

import copy
import gc
import threading
import warnings
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from mlp_xp_backends import get_backend
from mlp_xp_backends.compiler.loop import REMEMBERED
from mlp_xp_backends.trees import leaves
from tests.compiler_cases import LIBRARIES, Library, assert_compiled, assert_same, compiled, copied, f, stepwise


def zeros_then_sum(xp: Any, x: Any) -> Any:
    y = xp.zeros_like(x)
    y += x
    return y


def written_out(xp: Any, x: Any) -> Any:
    y = x * 1
    xp.add(y, x, out=y)
    return y


def flat_then_changed(xp: Any, x: Any) -> Any:
    y = x * 1
    flat = xp.ravel(x * 1)
    y += 1.0
    return y[0, 0] + flat


def clipped_then_changed(xp: Any, x: Any) -> Any:
    y = xp.clip(x)
    z = y * 1
    y += 1.0
    return y + z


def written(xp: Any, y: Any) -> Any:
    y += 1.0
    return y


def reshaped_then_written(xp: Any, x: Any) -> Any:
    y = x * 1
    z = xp.reshape(y, (3, 4), copy=True)
    y += 1.0
    return z + xp.reshape(y, (3, 4))


def multiplied(xp: Any, x: Any) -> Any:
    y = x[:3] * 1
    y @= x[:3]
    return y


OWN = f((3, 3), 7)[:, :3]
ORDINARY = {
    "zeros_like and +=": zeros_then_sum,
    "NumPy's functions": lambda xp, x: np.maximum(x, 0) + np.sum(x, axis=0) + np.mean(x),
    "out=": written_out,
    "positional axis": lambda xp, x: xp.sum(x, -1) + xp.max(x, 1),
    "mean(dtype=)": lambda xp, x: xp.mean(x, dtype=xp.float64),
    "@=": multiplied,
    "squeeze": lambda xp, x: xp.squeeze(x[None]) + xp.squeeze(x[:, None], axis=1),
    "divmod": lambda xp, x: divmod(x, 0.25)[0] + divmod(1.0, x + 9)[1],
    "copy": lambda xp, x: written(xp, xp.copy(x)) + np.copy(x),
    "deepcopy": lambda xp, x: copy.deepcopy(x) + copy.copy(x),
    "ravel": flat_then_changed,
    "clip without bounds": clipped_then_changed,
    "take without an axis": lambda xp, x: xp.take(x, xp.asarray([5, -1, 0])),
    "one_hot": lambda xp, x: xp.one_hot(xp.argmax(x, axis=0), 4, dtype=x.dtype),
    "segment_sum": lambda xp, x: xp.segment_sum(x, xp.argmin(x, axis=1), 3),
    "segment_sum of a stack": lambda xp, x: xp.segment_sum(xp.stack([x, -x]), xp.argmin(x, axis=1), 3),
    "segment_sum by ids of each": lambda xp, x: xp.segment_sum(
        xp.stack([x, x]), xp.argmax(xp.stack([x, -x]), axis=-1), 3
    ),
    "one_hot of a stack": lambda xp, x: xp.one_hot(xp.argmax(xp.stack([x, -x]), axis=-1), 3, dtype=xp.float64),
    "empty": lambda xp, x: xp.empty_like(x) * 0 + xp.empty((4, 3), dtype=x.dtype) * 0,
    "products with the body's own arrays": lambda xp, x: x @ OWN + (OWN @ x.mT).mT + np.matmul(x, OWN),
    "asarray": lambda xp, x: xp.asarray(x) + xp.asarray(x, dtype=xp.float64) + written(xp, xp.asarray(x, copy=True)),
    "reshape to a copy": reshaped_then_written,
    "reshape to one axis": lambda xp, x: xp.reshape(x, 12) - xp.reshape(x, -1) * 2,
    "astype to a copy": lambda xp, x: written(xp, xp.astype(x, x.dtype)) + xp.astype(x, x.dtype, copy=False),
    "arg with keepdims": lambda xp, x: xp.argmax(x, axis=0, keepdims=True) + xp.argmin(x, axis=-1, keepdims=True),
    "arg of all with keepdims": lambda xp, x: xp.argmax(x, keepdims=True) + xp.argmin(x),
    "searchsorted": lambda xp, x: xp.searchsorted(xp.sort(x[0]), x[1]),
    "the larger of two": lambda xp, x: xp.maximum(x, 0.0) - np.minimum(x, x * 2),
    "numbers of NumPy": lambda xp, x: np.float32(2.0) * x - np.float64(0.5),
}


@pytest.mark.parametrize("name", ORDINARY)
def test_ordinary_code_is_recorded(name: str) -> None:
    assert_compiled(lambda xp, c, k, x: (c, ORDINARY[name](xp, x)), (), (), f((3, 4, 3)))


def frozen_branch(xp: Any, x: Any) -> Any:
    try:
        positive = bool(xp.sum(x) > 0)
    except Exception:
        positive = True
    return x if positive else -x


def frozen_by_anything(xp: Any, x: Any) -> Any:
    try:
        return x if xp.sum(x) > 0 else -x
    except BaseException:
        return x


def written_through_a_view(xp: Any, x: Any) -> Any:
    y = x * 1
    y[0] += 1
    return y


def raveled_then_written(xp: Any, x: Any) -> Any:
    y = x * 1
    z = xp.ravel(y)
    y += 1.0
    return z * 1


UNRECORDABLE = {
    "a branch on a value": frozen_branch,
    "a branch that catches everything": frozen_by_anything,
    "x[True]": lambda xp, x: x[True],
    "a view that is written to": written_through_a_view,
    "a view of what was written to": raveled_then_written,
    "an array of the body's own is written to": lambda xp, x: np.add(x, 1, out=np.zeros((4, 3), "f")),
    "full_like of a number of others": lambda xp, x: xp.full_like(x, xp.sum(x)),
    "a mean in integers": lambda xp, x: xp.mean(x * 9, dtype=xp.int32),
    "unique values": lambda xp, x: xp.unique_values(x),
    "places that are not zero": lambda xp, x: xp.nonzero(x)[0],
    "repeated by values": lambda xp, x: xp.repeat(x[0], xp.argmax(x, axis=0) * 0 + 2),
    "a sequence of arrays": lambda xp, x: np.linalg.multi_dot([x, x.mT, x]),
    "several results": lambda xp, x: np.modf(x)[0] + np.linalg.qr(x)[0],
    "an outer product": lambda xp, x: np.multiply.outer(x[0], x[1]),
    "a ufunc with where=": lambda xp, x: np.add(x, 1, where=True),
    "iteration": lambda xp, x: sum(row * 2 for row in x),
    "attributes": lambda xp, x: x.astype("float64").sum(),
    "float16": lambda xp, x: xp.mean(xp.astype(x, np.float16)) * xp.sum(x),
}


@pytest.mark.parametrize("name", UNRECORDABLE)
def test_what_cannot_be_recorded_means_what_it_means_step_by_step(name: str) -> None:
    assert_compiled(lambda xp, c, k, x: (c, UNRECORDABLE[name](xp, x)), (), (), f((3, 4, 3)), recorded=False)


REFUSED = {
    "sum over an axis that is not there": lambda xp, x: xp.sum(x, axis=2),
    "concat along an axis that is not there": lambda xp, x: xp.concat([x, x], axis=5),
    "argmax": lambda xp, x: xp.argmax(x, axis=-3),
    "take by floats": lambda xp, x: xp.take(x, x[0], axis=0),
    "one_hot of floats": lambda xp, x: xp.one_hot(x[0], 3, dtype=x.dtype),
    "reshape": lambda xp, x: xp.reshape(x, (5, 5)),
    "broadcast": lambda xp, x: x + x[:, :2],
    "matmul": lambda xp, x: xp.matmul(x, x),
    "an error of its own": lambda xp, x: {}["missing"],
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_plain_loop_refuses_is_refused_in_its_words(name: str) -> None:
    def body(xp: Any, c: Any, k: Any, x: Any) -> Any:
        return c, REFUSED[name](xp, x)

    with pytest.raises(Exception) as plainly:
        stepwise(body)((), (), f((3, 4, 3)))
    with pytest.raises(plainly.type) as compiled_error:
        compiled(body)((), (), f((3, 4, 3)))
    assert str(compiled_error.value) == str(plainly.value)


def test_random_numbers_of_the_host_are_reported_and_not_frozen() -> None:
    rng = np.random.default_rng(0)
    loop = compiled(lambda xp, c, k, x: (c, x * rng.standard_normal(3).astype("f")))
    with pytest.warns(UserWarning, match="random numbers of the host or a counter"):
        _, y = loop((), (), np.ones((5, 3), "f"))
    assert len(np.unique(y)) == 15


IN_PLACE = {
    "drawn": lambda rng, own, x: rng.standard_normal(out=own) + x,
    "counted before it is read": lambda rng, own, x: np.add(own, 1, out=own) + x,
    "counted after it is read": lambda rng, own, x: (x + own, np.add(own, 1, out=own))[0],
    "another sign of zero": lambda rng, own, x: np.copysign(x, np.negative(own, out=own)),
    "written to inside a step": lambda rng, own, x: x * (own.fill(0) or own) + (own.fill(1) or own) * x,
}


@pytest.mark.parametrize("name", IN_PLACE)
def test_arrays_that_the_body_changes_are_reported_and_not_frozen(name: str) -> None:
    """The body runs twice more to be recorded."""
    own, x = np.zeros(3), f((6, 3), dtype="float64")
    rng = np.random.default_rng(0)
    loop = compiled(lambda xp, c, k, x: (c, IN_PLACE[name](rng, own, x)))
    with pytest.warns(UserWarning, match="random numbers of the host or a counter"):
        _, got = loop((), (), x)
    own[:], rng = 0.0, np.random.default_rng(0)
    np.testing.assert_array_equal(got, [IN_PLACE[name](rng, own, row) for row in x[[0, 0, *range(6)]]][2:])


def test_counters_are_reported_and_not_frozen() -> None:
    count = [0]

    def body(xp: Any, c: Any, k: Any, x: Any) -> Any:
        count[0] += 1
        return c, x * count[0]

    with pytest.warns(UserWarning, match="step by step"):
        _, y = compiled(body)((), (), np.ones((5, 3), "f"))
    np.testing.assert_array_equal(np.diff(y[:, 0]), 1)


@pytest.mark.parametrize("size", [3, 300])
def test_constants_in_the_order_of_fortran_are_read_anew(size: int) -> None:
    k = np.asfortranarray(f((size, size)))
    own = np.asfortranarray(f((size, size), 1))
    loop = compiled(lambda xp, c, k, x: (c, xp.tanh(x * k + own) * own))
    x = f((2, size, size), 2)
    for _ in range(2):
        np.testing.assert_allclose(loop((), k, x)[1], np.tanh(x * k + own) * own, rtol=1e-5, atol=1e-6)
        k *= 2
        own += 1


@pytest.mark.parametrize("library", LIBRARIES)
def test_rows_and_columns_of_any_stride(library: Library) -> None:
    """NumPy gives axes of length 1 any stride."""
    odd = np.lib.stride_tricks.as_strided(f((40,)), (1, 40), (3, 4))
    tall = np.lib.stride_tricks.as_strided(f((40,)), (40, 1), (4, 7))

    def body(xp: Any, c: Any, k: Any, x: Any) -> Any:
        return c, 0.5 * xp.matmul(k[0], x) + xp.matmul(xp.matmul(k[0], k[1]), k[0]) * 2.0

    assert_compiled(body, (), (odd, tall), f((3, 40, 40)), library=library, amplified=10)


def test_floating_point_warnings_stay_inside() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loop = get_backend("cpu").compile(lambda xp, c, k, x: (c, xp.exp(x) / (x - x)))
        _, y = loop((), (), np.full((2, 3), 1000.0, "f"))
    assert np.all(np.isinf(y) | np.isnan(y))


def test_a_loop_keeps_nobody_s_data_alive() -> None:
    def body(xp: Any, c: Any, k: Any, x: Any) -> Any:
        w, v = c
        v *= 0.9
        v -= x[1] * xp.matmul(xp.matrix_transpose(k), xp.take(k, x[0], axis=0) * 0.01)
        w += v
        return (w, v), xp.sum(w)

    loop = compiled(body)
    k, c = f((30, 30)), (f((30, 30)), f((30, 30)))
    items = (np.arange(60).reshape(2, 30) % 30, f(2))
    alive = [weakref.ref(a) for a in (k, *c, *items)]
    c, outs = loop(c, k, items)
    c, outs = loop(c, k, items)
    alive += [weakref.ref(a) for a in (*leaves(c), outs)]
    del k, c, items, outs
    gc.collect()
    assert [ref() for ref in alive] == [None] * len(alive)


def test_a_loop_forgets_shapes_also_after_two_threads_compiled_at_once() -> None:
    both = threading.Barrier(2)

    def body(xp: Any, c: Any, k: Any, x: Any) -> Any:
        if x.shape[0] > 100:
            both.wait(timeout=60)
        return c, x * 2

    loop = compiled(body)
    for n in range(1, REMEMBERED + 1):
        loop((), (), f((1, n)))
    with ThreadPoolExecutor(2) as pool:
        done = [pool.submit(loop.compiled, (), (), f((1, n))) for n in (101, 102)]
    assert all(one.result() is not None for one in done)
    for n in range(20, 20 + REMEMBERED):
        loop((), (), f((1, n)))
        assert len(loop.ready) == REMEMBERED


def test_arrays_that_come_to_lie_where_others_lay() -> None:
    """Calls are prepared for addresses, which arrays of other layouts may take over."""
    loop = compiled(lambda xp, c, k, x: ((c[0] + x, c[1] * 2.0), xp.sum(c[0] * k)))
    plain = stepwise(loop.body)
    memory = f((5, 5))
    x, k = f((3, 5, 5)), f((5, 5), 3)
    for carry in (memory, memory.T, memory, memory[::-1]):
        expected = plain((carry.copy(), carry * 1), k, x)
        assert_same(loop((carry, carry * 1), k, x), expected)


def test_outs_that_are_carried_have_memory_of_their_own() -> None:
    """In the plain loop, too: what is written to in the next step is not what went out in this one."""

    def body(xp: Any, c: Any, k: Any, x: Any) -> Any:
        c += x
        return c, (c, c[0, :])

    carry, x = f((2, 3)), f((4, 2, 3), 1)
    expected = np.cumsum([carry + x[0], *x[1:]], axis=0, dtype="f")
    for loop in (compiled(body), stepwise(body)):
        _, (whole, row) = loop(copied(carry), (), x)
        np.testing.assert_allclose(whole, expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(row, expected[:, 0], rtol=1e-5, atol=1e-6)
