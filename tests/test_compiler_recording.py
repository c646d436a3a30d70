"""For any body, the compiled loop returns the same results, and raises the same errors, as the plain loop."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.compiler_cases import assert_compiled, f

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
        assert_compiled(body, (), np.abs(f((3, 4), 1)) + 1, np.abs(f((5, 3, 4), 2)) % 1)


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

    assert_compiled(body, f((4, 3), 4, dtype), (), f((6, 4, 3), 5, dtype))


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
    assert_compiled(body, (), (), f((4, 3, 2)), recorded=False)


def test_a_view_does_not_outlive_a_write() -> None:
    def body(xp: Any, c: Any, k: Any, x: Any) -> Any:
        t = c.mT
        c *= 2.0
        return c, t + 0.0

    assert_compiled(body, f((3, 3)), (), f((2, 1)), recorded=False)
