"""Products with a scaled sum, ``alpha a b + beta c``, as one gemm of BLAS for each matrix.

A matrix of a stack is rounded like a matrix alone, whether its ``alpha`` and ``beta`` are those of all or its own.
"""

from __future__ import annotations

import numpy as np

from mlp_xp_backends.compiler.passes.chains import packable
from mlp_xp_backends.compiler.program import Kind, Op, Program, Value
from mlp_xp_backends.compiler.tape import Tape

DTYPES = (np.float32, np.float64)


def fused_products(program: Program) -> Program:
    """Rewrite ``c + a b``, ``beta c - alpha (a b)`` and similar sums as one gemm, ``s (a b)`` as one without ``c``.

    Equal up to rounding. A product or a multiple is fused only if no other operation reads it, and not with an update
    that is `packable`.
    """
    return _Products(program).run()


class Fusion:
    """Rewrites elementwise operations of BLAS's dtypes into larger operations, in order."""

    def __init__(self, program: Program) -> None:
        self.program, self.tape = program, Tape()
        self.made = dict(program.makers)

    def run(self) -> Program:
        """The rewritten program."""
        ops: list[Op] = []
        for op in self.program.ops:
            known = len(self.tape.ops)
            new = self.fused(op) if _uniform(op) else None
            ops += [*self.tape.ops[known:], new or op]
            self.made[op.out] = new or op
        return self.program.with_ops(ops)

    def fused(self, op: Op) -> Op | None:
        """The operation that replaces ``op``, if any."""
        raise NotImplementedError

    def multiple(self, v: Value) -> tuple[Value | None, Value]:
        """``(s, y)`` if ``v = s y`` for a number ``s`` and has no other reader; otherwise ``(None, v)``."""
        op = self.made.get(v)
        if op is not None and op.name == "multiply" and _uniform(op) and self.program.only_reader(v) is not None:
            for y, s in (op.inputs, op.inputs[::-1]):
                if is_factor(s, v) and y.shape == v.shape:
                    return s, y
        return None, v

    def number(self, x: float, like: Value) -> Value:
        """A constant of the same dtype as ``like``."""
        return self.tape.constant(np.asarray(x, like.dtype))

    def negative(self, s: Value) -> Value:
        """``-s``."""
        if s.constant is not None:
            return self.tape.constant(np.negative(s.constant))
        return self.tape.emit(Kind.ELEMENTWISE, "negative", (s,), s.dtype, loop=(s.dtype,))


class _Products(Fusion):
    def __init__(self, program: Program) -> None:
        super().__init__(program)
        self.apart = packable(program)

    def fused(self, op: Op) -> Op | None:
        if op.name not in ("multiply", "add", "subtract") or op in self.apart:
            return None
        x, y = op.inputs
        for c, p in ((x, y), (y, x)) if op.name != "subtract" else ((x, y),):
            product = self._product(p)
            if product is None or p.shape != op.out.shape:
                continue
            if op.name == "multiply":
                if is_factor(c, op.out) and product.kind is Kind.MATMUL:
                    return Op(Kind.GEMM, "", (*product.inputs, c), op.out)
                continue
            alpha = product.inputs[2] if product.kind is Kind.GEMM else self.number(1, op.out)
            beta, rest = self.multiple(c) if c.shape == op.out.shape else (None, c)
            alpha = self.negative(alpha) if op.name == "subtract" else alpha
            inputs = (*product.inputs[:2], alpha, beta or self.number(1, op.out), rest)
            return Op(Kind.GEMM, "", inputs, op.out)
        return None

    def _product(self, v: Value) -> Op | None:
        """The product of matrices that computes ``v``, if no other operation reads it."""
        op = self.made.get(v)
        if op is None or self.program.only_reader(v) is None or op.kind not in (Kind.MATMUL, Kind.GEMM):
            return None
        return op if len(op.inputs) <= 3 and all(min(x.shape[-2:]) > 1 for x in op.inputs[:2]) else None


def is_factor(s: Value, of: Value) -> bool:
    """Whether ``s`` is 0-d or has a number for each matrix of a stack such as ``of``."""
    return s.shape == () or (s.shape[-2:] == (1, 1) and s.shape[:-2] in ((), of.shape[:-2]))


def _uniform(op: Op) -> bool:
    """Whether this is elementwise, and operands and result share one dtype that BLAS supports."""
    return op.kind is Kind.ELEMENTWISE and op.out.dtype in DTYPES and all(v.dtype == op.out.dtype for v in op.inputs)
