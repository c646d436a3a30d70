"""Initial weights: frozen choices, drawn on the host from a generator that is handed in.

Each is called with the generator, the shape to fill and the fans ``(n_in, n_out)`` of the layer, and returns float64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np  # noqa: TID251  initial weights are drawn on the host

Shape = tuple[int, ...]
Distribution = Literal["normal", "uniform"]


class Initializer(Protocol):
    """A rule for the first value of a parameter."""

    def __call__(self, rng: np.random.Generator, shape: Shape, fans: tuple[int, int]) -> np.ndarray[Any, Any]:
        """An array of ``shape``, float64, drawn from ``rng`` for a layer of ``fans``."""
        ...


def _draw(rng: np.random.Generator, shape: Shape, std: float, distribution: str) -> np.ndarray[Any, Any]:
    """Zero mean and standard deviation ``std``: U(-a, a) has a standard deviation of a / sqrt(3)."""
    if distribution == "normal":
        return rng.normal(0.0, std, shape)
    return rng.uniform(-math.sqrt(3.0) * std, math.sqrt(3.0) * std, shape)


@dataclass(frozen=True)
class He:
    """Variance ``2 / n_in``, for ReLU and its kin (He et al. 2015, eq. 10)."""

    distribution: Distribution = "normal"

    def __call__(self, rng: np.random.Generator, shape: Shape, fans: tuple[int, int]) -> np.ndarray[Any, Any]:
        """Draw; see `Initializer`."""
        return _draw(rng, shape, math.sqrt(2.0 / fans[0]), self.distribution)


@dataclass(frozen=True)
class Glorot:
    """Variance ``2 / (n_in + n_out)``, also called Xavier (Glorot and Bengio 2010, eqs. 12 and 16)."""

    distribution: Distribution = "uniform"

    def __call__(self, rng: np.random.Generator, shape: Shape, fans: tuple[int, int]) -> np.ndarray[Any, Any]:
        """Draw; see `Initializer`."""
        return _draw(rng, shape, math.sqrt(2.0 / (fans[0] + fans[1])), self.distribution)


@dataclass(frozen=True)
class LeCun:
    """Variance ``1 / n_in`` (LeCun et al. 1998, Efficient BackProp, eq. 16)."""

    distribution: Distribution = "normal"

    def __call__(self, rng: np.random.Generator, shape: Shape, fans: tuple[int, int]) -> np.ndarray[Any, Any]:
        """Draw; see `Initializer`."""
        return _draw(rng, shape, math.sqrt(1.0 / fans[0]), self.distribution)


@dataclass(frozen=True)
class Normal:
    """``N(mean, std^2)``."""

    std: float = 1.0
    mean: float = 0.0

    def __call__(self, rng: np.random.Generator, shape: Shape, fans: tuple[int, int]) -> np.ndarray[Any, Any]:
        """Draw; see `Initializer`."""
        return rng.normal(self.mean, self.std, shape)


@dataclass(frozen=True)
class Uniform:
    """``U(low, high)``."""

    low: float = -1.0
    high: float = 1.0

    def __call__(self, rng: np.random.Generator, shape: Shape, fans: tuple[int, int]) -> np.ndarray[Any, Any]:
        """Draw; see `Initializer`."""
        return rng.uniform(self.low, self.high, shape)


@dataclass(frozen=True)
class Constant:
    """``value`` everywhere; nothing is drawn."""

    value: float = 0.0

    def __call__(self, rng: np.random.Generator, shape: Shape, fans: tuple[int, int]) -> np.ndarray[Any, Any]:
        """Fill; see `Initializer`."""
        return np.full(shape, self.value)
