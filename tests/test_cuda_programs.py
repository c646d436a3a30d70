"""Programs drawn at random say on CUDA, as few generated kernels, what NumPy says one operation at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mlp_xp_backends import BackendError, get_backend
from mlp_xp_backends.compiler.loop import CompiledLoop
from mlp_xp_backends.loop import plain_loop
from mlp_xp_backends.trees import leaves, tree_map

pytestmark = pytest.mark.gpu

TOLERANCE = {"float32": 2e-4, "float64": 1e-11}
ROWS, STEPS = 12, 4


@pytest.fixture(scope="module")
def cupy_backend() -> Any:
    try:
        return get_backend("cupy")
    except BackendError as error:
        pytest.skip(str(error).partition("\n")[0])


def compiled(body: Any) -> Any:
    """The loop itself, to ask it for plans."""
    from mlp_xp_backends.compiler.targets.cuda.launch import target

    backend = get_backend("cupy")
    return CompiledLoop(body, plain_loop(backend.xp, body, backend.xp.stack), target)


def assert_same(got: Any, expected: Any, dtype: str) -> None:
    for a, b in zip(leaves(got), leaves(expected), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        if b.dtype.kind == "f":
            scale = float(np.max(np.abs(b), initial=1.0, where=np.isfinite(b)))
            np.testing.assert_allclose(a, b, rtol=0, atol=scale * TOLERANCE[dtype])
        else:
            np.testing.assert_array_equal(a, b)


def check(
    backend: Any, body: Any, carry: Any, consts: Any, items: Any, dtype: str = "float64", plans: bool = True
) -> None:
    """Three calls, each going on with what the last one returned, and twice the same bits."""
    device = lambda tree: tree_map(lambda a: backend.asarray(np.array(a)), tree)  # noqa: E731  a copy for each run
    loop, plain = compiled(body), plain_loop(get_backend("numpy:plain").xp, body, np.stack)
    consts_there, items_there = device(consts), device(items)
    assert (loop.compiled(device(carry), consts_there, items_there) is not None) == plans
    bits = []
    for _ in range(2):
        mine, theirs = device(carry), tree_map(np.array, carry)
        for _ in range(3):
            mine, got = loop(mine, consts_there, items_there)
            theirs, expected = plain(theirs, consts, items)
            home = tree_map(backend.to_numpy, (mine, got))
            assert_same(home, (theirs, expected), dtype)
        bits.append([a.tobytes() for a in leaves(home)])
    assert bits[0] == bits[1]


UNARY = ("tanh", "abs", "negative", "sign", "square", "positive")
BINARY = ("add", "subtract", "multiply", "maximum", "minimum")


def random_body(seed: int) -> Callable[..., Any]:
    """A body of random operations on whatever fits, always the same for one seed."""

    def body(xp: Any, carry: Any, consts: Any, item: Any) -> Any:
        rng = np.random.default_rng(seed)
        w, row, column, single, count = carry
        data, matrix, labels, square = consts
        rows, rate = item
        values = [xp.take(data, rows, axis=0), w, row, column, single, matrix, square]
        values.append(xp.astype(xp.take(labels, rows, axis=0), w.dtype)[:, None])

        def pick() -> Any:
            return values[rng.integers(len(values))]

        def fitting(x: Any) -> Any:
            found = [v for v in values if _broadcasts(v.shape, x.shape)]
            return found[rng.integers(len(found))]

        for _ in range(int(rng.integers(4, 14))):
            x = pick()
            match rng.integers(10):
                case 0:
                    y = getattr(xp, UNARY[rng.integers(len(UNARY))])(x)
                case 1 | 2 | 3:
                    y = getattr(xp, BINARY[rng.integers(len(BINARY))])(x, fitting(x))
                case 4:
                    y = getattr(xp, ("sum", "mean", "max")[rng.integers(3)])(
                        x, axis=int(rng.integers(-2, 0)), keepdims=True
                    )
                case 5:
                    y = (
                        xp.matmul(xp.matrix_transpose(x), x)
                        if rng.integers(2)
                        else xp.matmul(x, xp.matrix_transpose(x))
                    )
                case 6:
                    y = xp.where(x > 0.1, x, fitting(x)) * rate
                case 7:
                    y = xp.matrix_transpose(x)
                case 8:
                    y = x[::2, ...] if x.shape[0] > 1 and rng.integers(2) else x[..., :1]
                case _:
                    y = xp.astype(xp.argmax(x, axis=-1, keepdims=True), x.dtype) - xp.expand_dims(
                        xp.min(x, axis=1), axis=1
                    )
            values.append(xp.tanh(y) if rng.integers(3) else 0.1 * y)
        outs = (xp.sum(xp.tanh(pick())), pick() + 0.0, count + 0)
        changes = [[v for v in values if v.shape == target.shape] for target in carry[:4]]
        changes = [[xp.tanh(vs[rng.integers(len(vs))]) for _ in range(rng.integers(3))] for vs in changes]
        after = [_written(target, change, rng) for target, change in zip(carry[:4], changes, strict=True)]
        return (*after, count + 1), outs

    return body


def _written(target: Any, changes: list[Any], rng: np.random.Generator) -> Any:
    for change in changes:
        if rng.integers(2):
            target += 0.25 * change
        else:
            target *= 0.5 + 0.25 * change
    return target


def _broadcasts(shape: tuple[int, ...], to: tuple[int, ...]) -> bool:
    return len(shape) <= len(to) and all(a in (1, b) for a, b in zip(shape[::-1], to[::-1], strict=False))


def arrays(dtype: str, width: int) -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(width)
    f = lambda *shape: rng.standard_normal(shape).astype(dtype)  # noqa: E731
    carry = (f(ROWS, width), f(1, width), f(ROWS, 1), f(1, 1), np.zeros((1, 1), np.int32))
    consts = (f(20, width), f(width, 5), rng.integers(0, 256, 20, dtype=np.uint8), f(ROWS, ROWS))
    return carry, consts, (rng.integers(0, 20, (STEPS, ROWS), dtype=np.int32), f(STEPS))


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("seed", range(12))
def test_programs_drawn_at_random(cupy_backend: Any, seed: int, dtype: str) -> None:
    check(cupy_backend, random_body(seed), *arrays(dtype, (7, 12, 1)[seed % 3]), dtype=dtype)
