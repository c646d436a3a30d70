"""Sums as products with ones: BLAS is faster than NumPy's reductions."""

from __future__ import annotations

import numpy as np

from mlp_xp_backends.compiler.passes.rewrite import REAL, factors, rewrite
from mlp_xp_backends.compiler.program import Kind, Op, Program, Value
from mlp_xp_backends.compiler.tape import Tape

SHORT = 64
"""Columns up to which rows are summed by products; NumPy is as fast on longer ones."""
BLOCK = 10_000
"""Elements of one product of two vectors: OpenBLAS divides longer ones between its threads, which changes the bits."""


def sums_as_products(program: Program) -> Program:
    """Rewrite sums over rows, over short rows and of squares as products.

    ``sum(x, axis=-2)`` becomes ``1' x``, ``sum(x, axis=-1, keepdims=True)`` of short rows ``x 1``, and
    ``sum(x * y, axis=(-2, -1))`` a product of vectors. Equal up to rounding. A matrix of a stack is summed like a
    matrix alone, so that both give the same bits; sums of vectors are not rewritten, because a stack of vectors looks
    like a matrix.
    """

    def rule(tape: Tape, op: Op) -> Value | None:
        product = _product(program, tape, op) if op.kind is Kind.REDUCE and op.name == "sum" else None
        return None if product is None else tape.reshape(product, op.out.shape)

    return rewrite(program, rule)


def _product(program: Program, tape: Tape, op: Op) -> Value | None:
    """The product that equals this sum, if there is one."""
    (x,), n = op.inputs, len(op.inputs[0].shape)
    if n < 2 or x.size == 0 or x.dtype != op.out.dtype or x.dtype not in REAL:
        return None
    *stack, rows, columns = x.shape
    if op["axes"] == (n - 2,):
        return _over_rows(tape, x)
    if op["axes"] == (n - 1,) and op["keepdims"] and columns <= SHORT:
        return _matmul(tape, x, tape.constant(np.ones((columns, 1), x.dtype)))
    product = [v for v in factors(program, x) if v.shape == x.shape and v.dtype == x.dtype and v.is_contiguous]
    if op["axes"] != (n - 2, n - 1) or len(product) != 2 or columns > BLOCK:
        return None
    blocks = next(k for k in range(1, rows + 1) if rows % k == 0 and rows // k * columns <= BLOCK)
    size = rows // blocks * columns
    shapes = (*stack, blocks, 1, size), (*stack, blocks, size, 1)
    row, column = (tape.reshape(v, shape) for v, shape in zip(product, shapes, strict=True))
    sums = tape.reshape(_matmul(tape, row, column), (*stack, blocks, 1))
    return sums if blocks == 1 else _over_rows(tape, sums)


def _matmul(tape: Tape, a: Value, b: Value) -> Value:
    return tape.emit(Kind.MATMUL, "matmul", (a, b))


def _over_rows(tape: Tape, x: Value) -> Value:
    return _matmul(tape, tape.constant(np.ones((1, x.shape[-2]), x.dtype)), x)
