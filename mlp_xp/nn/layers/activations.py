"""Activations: functions of one number, applied to every entry. Each forward is followed by its derivative."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mlp_xp._checks import SHARE, conform
from mlp_xp.nn.layers.base import Layer
from mlp_xp_backends.trees import ABSENT
from mlp_xp_backends.typing import Array, Namespace, Tree


@dataclass(frozen=True)
class Identity(Layer):
    """``y = x``.

    >>> Identity().forward(xp, ABSENT, np.asarray([-1.0, 2.0]))[0]
    array([-1.,  2.])
    """

    def forward(self, xp: Namespace, params: Tree, x: Array) -> tuple[Array, Tree]:
        """``x``."""
        return x, ABSENT

    def backward(self, xp: Namespace, params: Tree, cache: Tree, dy: Array) -> tuple[Array, Tree]:
        """``dx = dy``."""
        return dy, ABSENT


@dataclass(frozen=True)
class ReLU(Layer):
    """``y = max(x, 0)`` (Nair and Hinton 2010); the derivative at 0 is taken to be 0.

    >>> ReLU().forward(xp, ABSENT, np.asarray([-1.0, 2.0]))[0]
    array([0., 2.])
    """

    def forward(self, xp: Namespace, params: Tree, x: Array) -> tuple[Array, Array]:
        """``max(x, 0)``, which propagates NaN, so that divergence is visible in the loss."""
        y = xp.maximum(x, 0.0)
        return y, y

    def backward(self, xp: Namespace, params: Tree, y: Array, dy: Array) -> tuple[Array, Tree]:
        """``dx = dy [y > 0]``."""
        return dy * xp.astype(y > 0.0, dy.dtype), ABSENT


@dataclass(frozen=True)
class LeakyReLU(Layer):
    """``y = x where x > 0, else slope x`` (Maas et al. 2013).

    >>> LeakyReLU(0.1).forward(xp, ABSENT, np.asarray([-1.0, 2.0]))[0]
    array([-0.1,  2. ])
    """

    slope: float = 0.01

    def __post_init__(self) -> None:
        conform(self, slope=SHARE)

    def forward(self, xp: Namespace, params: Tree, x: Array) -> tuple[Array, Array]:
        """``max(x, slope x)``, the same function for a slope below 1."""
        return xp.maximum(x, self.slope * x), x

    def backward(self, xp: Namespace, params: Tree, x: Array, dy: Array) -> tuple[Array, Tree]:
        """``dx = dy ([x > 0] + slope [x <= 0])``."""
        return dy * (self.slope + (1.0 - self.slope) * xp.astype(x > 0.0, dy.dtype)), ABSENT


@dataclass(frozen=True)
class Sigmoid(Layer):
    """``y = 1 / (1 + exp(-x))``, the logistic function.

    >>> Sigmoid().forward(xp, ABSENT, np.asarray([-1000.0, 0.0]))[0]
    array([0. , 0.5])
    """

    def forward(self, xp: Namespace, params: Tree, x: Array) -> tuple[Array, Array]:
        """``(1 + tanh(x / 2)) / 2``, the same function without overflow."""
        y = 0.5 + 0.5 * xp.tanh(0.5 * x)
        return y, y

    def backward(self, xp: Namespace, params: Tree, y: Array, dy: Array) -> tuple[Array, Tree]:
        """``dx = dy y (1 - y)``."""
        return dy * y * (1.0 - y), ABSENT


@dataclass(frozen=True)
class Tanh(Layer):
    """``y = tanh(x)``.

    >>> Tanh().forward(xp, ABSENT, np.asarray([0.0, 1000.0]))[0]
    array([0., 1.])
    """

    def forward(self, xp: Namespace, params: Tree, x: Array) -> tuple[Array, Array]:
        """``tanh(x)``."""
        y = xp.tanh(x)
        return y, y

    def backward(self, xp: Namespace, params: Tree, y: Array, dy: Array) -> tuple[Array, Tree]:
        """``dx = dy (1 - y^2)``."""
        return dy * (1.0 - y * y), ABSENT


@dataclass(frozen=True)
class Softplus(Layer):
    """``y = log(1 + exp(x))`` (Dugas et al. 2001).

    >>> Softplus().forward(xp, ABSENT, np.asarray([-1000.0, 1000.0]))[0]
    array([   0., 1000.])
    """

    def forward(self, xp: Namespace, params: Tree, x: Array) -> tuple[Array, Array]:
        """``max(x, 0) + log(1 + exp(-|x|))``, which does not overflow."""
        return xp.maximum(x, 0.0) + xp.log1p(xp.exp(-xp.abs(x))), x

    def backward(self, xp: Namespace, params: Tree, x: Array, dy: Array) -> tuple[Array, Tree]:
        """``dx = dy sigmoid(x)``."""
        return dy * (0.5 + 0.5 * xp.tanh(0.5 * x)), ABSENT


@dataclass(frozen=True)
class GELU(Layer):
    """``y = x (1 + tanh u) / 2`` with ``u = sqrt(2 / pi) (x + 0.044715 x^3)`` (Hendrycks and Gimpel 2016, sec. 2).

    >>> GELU().forward(xp, ABSENT, np.asarray([0.0, 1.0]))[0].round(3)
    array([0.   , 0.841])
    """

    def forward(self, xp: Namespace, params: Tree, x: Array) -> tuple[Array, tuple[Array, Array]]:
        """The output; the cache is ``x`` and ``tanh u``."""
        t = xp.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x * x * x))
        return 0.5 * x * (1.0 + t), (x, t)

    def backward(self, xp: Namespace, params: Tree, cache: tuple[Array, Array], dy: Array) -> tuple[Array, Tree]:
        """``dx = dy ((1 + t) + x (1 - t^2) u') / 2`` with ``u' = sqrt(2 / pi) (1 + 0.134145 x^2)``."""
        x, t = cache
        du = math.sqrt(2.0 / math.pi) * (1.0 + 3.0 * 0.044715 * x * x)
        return dy * (0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * du), ABSENT
