"""Scaled sums as one call of BLAS for each matrix: ``alpha a b + beta c`` (gemm) and ``alpha x + beta y`` (axpby).

A matrix of a stack is rounded like a matrix alone, whether its ``alpha`` and ``beta`` are those of all or its own. A
product or a multiple is fused only if no other operation reads it.
"""

from __future__ import annotations

from math import prod

import numpy as np

from mlp_xp_backends.compiler.forms import is_factor
from mlp_xp_backends.compiler.passes.chains import LARGER, packable
from mlp_xp_backends.compiler.passes.rewrite import is_real, rewrite
from mlp_xp_backends.compiler.program import Kind, Op, Program, Value
from mlp_xp_backends.compiler.tape import Tape

SMALL, INNER = 262_144, 128
"""Multiplications and columns of ``a`` up to which NumPy multiplies a stack faster in one call."""


def fused_products(program: Program) -> Program:
    """Rewrite ``c + a b``, ``beta c - alpha (a b)`` and similar sums as one gemm, ``s (a b)`` as one without ``c``.

    Equal up to rounding. Updates that are `packable` and sums of `_fast_together` are left alone.
    """
    apart = packable(program)

    def rule(tape: Tape, op: Op) -> Value | None:
        if op in apart:
            return None
        s, p = _factors(op)
        product = _product(program, p)
        if s is not None and product is not None:
            return tape.emit(Kind.GEMM, "", (*product.inputs, s))
        for c, p in _sides(op):
            alpha, p = _multiple(program, p)
            product = _product(program, p)
            if product is not None and p.shape == op.out.shape:
                beta, c = _multiple(program, c) if c.shape == op.out.shape else (None, c)
                if alpha is beta is None and op.name == "add" and _fast_together(*product.inputs):
                    return None
                return tape.emit(Kind.GEMM, "", (*product.inputs, *_scales(tape, op, alpha, beta), c))
        return None

    return rewrite(program, rule)


def sums_of_multiples(program: Program) -> Program:
    """Rewrite ``beta y + alpha x``, ``y - alpha x`` and similar sums of large matrices as one axpby.

    This is one pass over memory, not three. Equal up to rounding. Arrays of a size that may be packed are left alone,
    so that a model of a stack is rounded like a model alone.
    """

    def rule(tape: Tape, op: Op) -> Value | None:
        if len(op.out.shape) < 2 or prod(op.out.shape[-2:]) <= LARGER:
            return None
        for y, multiple in _sides(op):
            alpha, x = _multiple(program, multiple)
            if alpha is not None and y.shape == x.shape == op.out.shape and x.is_contiguous:
                beta, y = _multiple(program, y)
                return tape.emit(Kind.AXPBY, "", (x, *_scales(tape, op, alpha, beta), y))
        return None

    return rewrite(program, rule)


def _sides(op: Op) -> tuple[tuple[Value, ...], ...]:
    """The operands of a sum or difference, so that the second is added or subtracted."""
    if op.name not in ("add", "subtract") or not is_real(op):
        return ()
    return (op.inputs, op.inputs[::-1]) if op.name == "add" else (op.inputs,)


def _factors(op: Op) -> tuple[Value | None, Value]:
    """``(s, y)`` if the operation computes ``s y`` for a number ``s`` of all matrices or one of each."""
    if op.name == "multiply" and is_real(op):
        for y, s in (op.inputs, op.inputs[::-1]):
            if is_factor(s, op.out.shape) and y.shape == op.out.shape:
                return s, y
    return None, op.out


def _multiple(program: Program, v: Value) -> tuple[Value | None, Value]:
    """``(s, y)`` if ``v = s y`` and has no other reader; otherwise ``(None, v)``."""
    op = program.makers.get(v)
    return (None, v) if op is None or program.only_reader(v) is None else _factors(op)


def _product(program: Program, v: Value) -> Op | None:
    """The product of matrices that computes ``v``, if it has no other reader."""
    op = program.makers.get(v)
    if op is None or op.kind is not Kind.MATMUL or program.only_reader(v) is None:
        return None
    return op if all(min(x.shape[-2:]) > 1 for x in op.inputs) else None


def _fast_together(a: Value, b: Value) -> bool:
    """Whether ``a b + c`` of a stack is faster as two calls of NumPy than as one of BLAS for each matrix.

    The bits are the same: BLAS adds the finished sum over so few columns of ``a`` to ``c``.
    """
    multiplications = prod(a.shape[-2:]) * b.shape[-1]
    is_stack = prod(a.shape[:-2]) > 1 or prod(b.shape[:-2]) > 1
    return is_stack and b.is_contiguous and a.shape[-1] <= INNER and multiplications <= SMALL


def _scales(tape: Tape, op: Op, alpha: Value | None, beta: Value | None) -> tuple[Value, Value]:
    """The factors ``alpha`` or 1, negative in a difference, and ``beta`` or 1."""
    one = tape.constant(np.ones((), op.out.dtype))
    alpha, beta = alpha or one, beta or one
    if op.name == "add":
        return alpha, beta
    if alpha.constant is not None:
        return tape.constant(np.negative(alpha.constant)), beta
    return tape.emit(Kind.ELEMENTWISE, "negative", (alpha,), alpha.dtype, loop=(alpha.dtype,)), beta
