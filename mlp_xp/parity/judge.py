"""Run a case on a backend and compare its result with float64 NumPy's, in units of the error bound."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np  # noqa: TID251  the reference is NumPy in float64

from mlp_xp.parity.bounded import Bounded, Truth
from mlp_xp.parity.bounds import Bounds
from mlp_xp.parity.cases import Body, Case
from mlp_xp_backends import Backend
from mlp_xp_backends.loop import plain_loop
from mlp_xp_backends.numpy_namespace import xp
from mlp_xp_backends.trees import leaves, tree_map, unflatten
from mlp_xp_backends.typing import HostArray, Tree

RUN_TOLERANCE = 1e-5
"""Relative error (Frobenius) of each parameter after the run in float32; in float64 as much smaller as the unit
roundoff. A convention, not derived: bounds that grow with every step are useless after thirty."""


class Verdict(NamedTuple):
    """The judgement on one operation in one dtype."""

    operation: str
    dtype: str
    error: float
    """The largest error in units of its bound; infinite where there is no number to compare."""
    reason: str = ""
    """Why the error is infinite: the exception of the backend, or a wrong shape or dtype."""

    @property
    def ok(self) -> bool:
        """Whether all is within the bound."""
        return self.error <= 1.0


@dataclass(frozen=True, eq=False)
class Expected:
    """The expected value of a leaf of a result, its dtype (integers may differ in size), and its error bound."""

    value: HostArray
    error: Any
    dtype: np.dtype[Any]


def judge(case: Case, backend: Backend, dtype: str) -> list[Verdict]:
    """One verdict per row of ``case`` computed on ``backend``; never raises."""
    try:
        result = computed(case, backend, dtype)
    except Exception as error:  # an operation that a backend cannot do is a finding
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        return [Verdict(row, dtype, np.inf, reason) for row in case.rows]
    return verdicts(case, dtype, result)


def computed(case: Case, backend: Backend, dtype: str) -> Tree:
    """The result of ``case`` on ``backend`` in ``dtype``, on the host."""
    carry, consts, items = tree_map(lambda a: backend.asarray(_cast(a, dtype)), (case.carry, case.consts, case.items))
    return tree_map(backend.to_numpy, case.result(*_loop(backend, case.body)(carry, consts, items)))


@lru_cache(maxsize=64)
def _loop(backend: Backend, body: Body) -> Any:
    """The compiled loop; cases with the same body share it."""
    return backend.compile(body)


def verdicts(case: Case, dtype: str, result: Tree) -> list[Verdict]:
    """One verdict per row of ``case`` on its ``result``."""
    whole = (case.rows, result, expected(case, dtype))
    return [_verdict(row, dtype, leaves(a), leaves(e), case.run) for row, a, e in zip(*whole, strict=True)]


def _verdict(row: str, dtype: str, result: list[HostArray], expected: list[Expected], norm: bool) -> Verdict:
    """Compare dtypes, shapes, and then values."""
    largest = 0.0
    for a, e in zip(result, expected, strict=True):
        if a.dtype != e.dtype and not a.dtype.kind == e.dtype.kind == "i":  # libraries differ in their default integer
            return Verdict(row, dtype, np.inf, f"dtype {a.dtype} in place of {e.dtype}")
        if a.shape != e.value.shape:
            return Verdict(row, dtype, np.inf, f"shape {a.shape} in place of {e.value.shape}")
        largest = max(largest, _units(a, e, np.linalg.norm if norm else np.abs))
    return Verdict(row, dtype, largest)


def _units(a: HostArray, e: Expected, size: Callable[[HostArray], Any]) -> float:
    """The largest error in units of the bound; of all but floats the bound is 0."""
    if a.dtype.kind != "f":
        return 0.0 if np.array_equal(a, e.value) else np.inf
    units = np.asarray(size(a.astype(np.float64) - e.value)) / e.error
    return float(np.max(np.where(np.isnan(units), np.inf, units), initial=0.0))


@lru_cache(maxsize=256)
def expected(case: Case, dtype: str) -> Tree:
    """The result of ``case`` by NumPy in float64 from inputs rounded to ``dtype``, with the bound of each leaf."""
    inputs = tree_map(lambda a: _cast(a, dtype), (case.carry, case.consts, case.items))
    if case.run:
        return _expected_of_run(case, inputs, dtype)
    bounds = Bounds(dtype)
    carry, consts, items = tree_map(lambda a: bounds.bounded(a) if a.dtype.kind == "f" else a, inputs)
    outs = []
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        for i in range(len(leaves(case.items)[0])):
            carry, out = case.body(bounds, carry, consts, tree_map(lambda a, i=i: bounds.take(a, i, axis=0), items))
            outs.append(tree_map(_expectation, out))
    columns = zip(*map(leaves, outs), strict=True)
    return case.result(tree_map(_expectation, carry), unflatten(outs[0], (_stacked(column) for column in columns)))


def _expectation(a: Any) -> Expected:
    """What a leaf should be; the reference, itself rounded, adds its own share to the bound."""
    if isinstance(a, Bounded):
        return Expected(a.value, a.error * (1.0 + Bounds("float64").u / a.xp.u) + a.xp.tiny, a.dtype)
    value = np.asarray(a.value if isinstance(a, Truth) else a)
    return Expected(value, np.zeros(value.shape), value.dtype)


def _stacked(column: tuple[Expected, ...]) -> Expected:
    """The same leaf after all steps, along a leading axis."""
    return Expected(np.stack([e.value for e in column]), np.stack([e.error for e in column]), column[0].dtype)


def _expected_of_run(case: Case, inputs: Tree, dtype: str) -> Tree:
    """The run in float64 from the same inputs, each parameter to be met within a relative error."""
    carry, consts, items = tree_map(lambda a: a.astype(np.float64) if a.dtype.kind == "f" else a, inputs)
    tolerance = RUN_TOLERANCE * Bounds(dtype).u / Bounds("float32").u
    result = case.result(*plain_loop(xp, case.body, np.stack)(carry, consts, items))
    return tree_map(lambda a: Expected(a, tolerance * np.linalg.norm(a), np.dtype(dtype)), result)


def _cast(a: HostArray, dtype: str) -> HostArray:
    """A copy of ``a``, in ``dtype`` if it holds floats."""
    return np.array(a, dtype=dtype if a.dtype.kind == "f" else a.dtype)
