"""Error bounds of any formula written against ``xp``: the math itself, run on numbers that carry their error.

`Bounds` is a namespace like that of a backend. Its arrays hold a value, computed by NumPy in float64, and a bound on
how far the same computation in the dtype under test may deviate from it. Every operation propagates the bounds of its
operands and adds its own rounding (running error analysis: Higham, Accuracy and Stability of Numerical Algorithms,
2nd ed. 2002, sec. 3.3). With the unit roundoff u, 2^-24 in float32 and 2^-53 in float64, an operation adds

========================================  ==========================================  =========================
operation                                 rounding it may add                         source
========================================  ==========================================  =========================
``+ - * /``, ``sqrt``                     ``u |y|``                                   IEEE 754; eq. 2.4
``matmul`` over K terms                   ``g(K) |A| |B|``                            eq. 3.13
``sum``, ``segment_sum`` of K terms         ``g(K - 1) sum |x|``                        eq. 4.4, any order
``mean`` of K terms                       ``g(K) sum |x| / K``                        eq. 4.4 and a division
``exp log log1p tanh logaddexp``          ``8 u |y|``                                 `FUNCTION_ULPS`
a Python number such as ``0.044715``      the error of rounding it to the dtype       exact
``max clip abs sign where take one_hot``    nothing                                     exact
a comparison within the bounds            both results are considered possible
every operation                           the smallest normal number                  flush to zero, eq. 2.8
========================================  ==========================================  =========================

with ``g(K) = k u / (1 - k u)`` and ``k = min(K, 4 sqrt(K))``: the worst case for sums up to 16 terms and, for longer
ones, the probabilistic bound of Higham and Mary (2019, SIAM J. Sci. Comput. 41, theorem 2.4) with lambda = 4, without
which a product of 784 terms could be computed with TF32's 11 bits and pass. Equations without a name are Higham's.

The reference is rounded as well: a result in float64 may differ from it by twice its bound.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np  # noqa: TID251  the reference is NumPy in float64

from mlp_xp.parity.bounded import Bounded, Truth
from mlp_xp_backends.numpy_namespace import xp
from mlp_xp_backends.typing import HostArray

FUNCTION_ULPS = 4
"""The error allowed for a library's exp, log or tanh, in units in the last place, 2 u each: the best are within 1,
CUDA's within 2 (CUDA C++ programming guide, sec. Mathematical Functions), fast vectorized ones within 4."""

MOVES = ("broadcast_to", "expand_dims", "matrix_transpose", "reshape", "squeeze", "take", "take_along_axis")
INCREASING = {"exp": -math.inf, "tanh": -math.inf, "log": 0.0, "log1p": -1.0}
"""Increasing functions, each with the lower end of its domain."""


class Bounds:
    """The namespace of `Bounded` arrays for computations in ``dtype``, ``"float32"`` or ``"float64"``.

    Integer arrays have no error and stay NumPy's.

    >>> bounds = Bounds("float32")
    >>> total = bounds.sum(bounds.bounded([0.1, 0.2]), axis=0)
    >>> error = abs(np.float32(0.1) + np.float32(0.2) - np.float64(total.value))
    >>> bool(error <= total.error < 1e-7)
    True
    """

    int32 = np.int32
    finfo = staticmethod(np.finfo)
    isdtype = staticmethod(np.isdtype)
    arange = staticmethod(np.arange)

    def __init__(self, dtype: str) -> None:
        self.dtype = np.dtype(dtype)
        self.u = float(np.finfo(self.dtype).eps) / 2.0
        self.tiny = float(np.finfo(self.dtype).tiny)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        """Return one of the functions listed in `MOVES` and `INCREASING`."""
        if name in MOVES:
            return self._move(getattr(np, name))
        if name in INCREASING:
            return self._increase(getattr(np, name), INCREASING[name])
        raise AttributeError(f"xp.{name} has no error bound: add its rule to {__name__}")

    # Exact operations

    def bounded(self, x: Any) -> Bounded:
        """Return ``x``, a number or an array, with the error of rounding it to ``dtype``."""
        if isinstance(x, Bounded):
            return x
        value = np.asarray(x, dtype=np.float64)
        return Bounded(self, value, np.abs(value - value.astype(self.dtype)))

    def astype(self, x: Any, dtype: Any, *, copy: bool = True) -> Any:
        """Uncertain booleans are between 0 and 1; integers are rounded."""
        if isinstance(x, Truth):
            return Bounded(self, x.value.astype(np.float64), x.doubt.astype(np.float64))
        if isinstance(x, Bounded):
            return x
        return self.bounded(x) if dtype == self.dtype else np.asarray(x).astype(dtype)

    def zeros(self, shape: tuple[int, ...], *, dtype: Any) -> Bounded:
        """Exact."""
        return self.bounded(np.zeros(shape))

    def ones(self, shape: tuple[int, ...], *, dtype: Any) -> Bounded:
        """Exact."""
        return self.bounded(np.ones(shape))

    def zeros_like(self, x: Bounded) -> Bounded:
        """Exact."""
        return self.bounded(np.zeros(x.shape))

    def abs(self, x: Bounded) -> Bounded:
        """Exact."""
        return abs(x)

    def one_hot(self, ids: HostArray, n: int, *, dtype: Any) -> Bounded:
        """Exact."""
        return self.bounded(xp.one_hot(ids, n, dtype=np.float64))

    def argmax(self, x: Any, *, axis: int) -> HostArray:
        """That of the values; it is only used on data, which have no error."""
        return np.asarray(np.argmax(x.value if isinstance(x, Bounded) else x, axis=axis))

    def stack(self, arrays: Sequence[Bounded]) -> Bounded:
        """Exact."""
        return Bounded(self, np.stack([x.value for x in arrays]), np.stack([x.error for x in arrays]))

    def max(self, x: Bounded, *, axis: int, keepdims: bool = False) -> Bounded:
        """Between the maximum of the lower bounds and the maximum of the upper bounds."""
        ends = (x.value, x.value - x.error, x.value + x.error)
        return self._between(*(np.max(end, axis=axis, keepdims=keepdims) for end in ends))

    def maximum(self, x: Any, y: Any) -> Bounded:
        """As `max`."""
        x, y = self.bounded(x), self.bounded(y)
        low = np.maximum(x.value - x.error, y.value - y.error)
        return self._between(np.maximum(x.value, y.value), low, np.maximum(x.value + x.error, y.value + y.error))

    def minimum(self, x: Any, y: Any) -> Bounded:
        """As `maximum`."""
        return -self.maximum(-self.bounded(x), -self.bounded(y))

    def clip(self, x: Any, *, min: float, max: float) -> Bounded:
        """As `maximum`."""
        return self.minimum(self.maximum(x, min), max)

    def sign(self, x: Bounded) -> Bounded:
        """Either sign where the bound includes 0."""
        return Bounded(self, np.sign(x.value), np.where(np.abs(x.value) < x.error, 2.0, 0.0))

    def where(self, condition: Truth | HostArray, x: Any, y: Any) -> Bounded:
        """Either of the two where the condition is uncertain."""
        c = condition if isinstance(condition, Truth) else Truth(condition)
        x, y = self.bounded(x), self.bounded(y)
        either = np.abs(x.value - y.value) + np.maximum(x.error, y.error)
        error = np.where(c.doubt, either, np.where(c.value, x.error, y.error))
        return Bounded(self, np.where(c.value, x.value, y.value), error)

    def _move(self, move: Callable[..., Any]) -> Callable[..., Any]:
        def moved(x: Any, *args: Any, **kwargs: Any) -> Any:
            if isinstance(x, Bounded):
                return Bounded(self, move(x.value, *args, **kwargs), move(x.error, *args, **kwargs))
            return move(x, *args, **kwargs)

        return moved

    # Rounded operations

    def rounded(self, value: HostArray, passed: HostArray, roundoffs: Any = 1.0) -> Bounded:
        """``value`` with the propagated bound and its own rounding, given in unit roundoffs."""
        return Bounded(self, value, passed + roundoffs * (self.u * (np.abs(value) + passed) + self.tiny))

    def growth(self, terms: int) -> float:
        """``g(terms)``: the rounding error of a sum, relative to the sum of magnitudes."""
        k = min(terms, 4.0 * math.sqrt(terms)) * self.u
        return k / (1.0 - k)

    def matmul(self, a: Bounded, b: Bounded) -> Bounded:
        """``|AB - fl(AB)| <= g(K) |A| |B|``."""
        size_b = np.abs(b.value) + b.error
        passed = np.abs(a.value) @ b.error + a.error @ size_b
        size = (np.abs(a.value) + a.error) @ size_b
        terms = a.shape[-1]
        return Bounded(self, a.value @ b.value, passed + self.growth(terms) * size + terms * self.tiny)

    def sum(self, x: Bounded, *, axis: Any, keepdims: bool = False) -> Bounded:
        """``g(K - 1)`` of the sum of magnitudes."""
        value, passed, size, terms = self._sums(x, axis, keepdims)
        return Bounded(self, value, passed + self.growth(terms - 1) * size + self.tiny)

    def mean(self, x: Bounded, *, axis: Any, keepdims: bool = False) -> Bounded:
        """``g(K)`` of the mean of magnitudes."""
        value, passed, size, terms = self._sums(x, axis, keepdims)
        return Bounded(self, value / terms, (passed + self.growth(terms) * size) / terms + self.tiny)

    def _sums(self, x: Bounded, axis: Any, keepdims: bool) -> tuple[HostArray, HostArray, HostArray, int]:
        """The sum, its propagated bound, the sum of magnitudes, and the number of terms."""
        parts = (x.value, x.error, np.abs(x.value) + x.error)
        value, passed, size = (np.asarray(np.sum(part, axis=axis, keepdims=keepdims)) for part in parts)
        return value, passed, size, x.value.size // value.size

    def segment_sum(self, values: Bounded, ids: HostArray, n: int) -> Bounded:
        """``g(K - 1)`` of the sum of magnitudes, K the largest number of rows with the same id; any order."""
        parts = (values.value, values.error, np.abs(values.value) + values.error)
        value, passed, size = (xp.segment_sum(part, ids, n) for part in parts)
        terms = int(np.max(xp.segment_sum(np.ones((*ids.shape, 1)), ids, n)))
        return Bounded(self, value, passed + self.growth(terms - 1) * size + self.tiny)

    def sqrt(self, x: Bounded) -> Bounded:
        """Correctly rounded, as IEEE 754 requires."""
        return self._increase(np.sqrt, 0.0, roundoffs=1.0)(x)

    def logaddexp(self, x: Any, y: Any) -> Bounded:
        """Increasing in both arguments."""
        x, y = self.bounded(x), self.bounded(y)
        ends = ((x.value + s * x.error, y.value + s * y.error) for s in (0.0, -1.0, 1.0))
        between = self._between(*(np.logaddexp(*end) for end in ends))
        return self.rounded(between.value, between.error, 2.0 * FUNCTION_ULPS)

    def _increase(
        self, f: Callable[[HostArray], HostArray], least: float, roundoffs: float = 2.0 * FUNCTION_ULPS
    ) -> Callable[[Bounded], Bounded]:
        """An increasing ``f`` with the domain ``[least, inf)``: it is between its values at both ends of the bound."""

        def increased(x: Bounded) -> Bounded:
            between = self._between(f(x.value), f(np.maximum(x.value - x.error, least)), f(x.value + x.error))
            return self.rounded(between.value, between.error, roundoffs)

        return increased

    def _between(self, value: HostArray, low: HostArray, high: HostArray) -> Bounded:
        return Bounded(self, value, np.maximum(high - value, value - low))
