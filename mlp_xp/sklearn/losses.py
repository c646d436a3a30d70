"""The losses that scikit-learn's estimators report.

Their gradients are those of the library's own losses. Their values differ in constants and in rounding, which decide
when training stops. Formulas of scikit-learn 1.9, ``sklearn.neural_network._base``.
"""

from __future__ import annotations

from dataclasses import dataclass

from mlp_xp.nn import losses
from mlp_xp.nn.losses import Loss, sum_of_outputs
from mlp_xp_backends.typing import Array, Namespace


def clipped_log(xp: Namespace, p: Array) -> Array:
    """``log p`` of the rounded ``p``, at least the epsilon of its dtype away from 0 and 1, as in scikit-learn.

    A row that is all but certain costs whole multiples of the epsilon.
    """
    eps = float(xp.finfo(p.dtype).eps)
    return xp.log(xp.clip(p, min=eps, max=1.0 - eps))


@dataclass(frozen=True)
class LogLoss(losses.SoftmaxCrossEntropy):
    """``l = -log clip(p_y)`` with ``p = softmax(z)``, for one-hot ``y`` of shape (rows, n_out)."""

    def rows(self, xp: Namespace, z: Array, y: Array) -> tuple[Array, tuple[Array, Array]]:
        """Return the cost and the cache ``(p, y)``."""
        p, y = self.output(xp, z), xp.astype(y, z.dtype, copy=False)
        return -clipped_log(xp, sum_of_outputs(xp, y * p)), (p, y)


@dataclass(frozen=True)
class BinaryLogLoss(losses.BinaryCrossEntropy):
    """``l = -sum_k y_k log clip(p_k) + (1 - y_k) log(1 - clip(p_k))`` with ``p = sigmoid(z)``."""

    slope = losses.SoftmaxCrossEntropy.slope

    def rows(self, xp: Namespace, z: Array, y: Array) -> tuple[Array, tuple[Array, Array]]:
        """Return the cost and the cache ``(p, y)``."""
        p, y = self.output(xp, z), xp.astype(y, z.dtype, copy=False)
        return -sum_of_outputs(xp, clipped_log(xp, xp.where(y > 0.0, p, 1.0 - p))), (p, y)

    def output(self, xp: Namespace, z: Array) -> Array:
        """``sigmoid(z)``, with a relative error of the order of rounding even where it is tiny."""
        e = xp.exp(-xp.abs(z))
        return xp.where(z > 0.0, 1.0, e) / (1.0 + e)


@dataclass(frozen=True)
class HalfSquaredError(losses.SquaredError):
    """``l = mean_k (z_k - y_k)^2 / 2``, while the gradient is that of the sum over the outputs."""

    def rows(self, xp: Namespace, z: Array, y: Array) -> tuple[Array, Array]:
        """Return the cost and the cache ``z - y``."""
        d = z - xp.astype(y, z.dtype, copy=False)
        return (0.5 / z.shape[-1]) * sum_of_outputs(xp, d * d), d


@dataclass(frozen=True)
class PoissonDeviance(losses.Poisson):
    """``l = sum_k y_k log y_k - y_k - y_k z_k + exp z_k``: half the deviance of counts with rate ``exp(z)``."""

    def rows(self, xp: Namespace, z: Array, y: Array) -> tuple[Array, tuple[Array, Array]]:
        """Return the cost and the cache ``(rate, y)``."""
        y = xp.astype(y, z.dtype, copy=False)
        cost, cache = super().rows(xp, z, y)
        return cost + sum_of_outputs(xp, y * xp.log(xp.where(y > 0.0, y, 1.0)) - y), cache


REGRESSION: dict[str, Loss] = {
    "squared_error": HalfSquaredError(),
    "poisson": PoissonDeviance(),
    "absolute_error": losses.AbsoluteError(),
    "huber": losses.Huber(),
    "quantile": losses.Quantile(),
}
PORTABLE: dict[Loss, Loss] = {
    LogLoss(): losses.SoftmaxCrossEntropy(),
    BinaryLogLoss(): losses.BinaryCrossEntropy(),
    HalfSquaredError(): losses.SquaredError(),
    PoissonDeviance(): losses.Poisson(),
}
"""The losses of `mlp_xp` with the same gradients."""
OUT_ACTIVATIONS = {"class": "softmax", "binary": "logistic", "real": "identity", "count": "exp"}
"""scikit-learn's names of the functions from outputs to predictions, by the target of the loss."""
