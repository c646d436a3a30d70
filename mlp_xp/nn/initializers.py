"""Initializers: rules for initial weights, drawn on the host from the generator that is passed in.

Call an initializer with the generator, the shape to fill, and the fans ``(n_in, n_out)`` of the layer; it returns a
float64 array.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np  # noqa: TID251  initial weights are drawn on the host

from mlp_xp._checks import FINITE, NOT_NEGATIVE, Like, OneOf, conform
from mlp_xp_backends.typing import HostArray

Shape = tuple[int, ...]
Distribution = Literal["normal", "uniform"]
DISTRIBUTION = OneOf("normal", "uniform")
INITIALIZER = Like("Glorot()", ("__call__",))
"""The rule for a field that holds an initializer."""


class Initializer(Protocol):
    """A rule for the initial values of a parameter.

    An initializer is called as ``init(rng, shape, fans)`` with a `numpy.random.Generator`, the shape of the parameter
    and the numbers of inputs and outputs of its layer.

    >>> Constant(0.5)(np.random.default_rng(0), (1, 3), (2, 3))
    array([[0.5, 0.5, 0.5]])
    """

    def __call__(self, rng: np.random.Generator, shape: Shape, fans: tuple[int, int]) -> HostArray:
        """Return a float64 array of ``shape``, drawn from ``rng`` for a layer with ``fans`` (n_in, n_out)."""
        ...


def _draw(rng: np.random.Generator, shape: Shape, std: float, distribution: str) -> HostArray:
    """Draw with mean 0 and standard deviation ``std``; that of U(-a, a) is ``a / sqrt(3)``."""
    if distribution == "normal":
        return rng.normal(0.0, std, shape)
    return rng.uniform(-math.sqrt(3.0) * std, math.sqrt(3.0) * std, shape)


@dataclass(frozen=True)
class He:
    """Variance ``2 / n_in``, for ReLU and similar activations (He et al. 2015, eq. 10).

    >>> w = He()(np.random.default_rng(0), (400, 300), (400, 300))
    >>> round(float(w.std() ** 2 * 400), 1)
    2.0
    """

    distribution: Distribution = "normal"

    def __post_init__(self) -> None:
        conform(self, distribution=DISTRIBUTION)

    def __call__(self, rng: np.random.Generator, shape: Shape, fans: tuple[int, int]) -> HostArray:
        """Draw the array; see `Initializer`."""
        return _draw(rng, shape, math.sqrt(2.0 / fans[0]), self.distribution)


@dataclass(frozen=True)
class Glorot:
    """Variance ``2 / (n_in + n_out)``, also called Xavier (Glorot and Bengio 2010, eqs. 12 and 16).

    >>> w = Glorot()(np.random.default_rng(0), (400, 300), (400, 300))
    >>> bool(abs(w).max() <= (6 / 700) ** 0.5)
    True
    """

    distribution: Distribution = "uniform"

    def __post_init__(self) -> None:
        conform(self, distribution=DISTRIBUTION)

    def __call__(self, rng: np.random.Generator, shape: Shape, fans: tuple[int, int]) -> HostArray:
        """Draw the array; see `Initializer`."""
        return _draw(rng, shape, math.sqrt(2.0 / (fans[0] + fans[1])), self.distribution)


@dataclass(frozen=True)
class LeCun:
    """Variance ``1 / n_in`` (LeCun et al. 1998, Efficient BackProp, eq. 16).

    >>> w = LeCun()(np.random.default_rng(0), (400, 300), (400, 300))
    >>> round(float(w.std() ** 2 * 400), 1)
    1.0
    """

    distribution: Distribution = "normal"

    def __post_init__(self) -> None:
        conform(self, distribution=DISTRIBUTION)

    def __call__(self, rng: np.random.Generator, shape: Shape, fans: tuple[int, int]) -> HostArray:
        """Draw the array; see `Initializer`."""
        return _draw(rng, shape, math.sqrt(1.0 / fans[0]), self.distribution)


@dataclass(frozen=True, kw_only=True)
class Normal:
    """``N(mean, std^2)``.

    >>> w = Normal(std=0.1)(np.random.default_rng(0), (400, 300), (400, 300))
    >>> round(float(w.std()), 2)
    0.1
    """

    std: float = 1.0
    mean: float = 0.0

    def __post_init__(self) -> None:
        conform(self, std=NOT_NEGATIVE, mean=FINITE)

    def __call__(self, rng: np.random.Generator, shape: Shape, fans: tuple[int, int]) -> HostArray:
        """Draw the array; see `Initializer`."""
        return rng.normal(self.mean, self.std, shape)


@dataclass(frozen=True, kw_only=True)
class Uniform:
    """``U(low, high)``.

    >>> w = Uniform(low=-0.1, high=0.1)(np.random.default_rng(0), (400, 300), (400, 300))
    >>> bool(abs(w).max() <= 0.1)
    True
    """

    low: float = -1.0
    high: float = 1.0

    def __post_init__(self) -> None:
        conform(self, low=FINITE, high=FINITE)
        if self.low > self.high or self.high - self.low == math.inf:
            raise ValueError(f"Uniform: expected low <= high with a finite difference, got {self!r}")

    def __call__(self, rng: np.random.Generator, shape: Shape, fans: tuple[int, int]) -> HostArray:
        """Draw the array; see `Initializer`."""
        return rng.uniform(self.low, self.high, shape)


@dataclass(frozen=True)
class Constant:
    """``value`` in every entry; nothing is drawn.

    >>> Constant(0.5)(np.random.default_rng(0), (1, 3), (2, 3))
    array([[0.5, 0.5, 0.5]])
    """

    value: float = 0.0

    def __post_init__(self) -> None:
        conform(self, value=FINITE)

    def __call__(self, rng: np.random.Generator, shape: Shape, fans: tuple[int, int]) -> HostArray:
        """Fill the array; see `Initializer`."""
        return np.full(shape, self.value)
