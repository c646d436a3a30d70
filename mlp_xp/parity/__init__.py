"""Parity: check whether a backend computes the same as NumPy in float64, within derived error bounds.

``python -m mlp_xp parity`` judges the backends of a machine; `run` does the same from Python. The bounds are defined in
`mlp_xp.parity.bounds`, the operations in `mlp_xp.parity.cases`.
"""

from __future__ import annotations

from mlp_xp.parity.bounds import Bounds
from mlp_xp.parity.cases import Case, cases
from mlp_xp.parity.judge import Verdict, judge
from mlp_xp.parity.report import Report, run

__all__ = ["Bounds", "Case", "Report", "Verdict", "cases", "judge", "run"]
