"""Rewritings of programs, each `Program` to `Program`, each with a law of its own that is tested.

`verify` holds after every one of them. What they are worth on the CPU at hand: ``python -m benchmarks passes``.
"""

from __future__ import annotations

from collections.abc import Callable

from mlp_xp_backends.compiler.passes.horizontal import horizontal_fusion
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
]
