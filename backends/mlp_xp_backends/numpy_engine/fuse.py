"""Rewriting: the same numbers, up to rounding, from fewer passes over memory."""

from __future__ import annotations

import numpy as np

from mlp_xp_backends.numpy_engine.blas import Blas
from mlp_xp_backends.numpy_engine.tape import Op, Program, Tape, Value

SHORT = 64
"""Rows up to this length are reduced column by column, or summed by a product with ones."""
LARGE = 65_536
"""Elements from which on longer rows are summed by a product: of fewer, cores that share them make the next wait."""


def fuse(program: Program, blas: Blas, alone: bool) -> None:
    """Sums over rows as products with ones; scaled products, sums and quotients as calls of ``blas``.

    ``alone`` says that all runs on one core.
    """
    tape = Tape()
    _sums_as_products(program, tape, alone)
    _Linear(program, tape, blas).run()
    program.live()


def _sums_as_products(program: Program, tape: Tape, alone: bool) -> None:
    """A sum over the rows or the columns of a matrix is a product with ones, and BLAS is faster than a reduction."""
    for op in program.ops:
        if op.kind != "reduce" or op.f is not np.add or op.out.dtype.kind != "f" or op.out.dtype.itemsize < 4:
            continue
        (x,), (axes, keepdims) = op.inputs, op.options
        if x.dtype != op.out.dtype or len(x.shape) != 2 or len(axes) != 1 or x.size == 0:
            continue
        if not alone and axes == (1,) and x.shape[1] > SHORT and x.size < LARGE:
            continue
        ones = tape.constant(np.ones((1, x.shape[0]) if axes == (0,) else (x.shape[1], 1), x.dtype))
        op.kind, op.f, op.options = "matmul", np.matmul, (() if keepdims else axes)
        op.inputs = (ones, x) if axes == (0,) else (x, ones)


class _Linear:
    """Finds ``alpha a b + beta c``, ``alpha x + beta y`` and ``alpha x / (y + beta)``.

    A product or a multiple is folded into what reads it only if nothing else does.
    """

    def __init__(self, program: Program, tape: Tape, blas: Blas) -> None:
        self.program, self.tape, self.blas = program, tape, blas
        self.readers = program.readers()
        self.kept = {id(v) for v in (*program.carry_out, *program.outs)}
        self.new: list[Op] = []

    def run(self) -> None:
        for op in self.program.ops:
            if op.kind == "ufunc" and op.out.dtype in (np.float32, np.float64) and self._uniform(op):
                if op.f is np.multiply:
                    self._scaled_product(op)
                    self._masked(op)
                elif op.f in (np.add, np.subtract):
                    self._sum(op)
                elif op.f is np.true_divide:
                    self._quotient(op)
            self.new.append(op)
        self.program.ops = self.new

    def _uniform(self, op: Op) -> bool:
        return all(v.dtype == op.out.dtype for v in op.inputs)

    def _alone(self, v: Value) -> bool:
        """Whether one operation reads ``v``, and nothing else does."""
        return len(self.readers.get(id(v), ())) == 1 and id(v) not in self.kept

    def _is(self, v: Value, *kinds: str) -> bool:
        return v.op is not None and v.op.kind in kinds and self._alone(v)

    def _scaled_product(self, op: Op) -> None:
        """``s (a b)`` as a gemm."""
        for x, s in (op.inputs, op.inputs[::-1]):
            if s.shape == () and x.op is not None and self._is(x, "matmul") and _matrices(x.op):
                op.kind, op.f, op.inputs = "gemm", None, (*x.op.inputs, s)
                return

    def _masked(self, op: Op) -> None:
        """``x`` times truth values: NumPy turns them into numbers as it goes, on one core as the product itself."""
        for v in op.inputs if op.kind == "ufunc" and not self.blas.block else ():
            if v.op is not None and self._is(v, "cast") and v.op.inputs[0].dtype == bool:
                op.inputs = tuple(v.op.inputs[0] if x is v else x for x in op.inputs)
                return

    def _sum(self, op: Op) -> None:
        """``c + a b`` and ``beta c - alpha a b`` as a gemm, ``beta y + alpha x`` as an axpby."""
        x, y = op.inputs
        negative = op.f is np.subtract
        pairs = [(x, y)] if negative else [(x, y), (y, x)]
        for c, p in pairs:
            if p.shape == op.out.shape and p.op is not None and self._is(p, "matmul", "gemm") and _matrices(p.op):
                self._gemm(op, c, p.op, negative)
                return
        for c, m in pairs:
            multiple = self._multiple(m) if c.shape == m.shape == op.out.shape != () else None
            if multiple is not None and c.like.flags.c_contiguous and multiple[0].like.flags.c_contiguous:
                scaled: tuple[Value, ...] | None = self._multiple(c)
                if scaled is None or not scaled[0].like.flags.c_contiguous:
                    scaled = (c,)
                op.kind, op.f = "axpby", None
                op.inputs = (scaled[0], multiple[0], self._signed(multiple[1], negative), *scaled[1:])
                return
        if self.blas.block and x.source is not None and x.shape == y.shape and y.like.flags.c_contiguous:
            op.kind, op.f = "axpby", None
            op.inputs = (x, y, self._signed(self.tape.constant(np.ones((), op.out.dtype)), negative))

    def _gemm(self, op: Op, c: Value, product: Op, negative: bool) -> None:
        one = self.tape.constant(np.ones((), op.out.dtype))
        alpha = product.inputs[2] if len(product.inputs) == 3 else one
        multiple = self._multiple(c) if c.shape == op.out.shape else None
        c, beta = multiple if multiple is not None else (c, one)
        op.kind, op.f = "gemm", None
        op.inputs = (*product.inputs[:2], self._signed(alpha, negative), beta, c)

    def _quotient(self, op: Op) -> None:
        """``alpha x / (y + beta)`` in one call, if the library has one."""
        above, below = self._multiple(op.inputs[0]), self._with_number(op.inputs[1], np.add)
        if above is not None and below is not None and op.out.size >= self.blas.large:
            values = (op.out, *above, *below)
            if self.blas.quotient(*(v.like for v in values)) is not None:
                op.kind, op.f, op.inputs = "quotient", None, values[1:]
                self._root(below[0])

    def _root(self, v: Value) -> None:
        """``sqrt(x)`` as ``sqrt(x + the smallest number)``, which is as good beside ``beta`` and never that of 0."""
        if self._is(v, "ufunc") and v.op is not None and v.op.f is np.sqrt and self._uniform(v.op):
            known = len(self.tape.ops)
            least = self.tape.constant(np.finfo(v.dtype).tiny)
            positive = self.tape.emit("ufunc", np.add, (*v.op.inputs, least), v.like)
            at = self.new.index(v.op)
            self.new[at:at] = self.tape.ops[known:]
            v.op.kind, v.op.f, v.op.inputs = "root", None, (positive,)

    def _multiple(self, v: Value) -> tuple[Value, Value] | None:
        """``(y, s)`` if ``v = s y`` for a number ``s``, and nothing else needs it."""
        return self._with_number(v, np.multiply)

    def _with_number(self, v: Value, f: np.ufunc) -> tuple[Value, Value] | None:
        """``(y, s)`` if ``v = f(y, s)`` or ``f(s, y)`` for a number ``s``, and nothing else needs it."""
        if self._is(v, "ufunc") and v.op is not None and v.op.f is f and self._uniform(v.op):
            for y, s in (v.op.inputs, v.op.inputs[::-1]):
                if s.shape == () and y.shape == v.shape:
                    return y, s
        return None

    def _signed(self, s: Value, negative: bool) -> Value:
        if not negative:
            return s
        if s.constant is not None:
            return self.tape.constant(-s.constant)
        known = len(self.tape.ops)
        value = self.tape.emit("ufunc", np.negative, (s,), np.empty((), s.dtype))
        self.new.extend(self.tape.ops[known:])
        return value


def _matrices(product: Op) -> bool:
    """Whether a product is of two matrices, not of vectors or stacks, with nothing added to it so far."""
    shapes = [v.shape for v in product.inputs[:2]]
    return (
        len(product.inputs) <= 3
        and product.options == ()
        and all(len(shape) == 2 and min(shape) > 1 for shape in shapes)
    )


def elementwise(op: Op) -> bool:
    """Whether element k of the result depends on element k of the operands and on single numbers alone."""
    if op.kind not in ("ufunc", "axpby", "quotient", "root") or op.out.shape == ():
        return False
    return all(v.shape == () or (v.shape == op.out.shape and v.root is v) for v in op.inputs)
