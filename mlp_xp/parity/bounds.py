"""Error bounds of any formula written against ``xp``: the math itself, run on numbers that carry their error.

`Bounds` is a namespace like that of a backend. Its arrays hold a value, computed by NumPy in float64, and a bound on
how far the same computation in the dtype under test may end from it. Every operation passes on the bounds of its
operands and adds its own rounding (running error analysis: Higham, Accuracy and Stability of Numerical Algorithms,
2nd ed. 2002, sec. 3.3). With the unit roundoff u, 2^-24 in float32 and 2^-53 in float64, an operation adds

========================================  ==========================================  =========================
operation                                 rounding it may add                         source
========================================  ==========================================  =========================
``+ - * /``, ``sqrt``                     ``u |y|``                                   IEEE 754; eq. 2.4
``matmul`` over K terms                   ``g(K) |A| |B|``                            eq. 3.13
``sum`` of K terms                        ``g(K - 1) sum |x|``                        eq. 4.4, any order
``mean`` of K terms                       ``g(K) sum |x| / K``                        the same and a division
``exp log log1p tanh logaddexp``          ``8 u |y|``                                 `FUNCTION_ULPS`
a Python number such as ``0.044715``      what rounding it to the dtype changes       exact
``max maximum abs where take reshape``    nothing                                     exact
a comparison of numbers within bounds     both answers are taken to be possible
everything                                the smallest normal number                  flush to zero, eq. 2.8
========================================  ==========================================  =========================

with ``g(K) = k u / (1 - k u)`` and ``k = min(K, 4 sqrt(K))``: the worst case for short sums and, for long ones, the
probabilistic bound of Higham and Mary (2019, SIAM J. Sci. Comput. 41, theorem 2.4) at four standard deviations,
without which a product of 784 terms could be computed with TF32's 11 bits and pass.

The reference is rounded as well: a result in float64 may differ from it by twice its bound.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np  # noqa: TID251  the reference is NumPy in float64

HostArray = np.ndarray[Any, Any]

FUNCTION_ULPS = 4
"""Units in the last place (2 u) by which exp, log and tanh of a library may be off. CUDA's and SLEEF's are within 2,
NumPy's vectorized ones within 4; see the CUDA C++ programming guide, sec. "Mathematical functions"."""


class Truth:
    """Booleans, and where rounding could turn them."""

    __array_ufunc__ = None

    def __init__(self, value: HostArray, doubt: HostArray | bool = False) -> None:
        self.value = value
        self.doubt = np.broadcast_to(doubt, np.shape(value))

    def __and__(self, other: Truth) -> Truth:
        return Truth(self.value & other.value, self.doubt | other.doubt)

    def __eq__(self, other: Any) -> Truth:  # type: ignore[override]
        other = other if isinstance(other, Truth) else Truth(other)
        return Truth(self.value == other.value, self.doubt | other.doubt)

    __hash__ = None  # type: ignore[assignment]


class Bounded:
    """An array of float64 ``value`` that a computation in ``dtype`` may miss by ``error``."""

    __array_ufunc__ = None  # NumPy leaves operations with us to us

    def __init__(self, xp: Bounds, value: HostArray, error: HostArray) -> None:
        self.xp, self.value = xp, np.asarray(value)
        self.error = np.where(np.isnan(error), np.inf, error)

    @property
    def dtype(self) -> Any:
        return self.xp.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.value.shape)

    @property
    def ndim(self) -> int:
        return self.value.ndim

    def __add__(self, other: Any) -> Bounded:
        other = self.xp.bounded(other)
        passed = self.error + other.error
        counts = (passed == 0.0) & (self.value % 1.0 == 0.0) & (other.value % 1.0 == 0.0)
        return self.xp.rounded(self.value + other.value, passed, np.where(counts, 0.0, 1.0))

    def __mul__(self, other: Any) -> Bounded:
        other = self.xp.bounded(other)
        passed = np.abs(self.value) * other.error + self.error * (np.abs(other.value) + other.error)
        return self.xp.rounded(self.value * other.value, passed)

    def __truediv__(self, other: Any) -> Bounded:
        other = self.xp.bounded(other)
        value = self.value / other.value
        least = np.maximum(np.abs(other.value) - other.error, 0.0)
        return self.xp.rounded(value, (self.error + np.abs(value) * other.error) / least)

    def __neg__(self) -> Bounded:
        return Bounded(self.xp, -self.value, self.error)

    def __abs__(self) -> Bounded:
        return Bounded(self.xp, np.abs(self.value), self.error)

    def __sub__(self, other: Any) -> Bounded:
        return self + -self.xp.bounded(other)

    def __rsub__(self, other: Any) -> Bounded:
        return self.xp.bounded(other) + -self

    def __rtruediv__(self, other: Any) -> Bounded:
        return self.xp.bounded(other) / self

    __radd__ = __add__
    __rmul__ = __mul__

    def _compare(self, other: Any, holds: Callable[[HostArray, HostArray], HostArray]) -> Truth:
        other = self.xp.bounded(other)
        return Truth(
            holds(self.value, other.value), np.abs(self.value - other.value) < self.error + other.error
        )

    def __gt__(self, other: Any) -> Truth:
        return self._compare(other, np.greater)

    def __ge__(self, other: Any) -> Truth:
        return self._compare(other, np.greater_equal)

    def __lt__(self, other: Any) -> Truth:
        return self._compare(other, np.less)

    def __le__(self, other: Any) -> Truth:
        return self._compare(other, np.less_equal)


class Bounds:
    """The namespace of `Bounded` arrays for computations in ``dtype``; integers stay NumPy's, they have no error."""

    int32 = np.int32

    def __init__(self, dtype: str) -> None:
        self.dtype = np.dtype(dtype)
        self.u = float(np.finfo(dtype).eps) / 2.0
        self.tiny = float(np.finfo(dtype).tiny)

    def __getattr__(self, name: str) -> Any:
        """Functions that neither round nor take part in it: the same of the value and of the bound."""
        if name not in ("expand_dims", "matrix_transpose", "reshape", "squeeze", "take", "take_along_axis"):
            raise AttributeError(f"{name} has no error bound: add its rule to {__name__}")
        move = getattr(np, name)

        def moved(x: Any, *args: Any, **kwargs: Any) -> Any:
            if isinstance(x, Bounded):
                return Bounded(self, move(x.value, *args, **kwargs), move(x.error, *args, **kwargs))
            return move(x, *args, **kwargs)

        return moved

    # What is exact

    def bounded(self, x: Any) -> Bounded:
        """``x``, a number or an array that ``dtype`` may have to round."""
        if isinstance(x, Bounded):
            return x
        value = np.asarray(x, dtype=np.float64)
        return Bounded(self, value, np.abs(value - value.astype(self.dtype).astype(np.float64)))

    def astype(self, x: Any, dtype: Any, *, copy: bool = True) -> Any:
        if isinstance(x, Truth):
            return Bounded(self, x.value.astype(np.float64), x.doubt.astype(np.float64))
        if dtype != self.dtype or isinstance(x, Bounded):
            return x if isinstance(x, Bounded) else np.asarray(x).astype(dtype)
        return self.bounded(x)

    def finfo(self, dtype: Any) -> Any:
        return np.finfo(dtype)

    def isdtype(self, dtype: Any, kind: str) -> bool:
        return np.isdtype(dtype, kind)

    def arange(self, n: int, *, dtype: Any) -> HostArray:
        return np.arange(n, dtype=dtype)

    def zeros(self, shape: tuple[int, ...], *, dtype: Any) -> Bounded:
        return self.bounded(np.zeros(shape))

    def ones(self, shape: tuple[int, ...], *, dtype: Any) -> Bounded:
        return self.bounded(np.ones(shape))

    def zeros_like(self, x: Bounded) -> Bounded:
        return self.bounded(np.zeros(x.shape))

    def abs(self, x: Bounded) -> Bounded:
        return abs(x)

    def argmax(self, x: Any, *, axis: int) -> HostArray:
        """Of arrays without errors, as data are."""
        return np.argmax(x.value if isinstance(x, Bounded) else x, axis=axis)

    def stack(self, arrays: list[Bounded]) -> Bounded:
        return Bounded(self, np.stack([x.value for x in arrays]), np.stack([x.error for x in arrays]))

    def max(self, x: Bounded, *, axis: int, keepdims: bool = False) -> Bounded:
        values = (np.max(v, axis=axis, keepdims=keepdims) for v in (x.value, x.value - x.error, x.value + x.error))
        return self._between(*values)

    def maximum(self, x: Any, y: Any) -> Bounded:
        x, y = self.bounded(x), self.bounded(y)
        low = np.maximum(x.value - x.error, y.value - y.error)
        return self._between(np.maximum(x.value, y.value), low, np.maximum(x.value + x.error, y.value + y.error))

    def minimum(self, x: Any, y: Any) -> Bounded:
        return -self.maximum(-self.bounded(x), -self.bounded(y))

    def where(self, condition: Truth | HostArray, x: Any, y: Any) -> Bounded:
        c = condition if isinstance(condition, Truth) else Truth(condition)
        x, y = self.bounded(x), self.bounded(y)
        error = np.where(c.value, x.error, y.error)
        either = np.abs(x.value - y.value) + np.maximum(x.error, y.error)
        return Bounded(self, np.where(c.value, x.value, y.value), np.where(c.doubt, either, error))

    # What rounds

    def rounded(self, value: HostArray, passed: HostArray, roundoffs: Any = 1.0) -> Bounded:
        """``value`` with the bound passed on to it and its own rounding, some unit roundoffs or none."""
        return Bounded(self, value, passed + roundoffs * (self.u * (np.abs(value) + passed) + self.tiny))

    def growth(self, terms: int) -> float:
        """``g``: the rounding of a sum of ``terms`` terms in units of the sum of their magnitudes."""
        k = min(terms, 4.0 * math.sqrt(terms)) * self.u
        return k / (1.0 - k)

    def matmul(self, a: Bounded, b: Bounded) -> Bounded:
        A, B = np.abs(a.value), np.abs(b.value) + b.error
        passed = A @ b.error + a.error @ B
        terms = a.shape[-1]
        error = passed + self.growth(terms) * (A @ B + a.error @ B) + terms * self.tiny
        return Bounded(self, a.value @ b.value, error)

    def sum(self, x: Bounded, *, axis: Any, keepdims: bool = False) -> Bounded:
        return self._sum(x, axis, keepdims, divide=False)

    def mean(self, x: Bounded, *, axis: Any, keepdims: bool = False) -> Bounded:
        return self._sum(x, axis, keepdims, divide=True)

    def _sum(self, x: Bounded, axis: Any, keepdims: bool, divide: bool) -> Bounded:
        value = np.sum(x.value, axis=axis, keepdims=keepdims)
        passed = np.sum(x.error, axis=axis, keepdims=keepdims)
        size = np.sum(np.abs(x.value), axis=axis, keepdims=keepdims) + passed
        terms = x.value.size // max(value.size, 1)
        error = passed + self.growth(terms if divide else max(terms - 1, 0)) * size + self.tiny
        return Bounded(self, value / terms, error / terms) if divide else Bounded(self, value, error)

    def sqrt(self, x: Bounded) -> Bounded:
        return self._increasing(np.sqrt, Bounded(self, x.value, np.minimum(x.error, np.inf)), 1.0, 0.0)

    def exp(self, x: Bounded) -> Bounded:
        return self._increasing(np.exp, x)

    def log(self, x: Bounded) -> Bounded:
        return self._increasing(np.log, x, least=0.0)

    def log1p(self, x: Bounded) -> Bounded:
        return self._increasing(np.log1p, x, least=-1.0)

    def tanh(self, x: Bounded) -> Bounded:
        return self._increasing(np.tanh, x)

    def logaddexp(self, x: Any, y: Any) -> Bounded:
        x, y = self.bounded(x), self.bounded(y)
        low, high = np.logaddexp(x.value - x.error, y.value - y.error), np.logaddexp(x.value + x.error, y.value + y.error)
        between = self._between(np.logaddexp(x.value, y.value), low, high)
        return self.rounded(between.value, between.error, 2.0 * FUNCTION_ULPS)

    def _increasing(
        self, f: Callable[[HostArray], HostArray], x: Bounded, roundoffs: float = 2.0 * FUNCTION_ULPS,
        least: float = -math.inf,
    ) -> Bounded:  # fmt: skip
        """An increasing function, defined from ``least`` on, between its values at both ends of the bound."""
        with np.errstate(divide="ignore"):
            low, high = f(np.maximum(x.value - x.error, least)), f(x.value + x.error)
        between = self._between(f(x.value), low, high)
        return self.rounded(between.value, between.error, roundoffs)

    def _between(self, value: HostArray, low: HostArray, high: HostArray) -> Bounded:
        return Bounded(self, value, np.maximum(high - value, value - low))
