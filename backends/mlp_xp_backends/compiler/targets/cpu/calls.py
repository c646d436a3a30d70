"""Each operation as calls of functions on preallocated arrays."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import prod
from typing import Any, NamedTuple

import numpy as np

from mlp_xp_backends.compiler.passes.sums import SHORT
from mlp_xp_backends.compiler.program import Kind, Op, Program, Value
from mlp_xp_backends.compiler.targets.cpu.blas import LETTER, Blas, Call
from mlp_xp_backends.compiler.targets.cpu.parts import LEAST, MOST, multiplications, parts
from mlp_xp_backends.compiler.targets.cpu.team import TEAM
from mlp_xp_backends.typing import HostArray

QUARTERS = 64_000_000
"""Multiplications of a product from which a team computes it in `MOST` parts, otherwise in two."""
ONE = {dtype: np.ones((), dtype) for dtype in LETTER}
ZERO = {dtype: np.zeros((), dtype) for dtype in LETTER}


class Machine(NamedTuple):
    """The memory, the BLAS and the threads of a program."""

    program: Program
    at: Callable[[Value], HostArray]
    """The array of each value."""
    blas: Blas | None
    threads: int
    """The threads of the `Team` to divide work between; 0 if they are those of the BLAS."""
    small: bool
    """Whether all work is done on one core."""

    def same_place(self, x: Value, y: Value) -> bool:
        """Whether two values have the same memory and layout."""
        return _are_one(self.at(x), self.at(y))


def _are_one(a: HostArray, b: HostArray) -> bool:
    return (a.ctypes.data, a.strides, a.shape) == (b.ctypes.data, b.strides, b.shape)


def calls(op: Op, machine: Machine) -> list[Call]:
    """The calls that carry out ``op``."""
    return CALLS[op.kind](op, machine)


def copied(out: HostArray, x: HostArray) -> Call:
    """``out[...] = x``."""
    return out.__setitem__, (Ellipsis, x)


def _begun(op: Op, x: Value, m: Machine) -> list[Call]:
    """The call that copies ``x`` to the result; none if they share their memory."""
    return [] if m.same_place(x, op.out) else [copied(m.at(op.out), m.at(x))]


def _elementwise(op: Op, m: Machine) -> list[Call]:
    f, inputs, out = getattr(np, op.name), tuple(map(m.at, op.inputs)), m.at(op.out)
    if f not in (np.maximum, np.minimum):
        return [(f, (*inputs, out))]
    for x, bound in (inputs, inputs[::-1]):  # three times as fast as `maximum` and `minimum` with a number
        if bound.shape == () and x.shape == out.shape and x.dtype == bound.dtype in LETTER:
            infinity = np.asarray(np.inf, x.dtype)
            return [(x.clip, (bound, infinity, out) if f is np.maximum else (-infinity, bound, out))]
    return [(partial(f, out=out), inputs)]  # NumPy deprecates their positional out


def _copy(op: Op, m: Machine) -> list[Call]:
    return [copied(m.at(op.out), m.at(op.inputs[0]))]


def _where(op: Op, m: Machine) -> list[Call]:
    condition, x, y = op.inputs
    return [*_begun(op, y, m), (np.copyto, (m.at(op.out), m.at(x), "same_kind", m.at(condition)))]


def _matmul(op: Op, m: Machine) -> list[Call]:
    a, b, out = *map(m.at, op.inputs), m.at(op.out)
    large = out.dtype in LETTER and multiplications(a, b) >= 2 * LEAST and not m.small
    found = _products(m, out, a, b, ONE[out.dtype], ZERO[out.dtype]) if large else None
    if found is not None:
        return found
    if m.blas is None or not m.blas.prefers_rows(a, b):
        return [(np.matmul, (a, b, out))]
    rows = np.empty(b.shape, b.dtype)
    return [copied(rows, b), (np.matmul, (a, rows, out))]


def _gemm(op: Op, m: Machine) -> list[Call]:
    a, b, alpha, *rest = op.inputs
    out, x, y, scale = m.at(op.out), m.at(a), m.at(b), m.at(alpha)
    beta = m.at(rest[0]) if rest else ZERO[op.out.dtype]
    first = _begun(op, rest[1], m) if rest else []
    found = _products(m, out, x, y, scale, beta)
    return first + (found or [(partial(_gemm_of_numpy, out, x, y), (scale, beta if rest else None))])


def _products(
    m: Machine, c: HostArray, a: HostArray, b: HostArray, alpha: HostArray, beta: HostArray
) -> list[Call] | None:
    """``c <- alpha a b + beta c`` for every matrix of a stack, large ones in parts; `None` if BLAS cannot."""
    if m.blas is None:
        return None
    stack, found = c.shape[:-2], []
    a, b = (np.broadcast_to(x, (*stack, *x.shape[-2:])) for x in (a, b))
    alpha, beta = (np.broadcast_to(s, (*stack, 1, 1)) for s in (alpha, beta))
    for k in np.ndindex(stack):
        of_part = m.blas.gemm if m.small or m.threads else m.blas.divided
        pieces = parts(c[k], a[k], b[k], (MOST if multiplications(a[k], b[k]) >= QUARTERS else 2) if m.threads else 1)
        calls = [call for x, y, z in pieces if (call := of_part(x, y, z, alpha[k], beta[k])) is not None]
        if len(calls) < len(pieces):
            return None
        found += calls if len(calls) == 1 or m.threads == 1 else [TEAM.call([[call] for call in calls])]
    return found


def _axpby(op: Op, m: Machine) -> list[Call]:
    x, alpha, beta, out = *map(m.at, op.inputs[:3]), m.at(op.out)
    stack, found = out.shape[:-2], _begun(op, op.inputs[3], m)
    alpha, beta = (np.broadcast_to(s, (*stack, 1, 1)) for s in (alpha, beta))
    for k in np.ndindex(stack):
        call = None if m.blas is None else m.blas.axpby(out[k], x[k], alpha[k], beta[k])
        found.append(call or (_axpby_of_numpy, (out[k], x[k], alpha[k], beta[k])))
    return found


def _axpby_of_numpy(y: HostArray, x: HostArray, alpha: HostArray, beta: HostArray) -> None:
    y *= beta
    y += alpha * x


def _gemm_of_numpy(out: HostArray, a: HostArray, b: HostArray, alpha: HostArray, beta: HostArray | None) -> None:
    product = alpha * np.matmul(a, b)
    out[...] = product if beta is None else product + beta * out


def _reduce(op: Op, m: Machine) -> list[Call]:
    (v,), axes, keepdims = op.inputs, op["axes"], op["keepdims"]
    x, out, f = m.at(v), m.at(op.out), REDUCTIONS[op.name]
    extreme = op.name in ("max", "min") and axes == (x.ndim - 1,) and x.flags.c_contiguous and x.size > 0
    if extreme and x.dtype == out.dtype:
        rows, flat = x.reshape(-1, x.shape[-1]), out.reshape(-1)
        if rows.shape[1] <= SHORT:  # NumPy reduces short rows one by one; of a transposed copy whole rows at a time
            turned = np.empty(rows.shape[::-1], x.dtype)
            return [copied(turned, rows.T), (f.reduce, (turned, 0, None, flat))]
        return [(f.reduceat, (rows.reshape(-1), np.arange(0, x.size, rows.shape[1]), 0, None, flat))]
    dtype = out.dtype if op.name in ("sum", "prod") else None
    return [(f.reduce, (x, axes[0] if len(axes) == 1 else axes, dtype, out, keepdims))]


def _arg(op: Op, m: Machine) -> list[Call]:
    x, axis = m.at(op.inputs[0]), op["axis"]
    out = m.at(op.out)
    if op["keepdims"]:
        out = out.reshape(()) if axis is None else out.squeeze(axis)
    return [(getattr(x, op.name), (axis, out))]


def _take(op: Op, m: Machine) -> list[Call]:
    x, indices = op.inputs
    unchecked = m.program.leaf_of(indices) is None
    return [(m.at(x).take, (m.at(indices), op["axis"], m.at(op.out), "raise" if unchecked else "clip"))]


def _concat(op: Op, m: Machine) -> list[Call]:
    axis = op["axis"]
    places = np.split(m.at(op.out), np.cumsum([v.shape[axis] for v in op.inputs])[:-1], axis)
    return [copied(place, m.at(v)) for place, v in zip(places, op.inputs, strict=True) if v.size]


def _pack(op: Op, m: Machine) -> list[Call]:
    """Copies of the operands that were not computed in place."""
    places = np.split(m.at(op.out), np.cumsum([v.size for v in op.inputs])[:-1])
    pairs = [(place.reshape(v.shape), m.at(v)) for place, v in zip(places, op.inputs, strict=True)]
    return [copied(place, x) for place, x in pairs if not _are_one(place, x)]


def _one_hot(op: Op, m: Machine) -> list[Call]:
    ids, n = m.at(op.inputs[0]), op["n"]
    columns = np.arange(n, dtype=np.promote_types(ids.dtype, np.min_scalar_type(n)))  # fastest in one dtype
    return [(np.equal, (np.expand_dims(ids, -1), columns, m.at(op.out)))]


def _segment_sum(op: Op, m: Machine) -> list[Call]:
    values, ids, out = m.at(op.inputs[0]), m.at(op.inputs[1]), m.at(op.out)
    *stack, n, _ = out.shape
    first = np.arange(prod(stack)).reshape(*stack, 1) * n  # the row of id 0 of each matrix
    unchecked = [] if m.program.leaf_of(op.inputs[1]) else [(_require_ids, (ids, n))]
    return [*unchecked, (_sum_by_id, (out, values, ids, first, np.empty(values.shape, np.intp)))]


def _require_ids(ids: HostArray, n: int) -> None:
    if ids.size and (ids.min() < 0 or ids.max() >= n):
        raise IndexError(f"segment_sum: ids must be at least 0 and below {n}")


def _sum_by_id(out: HostArray, values: HostArray, ids: HostArray, first: HostArray, places: HostArray) -> None:
    """Add each row of ``values`` to the row ``first + ids`` of ``out``, in order; ``places`` is scratch memory."""
    rows, columns = np.add(ids, first, dtype=np.intp, casting="unsafe"), np.arange(out.shape[-1])
    np.add(rows[..., None] * len(columns), columns, out=places)
    out[...] = 0
    np.add.at(out.reshape(-1), places.reshape(-1), values.reshape(-1))


def _lessen(op: Op, m: Machine) -> list[Call]:
    x, places = op.inputs
    flat, one = m.at(op.out).reshape(-1), np.ones((), op.out.dtype)
    return [*_begun(op, x, m), (np.subtract.at, (flat, m.at(places), one))]


def _all_sum(op: Op, m: Machine) -> list[Call]:
    return [(op["f"], (m.at(op.inputs[0]), m.at(op.out)))]


def _call(op: Op, m: Machine) -> list[Call]:
    return [(_assign, (m.at(op.out), op["f"], op["args"], dict(op["keywords"]), list(map(m.at, op.inputs))))]


def _assign(out: HostArray, f: Any, args: Any, keywords: dict[str, Any], inputs: list[HostArray]) -> None:
    given = iter(inputs)
    out[...] = f(*(next(given) if x is None else x[0] for x in args), **keywords)


REDUCTIONS: dict[str, np.ufunc] = {
    "sum": np.add,
    "prod": np.multiply,
    "max": np.maximum,
    "min": np.minimum,
    "any": np.logical_or,
    "all": np.logical_and,
}
CALLS: dict[Kind, Callable[[Op, Machine], list[Call]]] = {
    Kind.ELEMENTWISE: _elementwise,
    Kind.COPY: _copy,
    Kind.WHERE: _where,
    Kind.MATMUL: _matmul,
    Kind.GEMM: _gemm,
    Kind.AXPBY: _axpby,
    Kind.REDUCE: _reduce,
    Kind.ARG: _arg,
    Kind.TAKE: _take,
    Kind.CONCAT: _concat,
    Kind.PACK: _pack,
    Kind.ONE_HOT: _one_hot,
    Kind.SEGMENT_SUM: _segment_sum,
    Kind.LESSEN: _lessen,
    Kind.CALL: _call,
    Kind.ALL_SUM: _all_sum,
    Kind.VIEW: lambda op, m: [],
}
