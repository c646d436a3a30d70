"""Arrays with a bound on their error, and the rules of arithmetic for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np  # noqa: TID251  the reference is NumPy in float64

from mlp_xp_backends.typing import HostArray


class Arithmetic(Protocol):
    """A floating-point format and the rounding of results in it."""

    dtype: Any
    u: float
    tiny: float

    def bounded(self, x: Any) -> Bounded:
        """Return ``x`` with a bound on the error of rounding it to the dtype."""
        ...

    def rounded(self, value: HostArray, passed: HostArray, roundoffs: Any = 1.0) -> Bounded:
        """Return a result whose bound is that propagated from its operands plus that of its own rounding."""
        ...


class Truth:
    """Booleans, and a mask of the entries that rounding could change."""

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
    """An array of float64 ``value`` that a computation in ``dtype`` approximates within ``error``."""

    __array_ufunc__ = None  # so that NumPy defers to the operators below

    def __init__(self, xp: Arithmetic, value: HostArray, error: HostArray) -> None:
        self.xp, self.value = xp, np.asarray(value)
        self.error = np.where(np.isnan(error), np.inf, error)

    @property
    def dtype(self) -> Any:
        """The dtype under test."""
        return self.xp.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the value."""
        return tuple(self.value.shape)

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
        return Truth(holds(self.value, other.value), np.abs(self.value - other.value) < self.error + other.error)

    def __gt__(self, other: Any) -> Truth:
        return self._compare(other, np.greater)

    def __ge__(self, other: Any) -> Truth:
        return self._compare(other, np.greater_equal)

    def __lt__(self, other: Any) -> Truth:
        return self._compare(other, np.less)

    def __le__(self, other: Any) -> Truth:
        return self._compare(other, np.less_equal)
