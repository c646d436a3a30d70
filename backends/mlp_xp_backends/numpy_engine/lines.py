"""One operation of a plan as lines of Python."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mlp_xp_backends.numpy_engine.blas import ONE, ZERO
from mlp_xp_backends.numpy_engine.calls import library_call
from mlp_xp_backends.numpy_engine.fuse import SHORT
from mlp_xp_backends.numpy_engine.names import Arrays, Names
from mlp_xp_backends.numpy_engine.onehot import OneHot, SumById
from mlp_xp_backends.numpy_engine.tape import NDArray, Op, Value

THREADED = 131_072
"""Elements from which on a sum of two arrays is worth the cores that OpenBLAS wakes for it."""

WIDE = 65_536
"""Elements from which on a row is repeated by all cores where they have a product for it."""


def lines(names: Names, op: Op) -> list[str]:
    """What carries out ``op``."""
    return LINES[op.kind](names, op)


def _ufunc(names: Names, op: Op) -> list[str]:
    x, y = op.inputs[0], op.inputs[-1]
    one = ONE.get(op.out.dtype)
    alike = y.shape == x.shape == op.out.shape and y.dtype == x.dtype == op.out.dtype
    if op.f is np.add and alike and one is not None and op.out.size >= THREADED and names.same_place(x, op.out):
        line = names.blas_line(op, lambda blas, at: blas.axpby(at(op.out), at(y), one))
        if line is not None:
            return [line]
    line = names.blas_line(op, lambda _, at: library_call(names.blas, op, at))
    if line is not None:
        return [line]
    return [f"{names.object(op.f)}({', '.join(map(names.array, op.inputs))}, out={names.array(op.out)})"]


def _axpby(names: Names, op: Op) -> list[str]:
    y, x, alpha, *beta = op.inputs
    if not beta and op.out.size >= THREADED:
        line = names.blas_line(op, lambda blas, at: blas.axpby(at(op.out), at(x), at(alpha)))
    else:
        line = names.blas_line(op, lambda _, at: library_call(names.blas, op, at))
    assert line is not None
    return [*names.start(op, y, names.array(op.out), names.array(y)), line]


def _call_of_library(names: Names, op: Op) -> list[str]:
    line = names.blas_line(op, lambda _, at: library_call(names.blas, op, at))
    assert line is not None
    return [line]


def _gemm(names: Names, op: Op) -> list[str]:
    a, b, alpha, *rest = op.inputs
    in_product = names.blas is not None and names.blas.flushes  # else its threads know nothing of `denormals`

    def beta(at: Arrays) -> NDArray:
        return at(rest[0]) if rest and in_product else ONE[op.out.dtype] if rest else ZERO[op.out.dtype]

    line = names.blas_line(op, lambda blas, at: blas.gemm(at(op.out), at(a), at(b), at(alpha), beta(at)))
    out = names.array(op.out)
    product = f"{names.array(alpha)} * {names.object(np.matmul)}({names.array(a)}, {names.array(b)})"
    if not rest:
        return [line or f"{out}[...] = {product}"]
    factor, c = rest
    first = _repeated(names, op, c) or names.start(op, c, out, names.array(c))
    if (factor.constant is None or factor.constant != 1) and not (line and in_product):
        first.append(f"{names.object(np.multiply)}({out}, {names.array(factor)}, out={out})")
    return [*first, line or f"{out}[...] += {product}"]


def _repeated(names: Names, op: Op, row: Value) -> list[str]:
    """The line that makes every row of the result ``row``: a product with a column of ones, where that is faster."""
    rows, n = op.out.shape
    if names.blas is None or not names.blas.block or op.out.size < WIDE or row.shape not in ((n,), (1, n)):
        return []
    ones = np.ones((rows, 1), op.out.dtype)
    one, zero = ONE[op.out.dtype], ZERO[op.out.dtype]
    line = names.blas_line(op, lambda blas, at: blas.gemm(at(op.out), ones, at(row).reshape(1, n), one, zero), "first")
    return [line] if line else []


def _matmul(names: Names, op: Op) -> list[str]:
    a, b = op.inputs
    out, one, zero = names.array(op.out), ONE.get(op.out.dtype), ZERO.get(op.out.dtype)

    def whole(at: Arrays) -> NDArray:
        """The result, with the axis that a sum was taken over."""
        return np.expand_dims(at(op.out), op.options)

    if one is not None and zero is not None:
        line = names.blas_line(op, lambda blas, at: blas.gemm(whole(at), at(a), at(b), one, zero))
        if line is not None:
            return [line]
    out = names.bound(("whole", id(op)), "v", whole)
    return [f"{names.object(np.matmul)}({names.array(a)}, {names.array(b)}, {out})"]


def _reduce(names: Names, op: Op) -> list[str]:
    axes, keepdims = op.options
    (x,) = op.inputs
    f = names.bound(("reduce", op.f), f"{op.f.__name__}_reduce", lambda _: op.f.reduce)
    if len(x.shape) == 2 and axes == (1,) and x.dtype == op.out.dtype and 1 < x.shape[1] <= SHORT:
        # NumPy reduces short rows one by one; of a transposed copy it adds up whole rows
        turned = names.object(np.empty(x.shape[::-1], x.dtype))
        source = names.bound(("turned", id(x)), "v", lambda at: at(x).T)
        return [f"{turned}[...] = {source}", f"{f}({turned}, 0, None, {_flat(names, op.out)})"]
    extreme = op.f in (np.maximum, np.minimum) and x.size > 0
    if extreme and len(x.shape) == 2 and axes == (1,) and x.like.flags.c_contiguous:
        # for which reduceat has the faster loop
        f = names.bound(("reduceat", op.f), f"{op.f.__name__}_reduceat", lambda _: op.f.reduceat)
        starts = names.object(np.arange(0, x.size, x.shape[1]))
        return [f"{f}({_flat(names, x)}, {starts}, 0, None, {_flat(names, op.out)})"]
    dtype = names.object(op.out.dtype) if op.f in (np.add, np.multiply) else "None"
    return [f"{f}({names.array(x)}, {axes}, {dtype}, {names.array(op.out)}, {keepdims})"]


def _flat(names: Names, v: Value) -> str:
    """All elements of a contiguous array in one row."""
    return names.bound(("flat", id(v)), "v", lambda at: at(v).reshape(-1))


def _arg(names: Names, op: Op) -> list[str]:
    axis, keepdims = op.options
    return [f"{names.object(op.f)}({names.array(op.inputs[0])}, {axis}, {names.array(op.out)}, keepdims={keepdims})"]


def _cast(names: Names, op: Op) -> list[str]:
    return [f"{names.array(op.out)}[...] = {names.array(op.inputs[0])}"]


def _where(names: Names, op: Op) -> list[str]:
    condition, x, y = op.inputs
    out = names.array(op.out)
    first = names.start(op, y, out, names.array(y))
    return [*first, f"{names.object(np.copyto)}({out}, {names.array(x)}, where={names.array(condition)})"]


def _take(names: Names, op: Op) -> list[str]:
    a, rows = op.inputs
    mode = "clip" if row_numbers(op) is not None else "raise"
    take = names.bound(("take", id(a)), "take", lambda at: at(a).take)
    return [f"{take}({names.array(rows)}, {op.options[0]}, {names.array(op.out)}, {mode!r})"]


def row_numbers(op: Op) -> int | None:
    """The item that a take reads its row numbers from, if they are one: they are checked for all steps at once."""
    source = op.inputs[1].root.source if op.kind == "take" else None
    return source[1] if source is not None and source[0] == "item" else None


def _concat(names: Names, op: Op) -> list[str]:
    axis = op.options[0]
    stops = np.cumsum([v.shape[axis] for v in op.inputs]).tolist()

    def line(v: Value, stop: int) -> str:
        key = (*[slice(None)] * axis, slice(stop - v.shape[axis], stop))
        return f"{names.bound(('part', id(op), stop), 'part', lambda at: at(op.out)[key])}[...] = {names.array(v)}"

    return [line(v, stop) for v, stop in zip(op.inputs, stops, strict=True) if v.size]


def _pack(names: Names, op: Op) -> list[str]:
    """What is not in its place already, copied there."""
    places = names.layout.places
    base = places[id(op.out)]
    stops = np.cumsum([v.size for v in op.inputs]).tolist()

    def there(at: Arrays, v: Value, stop: int) -> NDArray:
        return at(op.out)[stop - v.size : stop].reshape(v.shape)

    def line(v: Value, stop: int) -> str:
        return f"{names.bound(('part', id(op), stop), 'part', lambda at: there(at, v, stop))}[...] = {names.array(v)}"

    return [
        line(v, stop)
        for v, stop in zip(op.inputs, stops, strict=True)
        if v.root is not v or places.get(id(v)) != base._replace(offset=base.offset + stop - v.size)
    ]


def _onehot(names: Names, op: Op) -> list[str]:
    (ids,) = op.inputs
    return [f"{names.bound(('onehot', id(op)), 'onehot', lambda at: OneHot(at(op.out), at(ids)))}()"]


def _lessen(names: Names, op: Op) -> list[str]:
    x, places = op.inputs
    one = names.object(np.ones((), op.out.dtype))
    first = names.start(op, x, names.array(op.out), names.array(x))
    return [*first, f"{names.object(np.subtract.at)}({_flat(names, op.out)}, {names.array(places)}, {one})"]


def _scatter(names: Names, op: Op) -> list[str]:
    ids, rows = op.inputs
    return [f"{names.bound(('scatter', id(op)), 'scatter', lambda at: SumById(at(op.out), at(ids), at(rows)))}()"]


def _call(names: Names, op: Op) -> list[str]:
    frozen, options = op.options
    inputs = iter(map(names.array, op.inputs))
    args = [next(inputs) if x is None else names.object(x[0]) for x in frozen]
    args += [f"{key}={names.object(value)}" for key, value in options]
    return [f"{names.array(op.out)}[...] = {names.object(op.f)}({', '.join(args)})"]


LINES: dict[str, Callable[[Names, Op], list[str]]] = {
    "ufunc": _ufunc,
    "axpby": _axpby,
    "quotient": _call_of_library,
    "root": _call_of_library,
    "gemm": _gemm,
    "matmul": _matmul,
    "reduce": _reduce,
    "arg": _arg,
    "cast": _cast,
    "where": _where,
    "take": _take,
    "concat": _concat,
    "onehot": _onehot,
    "scatter": _scatter,
    "lessen": _lessen,
    "pack": _pack,
    "call": _call,
    "view": lambda names, op: [],
}
