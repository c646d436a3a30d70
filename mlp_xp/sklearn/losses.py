"""The losses by which scikit-learn's estimators measure themselves.

They have the gradients of the library's own losses; what they report differs in constants, which decide when training
stops. Formulas of scikit-learn 1.9, ``sklearn.neural_network``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from mlp_xp.nn.losses import AbsoluteError, Huber, Loss, Poisson, Quantile, Reduction, SoftmaxCrossEntropy, Target

Array = Any
Namespace = Any


def clip_cost(xp: Namespace, cost: Array) -> Array:
    """``-log clip(p, eps, 1 - eps)`` for ``cost = -log p``, with the epsilon of the dtype."""
    eps = float(xp.finfo(cost.dtype).eps)
    return xp.clip(cost, min=-math.log1p(-eps), max=-math.log(eps))


@dataclass(frozen=True)
class LogLoss(Loss):
    """``l = -log clip(p_y)`` with ``p = softmax(z)``, for one-hot ``y`` of shape (rows, n_out)."""

    reduction: Reduction = "mean"
    target: ClassVar[Target] = "class"

    def rows(self, xp: Namespace, z: Array, y: Array) -> tuple[Array, tuple[Array, Array]]:
        """The cost; the cache is ``(p, y)``."""
        cost, cache = SoftmaxCrossEntropy().rows(xp, z, y)
        return clip_cost(xp, cost), cache

    def slope(self, xp: Namespace, cache: tuple[Array, Array]) -> Array:
        """``dz = p - y``."""
        p, y = cache
        return p - y

    def output(self, xp: Namespace, z: Array) -> Array:
        """``softmax(z)``."""
        return SoftmaxCrossEntropy().output(xp, z)


@dataclass(frozen=True)
class BinaryLogLoss(Loss):
    """``l = -sum_k y_k log clip(p_k) + (1 - y_k) log clip(1 - p_k)`` with ``p = sigmoid(z)``."""

    reduction: Reduction = "mean"
    target: ClassVar[Target] = "binary"

    def rows(self, xp: Namespace, z: Array, y: Array) -> tuple[Array, tuple[Array, Array]]:
        """The cost; the cache is ``(p, y)``."""
        y = xp.astype(y, z.dtype, copy=False)
        e = xp.exp(-xp.abs(z))
        cost = xp.maximum(z, 0.0) - y * z + xp.log1p(e)
        return xp.sum(clip_cost(xp, cost), axis=-1), (xp.where(z > 0.0, 1.0, e) / (1.0 + e), y)

    def slope(self, xp: Namespace, cache: tuple[Array, Array]) -> Array:
        """``dz = p - y``."""
        p, y = cache
        return p - y

    def output(self, xp: Namespace, z: Array) -> Array:
        """``sigmoid(z)``, exact to rounding where it is small."""
        e = xp.exp(-xp.abs(z))
        return xp.where(z > 0.0, 1.0, e) / (1.0 + e)


@dataclass(frozen=True)
class HalfSquaredError(Loss):
    """``l = mean_k (z_k - y_k)^2 / 2``, while the gradient is that of the sum over the outputs."""

    reduction: Reduction = "mean"
    target: ClassVar[Target] = "real"

    def rows(self, xp: Namespace, z: Array, y: Array) -> tuple[Array, Array]:
        """The cost; the cache is ``z - y``."""
        d = z - xp.astype(y, z.dtype, copy=False)
        return (0.5 / z.shape[-1]) * xp.sum(d * d, axis=-1), d

    def slope(self, xp: Namespace, d: Array) -> Array:
        """``dz = z - y``."""
        return d

    def output(self, xp: Namespace, z: Array) -> Array:
        """``z``."""
        return z


@dataclass(frozen=True)
class PoissonDeviance(Loss):
    """``l = sum_k y_k log y_k - y_k - y_k z_k + exp z_k``: half the deviance of counts with rate ``exp(z)``."""

    reduction: Reduction = "mean"
    target: ClassVar[Target] = "count"

    def rows(self, xp: Namespace, z: Array, y: Array) -> tuple[Array, tuple[Array, Array]]:
        """The cost; the cache is ``(rate, y)``."""
        y = xp.astype(y, z.dtype, copy=False)
        cost, cache = Poisson().rows(xp, z, y)
        return cost + xp.sum(y * xp.log(xp.where(y > 0.0, y, 1.0)) - y, axis=-1), cache

    def slope(self, xp: Namespace, cache: tuple[Array, Array]) -> Array:
        """``dz = exp(z) - y``."""
        rate, y = cache
        return rate - y

    def output(self, xp: Namespace, z: Array) -> Array:
        """``exp(z)``."""
        return Poisson().output(xp, z)


REGRESSION: dict[str, Loss] = {
    "squared_error": HalfSquaredError(),
    "poisson": PoissonDeviance(),
    "absolute_error": AbsoluteError(),
    "huber": Huber(),
    "quantile": Quantile(),
}
