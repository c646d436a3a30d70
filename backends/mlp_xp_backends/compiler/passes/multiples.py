"""Sums of multiples, ``alpha x + beta y``, as one axpby of BLAS for each matrix: one pass over memory, not three."""

from __future__ import annotations

from math import prod

from mlp_xp_backends.compiler.passes.chains import LARGER
from mlp_xp_backends.compiler.passes.products import Fusion
from mlp_xp_backends.compiler.program import Kind, Op, Program


def sums_of_multiples(program: Program) -> Program:
    """Rewrite ``beta y + alpha x``, ``y - alpha x`` and similar sums of large matrices as one axpby.

    Equal up to rounding. A multiple is fused only if no other operation reads it. Arrays of a size that may be packed
    are left alone, so that a model of a stack is rounded like a model alone.
    """
    return _Sums(program).run()


class _Sums(Fusion):
    def fused(self, op: Op) -> Op | None:
        if op.name not in ("add", "subtract") or len(op.out.shape) < 2 or prod(op.out.shape[-2:]) <= LARGER:
            return None
        x, y = op.inputs
        for rest, multiple in ((x, y), (y, x)) if op.name == "add" else ((x, y),):
            alpha, term = self.multiple(multiple)
            if alpha is None or not (rest.shape == term.shape == op.out.shape and term.is_contiguous):
                continue
            beta, rest = self.multiple(rest)
            alpha = self.negative(alpha) if op.name == "subtract" else alpha
            return Op(Kind.AXPBY, "", (term, alpha, beta or self.number(1, op.out), rest), op.out)
        return None
