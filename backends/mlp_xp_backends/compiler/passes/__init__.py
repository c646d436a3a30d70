"""Rewritings of programs, from `Program` to `Program`; the tests state the law of each.

`verify` accepts the result of each. ``python -m benchmarks passes`` measures what each gains on this CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce

from mlp_xp_backends.compiler.passes.horizontal import horizontal_fusion
from mlp_xp_backends.compiler.passes.picks import picks
from mlp_xp_backends.compiler.passes.products import fused_products, sums_of_multiples
from mlp_xp_backends.compiler.passes.separate import separate
from mlp_xp_backends.compiler.passes.sums import sums_as_products
from mlp_xp_backends.compiler.program import Program

Pass = Callable[[Program], Program]
PASSES: tuple[Pass, ...] = (
    picks,
    sums_as_products,
    fused_products,
    horizontal_fusion,
    sums_of_multiples,
    separate,
)
"""The passes of the CPU in order; only `separate` is required."""


def rewritten(program: Program, passes: Sequence[Pass] = PASSES) -> Program:
    """The program after all passes."""
    return reduce(lambda before, rewrite: rewrite(before), passes, program)
