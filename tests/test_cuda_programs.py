"""Random programs compute on CUDA, with few generated kernels, the same as NumPy operation by operation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mlp_xp_backends import BackendError, get_backend
from mlp_xp_backends.compiler.loop import CompiledLoop
from mlp_xp_backends.loop import plain_loop
from mlp_xp_backends.trees import leaves, tree_map
from tests.programs import draw

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
    """The compiled loop itself, to inspect its plans."""
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
    """Compare three calls, each with the carry of the previous one, and check that a repetition gives the same bits."""
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


def laid_out_there(a: np.ndarray) -> Any:
    """``a`` on the device in the layout that it has on the host."""
    import cupy

    sent = cupy.asarray(np.array(a, order="C"))
    if not a.ndim or a.flags.c_contiguous:
        return sent
    if 0 in a.strides:
        return cupy.broadcast_to(sent[..., :1], a.shape)
    if min(a.strides) < 0:
        return cupy.flip(cupy.ascontiguousarray(cupy.flip(sent)))
    if a.flags.f_contiguous:
        return cupy.asfortranarray(sent)
    wide = cupy.zeros([2 * n for n in a.shape], a.dtype)
    wide[tuple(slice(1, n + 1) for n in a.shape)] = sent
    return wide[tuple(slice(1, n + 1) for n in a.shape)]


def agrees(backend: Any, seed: int) -> bool:
    """Whether program ``seed`` of the compiler's tests runs fused; asserts that it then has the same bits as NumPy."""
    body, carry, consts, items = draw(seed)
    plain = plain_loop(get_backend("numpy:plain").xp, body, np.stack)
    with np.errstate(all="ignore"):
        try:
            first = tree_map(np.array, plain(tree_map(np.array, carry), consts, items))
            second = plain(tree_map(np.array, first[0]), consts, items)
        except Exception:
            return False
    loop = compiled(body)
    carry, items = (tree_map(lambda a: backend.asarray(np.array(a)), tree) for tree in (carry, items))
    consts = tree_map(lambda a: laid_out_there(np.asarray(a)), consts)
    if loop.compiled(carry, consts, items) is None:
        return False
    mine = loop(carry, consts, items)
    home = tree_map(backend.to_numpy, mine)
    again = tree_map(backend.to_numpy, loop(mine[0], consts, items))
    for a, b in zip(leaves((home, again)), leaves((first, second)), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        np.testing.assert_array_equal(a, b, err_msg=f"program {seed}")
    return True


@pytest.mark.parametrize("block", [0, *(pytest.param(k, marks=pytest.mark.slow) for k in range(1, 10))])
def test_programs_of_the_compilers_tests(cupy_backend: Any, block: int) -> None:
    assert sum(agrees(cupy_backend, seed) for seed in range(20 * block, 20 * (block + 1))) > 10


FUNCTIONS = (
    "abs", "acos", "acosh", "add", "asin", "asinh", "atan", "atan2", "atanh", "ceil", "copysign", "cos", "cosh",
    "divide", "equal", "exp", "expm1", "floor", "greater", "greater_equal", "hypot", "isfinite", "isinf", "isnan",
    "less", "less_equal", "log", "log10", "log1p", "log2", "logaddexp", "maximum", "minimum", "multiply", "negative",
    "nextafter", "not_equal", "positive", "pow", "reciprocal", "sign", "signbit", "sin", "sinh", "sqrt", "square",
    "subtract", "tan", "tanh", "trunc",
)  # fmt: skip
INTEGERS = (
    "abs", "add", "bitwise_and", "bitwise_or", "bitwise_xor", "bitwise_invert", "multiply", "negative", "sign",
    "square", "subtract",
)  # fmt: skip
SPECIAL = np.array([0.0, -0.0, 0.3, -0.7, 1.0, 2.5, -3.0, np.inf, -np.inf, np.nan, 1e-3, 80.0])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_functions_of_numbers_are_those_of_numpy(cupy_backend: Any, dtype: str) -> None:
    """Of all pairs of numbers, infinity, NaN and both zeros among them."""
    x, y = (a.astype(dtype) for a in np.meshgrid(SPECIAL, SPECIAL))

    def body(xp: Any, carry: Any, consts: Any, item: Any) -> Any:
        x, y = consts
        return carry, tuple(getattr(xp, name)(*(x, y)[: getattr(np, name).nin]) for name in FUNCTIONS)

    loop = compiled(body)
    got = loop((), tuple(map(cupy_backend.asarray, (x, y))), cupy_backend.asarray(np.zeros(1)))[1]
    info = np.finfo(dtype)
    with np.errstate(all="ignore"):
        for name, a in zip(FUNCTIONS, got, strict=True):
            f = getattr(np, name)
            expected = f(*(x, y)[: f.nin])
            home = cupy_backend.to_numpy(a)[0]
            assert home.dtype == expected.dtype
            np.testing.assert_allclose(home, expected, rtol=4 * info.eps, atol=info.tiny, err_msg=name)
    assert loop.compiled((), (x, y), np.zeros(1)) is not None


@pytest.mark.parametrize("dtype", ["int32", "int64", "uint8"])
def test_integers_wrap_around(cupy_backend: Any, dtype: str) -> None:
    info = np.iinfo(dtype)
    x, y = np.meshgrid(*[np.array([info.min, info.max, 0, 1, 2, 7, info.max // 3], dtype)] * 2)

    def body(xp: Any, carry: Any, consts: Any, item: Any) -> Any:
        x, y = consts
        outs = [getattr(xp, name)(*(x, y)[: getattr(np, name).nin]) for name in INTEGERS]
        return carry, (*outs, x >> 3, xp.max(x, axis=0), xp.min(y, axis=1), xp.sum(x, axis=0), xp.argmin(x, axis=1))

    check(cupy_backend, body, (), (x, y), np.zeros(1))


def test_signed_and_unsigned_integers_are_compared_as_numbers(cupy_backend: Any) -> None:
    """NumPy has functions for int64 with uint64; C would convert negative numbers to large ones."""
    x, y = np.meshgrid(np.array([-(2**63), -1, 0, 5, 2**62]), np.array([0, 5, 2**62, 2**64 - 1], np.uint64))

    def body(xp: Any, carry: Any, consts: Any, item: Any) -> Any:
        x, y = consts
        return carry, (xp.less(x, y), xp.greater_equal(x, y), xp.equal(y, x))

    check(cupy_backend, body, (), (x, y), np.zeros(1), plans=False)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(3, 5), (70, 300), (5000, 3), (1, 4000), (2, 40, 33)])
def test_reductions_of_every_shape(cupy_backend: Any, shape: tuple[int, ...], dtype: str) -> None:
    """Whole numbers, which have the same sum in every order; folds long and short, of rows, of columns, of all."""
    rng = np.random.default_rng(0)
    x = rng.integers(-4, 5, shape).astype(dtype)

    def body(xp: Any, carry: Any, consts: Any, item: Any) -> Any:
        x = consts[0] + item
        outs = [f(x, axis=axis) for f in (xp.sum, xp.max, xp.min) for axis in (-1, -2, None)]
        outs += [xp.argmax(x, axis=-1), xp.argmin(x, axis=0), xp.argmax(x), xp.any(x > 4, axis=-1), xp.all(x < 4)]
        centred = x - xp.sum(x, axis=-2, keepdims=True)  # the second fold waits for the first
        outs += [xp.sum(centred * centred, axis=-2), xp.max(xp.abs(x - xp.max(x, axis=-1, keepdims=True)), axis=-1)]
        carry += xp.sum(x * x)
        return carry, tuple(outs)

    check(cupy_backend, body, np.zeros((), dtype), (x,), np.arange(3.0).astype(dtype), dtype)


@pytest.mark.slow
def test_rows_of_a_table_of_more_than_two_billion_elements(cupy_backend: Any) -> None:
    import cupy

    table = cupy.empty((2**21 + 3, 1024), np.uint8)
    rows = np.array([[0, 2**20, 2**21 + 2, -3]])
    for k, row in enumerate(rows[0]):
        table[int(row), :3] = cupy.arange(3, dtype=np.uint8) + k

    def body(xp: Any, carry: Any, consts: Any, item: Any) -> Any:
        return carry, (xp.take(consts, item, axis=0)[:, :3] * 2, xp.sum(consts[:: 2**20, :3], axis=1))

    loop = compiled(body)
    assert loop.compiled((), table, cupy_backend.asarray(rows)) is not None
    taken, sums = loop((), table, cupy_backend.asarray(rows))[1]
    np.testing.assert_array_equal(
        cupy_backend.to_numpy(taken)[0], 2 * (np.arange(3) + np.arange(4)[:, None]).astype(np.uint8)
    )
    np.testing.assert_array_equal(cupy_backend.to_numpy(sums)[0], [3, 6, 12])


def test_what_cannot_be_emitted_runs_one_operation_at_a_time(cupy_backend: Any) -> None:
    def body(xp: Any, carry: Any, consts: Any, item: Any) -> Any:
        carry += xp.cumulative_sum(consts, axis=0)[-1, ...] + item
        return carry, xp.sum(carry)

    check(cupy_backend, body, np.zeros(4), np.ones((3, 4)), np.arange(3.0), plans=False)


def test_carried_arrays_that_change_places(cupy_backend: Any) -> None:
    def body(xp: Any, carry: Any, consts: Any, item: Any) -> Any:
        a, b, c = carry
        return (b, a, a + item * b), (a, c)

    rng = np.random.default_rng(0)
    check(cupy_backend, body, tuple(rng.standard_normal((3, 40, 50))), (), np.arange(5.0))


def test_carried_arrays_that_share_memory_are_told_apart(cupy_backend: Any) -> None:
    import cupy

    def body(xp: Any, carry: Any, consts: Any, item: Any) -> Any:
        a, b = carry
        a += consts * item
        return (a, b + 1.0), xp.sum(b)

    both = cupy.arange(12.0)
    (a, b), sums = compiled(body)((both[:8], both[4:]), both[:8], cupy.asarray(np.ones(2)))
    np.testing.assert_array_equal(cupy_backend.to_numpy(a), 3 * np.arange(8.0))
    np.testing.assert_array_equal(cupy_backend.to_numpy(b), np.arange(4.0, 12.0) + 2)
    np.testing.assert_array_equal(cupy_backend.to_numpy(sums), [60.0, 68.0])


def test_kernels_that_do_not_compile_run_one_operation_at_a_time(
    cupy_backend: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlp_xp_backends.compiler.targets.cuda import emit

    monkeypatch.setattr(emit, "PRELUDE", "this is not CUDA")

    def body(xp: Any, carry: Any, consts: Any, item: Any) -> Any:
        carry += xp.tanh(item)
        return carry, xp.sum(carry)

    with pytest.warns(UserWarning, match="NVRTC cannot compile"):
        total, _ = compiled(body)(cupy_backend.asarray(np.zeros(3)), (), cupy_backend.asarray(np.ones(2)))
    np.testing.assert_allclose(cupy_backend.to_numpy(total), 2 * np.tanh(1.0))
