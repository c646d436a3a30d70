"""Sums as products with ones: BLAS is faster than NumPy's reductions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mlp_xp_backends.compiler.program import Kind, Op, Program, Value, new_value
from mlp_xp_backends.compiler.tape import Tape

DTYPES = (np.float32, np.float64)
SHORT = 64
"""Columns up to which rows are summed by products; NumPy is as fast on longer ones."""


def sums_as_products(program: Program) -> Program:
    """Rewrite ``sum(x, axis=-2)`` as ``1' x``, and ``sum(x, axis=-1, keepdims=True)`` of short rows as ``x 1``.

    Equal up to rounding. A matrix of a stack is summed like a matrix alone, so that both give the same bits. Sums of
    vectors are not rewritten, because a stack of vectors looks like a matrix.
    """
    tape, ops, seen = Tape(), [], {}
    for op in program.ops:
        if not _fits(op):
            ops.append(op)
            continue
        (x,), (rows, columns) = op.inputs, op.inputs[0].shape[-2:]
        over_rows = op["axes"] == (len(x.shape) - 2,)
        ones = tape.constant(np.ones((1, rows) if over_rows else (columns, 1), x.dtype))
        shape = (*x.shape[:-2], 1, columns) if over_rows else (*x.shape[:-1], 1)
        product = new_value(shape, x.dtype)
        ops.append(Op(Kind.MATMUL, "matmul", (ones, x) if over_rows else (x, ones), product))
        if op["keepdims"]:
            seen[op.out] = product
        else:
            seen[op.out] = Value(op.out.shape, x.dtype, op.out.strides, product)
            ops.append(Op(Kind.VIEW, "squeeze", (product,), seen[op.out], {"args": (-2,)}))
    return replace(program, ops=tuple(ops)).substituted(seen)


def _fits(op: Op) -> bool:
    if op.kind is not Kind.REDUCE or op.name != "sum" or op.out.dtype not in DTYPES:
        return False
    (x,) = op.inputs
    n = len(x.shape)
    if n < 2 or x.size == 0 or x.dtype != op.out.dtype:
        return False
    return op["axes"] == (n - 2,) or (op["axes"] == (n - 1,) and op["keepdims"] and x.shape[-1] <= SHORT)
