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
"""The largest relative error (Frobenius norm) of each parameter after the run in float32; in float64, it is smaller in
proportion to the unit roundoff. It is a convention, not derived: after thirty steps, derived bounds are useless."""


class Verdict(NamedTuple):
    """The result of comparing one operation in one dtype.

    >>> Verdict("ReLU forward", "float32", 0.25).ok, Verdict("ReLU forward", "float32", 3.0).ok
    (True, False)
    """

    operation: str
    dtype: str
    error: float
    """The largest error in units of its bound; infinite if there is no number to compare."""
    reason: str = ""
    """Why the error is infinite: the exception of the backend, or a wrong shape or dtype."""

    @property
    def ok(self) -> bool:
        """Whether the error is within its bound."""
        return self.error <= 1.0


@dataclass(frozen=True, eq=False)
class Expected:
    """The expected value of a leaf of a result, its dtype (the size of integers may differ), and its error bound."""

    value: HostArray
    error: Any
    dtype: np.dtype[Any]


def judge(case: Case, backend: Backend, dtype: str) -> list[Verdict]:
    """Compute ``case`` on ``backend`` and return one `Verdict` per row; errors of the backend become verdicts.

    ``dtype`` is ``"float32"`` or ``"float64"``.

    >>> from mlp_xp.parity import cases
    >>> all(verdict.ok for verdict in judge(cases()[0], get_backend("cpu"), "float32"))
    True
    """
    try:
        result = computed(case, backend, dtype)
    except Exception as error:  # an operation that fails on a backend is a result
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        return [Verdict(row, dtype, np.inf, reason) for row in case.rows]
    return verdicts(case, dtype, result)


def computed(case: Case, backend: Backend, dtype: str) -> Tree:
    """The result of ``case`` on ``backend`` in ``dtype``, on the host."""
    carry, consts, items = tree_map(lambda a: backend.asarray(_cast(a, dtype)), (case.carry, case.consts, case.items))
    return tree_map(backend.to_numpy, case.result(*_loop(backend, case.body)(carry, consts, items)))


@lru_cache(maxsize=64)
def _loop(backend: Backend, body: Body) -> Any:
    """The compiled loop, which cases with the same body share."""
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
            return Verdict(row, dtype, np.inf, f"expected dtype {e.dtype}, got {a.dtype}")
        if a.shape != e.value.shape:
            return Verdict(row, dtype, np.inf, f"expected shape {e.value.shape}, got {a.shape}")
        largest = max(largest, _units(a, e, np.linalg.norm if norm else np.abs))
    return Verdict(row, dtype, largest)


def _units(a: HostArray, e: Expected, size: Callable[[HostArray], Any]) -> float:
    """The largest error in units of the bound, which is 0 for integers and booleans."""
    if a.dtype.kind != "f":
        return 0.0 if np.array_equal(a, e.value) else np.inf
    units = np.asarray(size(a.astype(np.float64) - e.value)) / e.error
    return float(np.max(np.where(np.isnan(units), np.inf, units), initial=0.0))


@lru_cache(maxsize=256)
def expected(case: Case, dtype: str) -> Tree:
    """The result of ``case``, computed by NumPy in float64 from inputs rounded to ``dtype``, with its bounds."""
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
    """The expectation for a leaf; the reference is rounded too, and adds its own error to the bound."""
    if isinstance(a, Bounded):
        return Expected(a.value, a.error * (1.0 + Bounds("float64").u / a.xp.u) + a.xp.tiny, a.dtype)
    value = np.asarray(a.value if isinstance(a, Truth) else a)
    return Expected(value, np.zeros(value.shape), value.dtype)


def _stacked(column: tuple[Expected, ...]) -> Expected:
    """The same leaf of all steps, stacked along a leading axis."""
    return Expected(np.stack([e.value for e in column]), np.stack([e.error for e in column]), column[0].dtype)


def _expected_of_run(case: Case, inputs: Tree, dtype: str) -> Tree:
    """The parameters after the run in float64 from the same inputs, with a bound on the relative error of each."""
    carry, consts, items = tree_map(lambda a: a.astype(np.float64) if a.dtype.kind == "f" else a, inputs)
    tolerance = RUN_TOLERANCE * Bounds(dtype).u / Bounds("float32").u
    result = case.result(*plain_loop(xp, case.body, np.stack)(carry, consts, items))
    return tree_map(lambda a: Expected(a, tolerance * np.linalg.norm(a), np.dtype(dtype)), result)


def _cast(a: HostArray, dtype: str) -> HostArray:
    """A copy of ``a``, in ``dtype`` if it holds floats."""
    return np.array(a, dtype=dtype if a.dtype.kind == "f" else a.dtype)
