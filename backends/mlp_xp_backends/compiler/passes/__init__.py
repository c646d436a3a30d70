"""Rewritings of programs, from `Program` to `Program`; the tests state the law of each.

`verify` accepts the result of each. ``python -m benchmarks passes`` measures what each gains on this CPU.
"""

from __future__ import annotations

from collections.abc import Callable

from mlp_xp_backends.compiler.passes.horizontal import horizontal_fusion
from mlp_xp_backends.compiler.passes.multiples import sums_of_multiples
from mlp_xp_backends.compiler.passes.picks import picks
from mlp_xp_backends.compiler.passes.products import fused_products
from mlp_xp_backends.compiler.passes.sums import sums_as_products
from mlp_xp_backends.compiler.program import Program

Pass = Callable[[Program], Program]

__all__ = [
    "Pass",
    "fused_products",
    "horizontal_fusion",
    "picks",
    "sums_as_products",
    "sums_of_multiples",
]
