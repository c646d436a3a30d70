"""Losses: what a row costs, its derivative by the network's output, and how rows are reduced to one number."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

from mlp_xp._checks import POSITIVE, Number, OneOf, conform
from mlp_xp.nn.metrics import Metric, accuracy, binary_accuracy
from mlp_xp_backends.trees import ABSENT
from mlp_xp_backends.typing import Array, Namespace, Tree

Reduction = Literal["mean", "sum"]
REDUCTION = OneOf("mean", "sum")
Target = Literal["class", "binary", "real", "count"]


class Loss(Protocol):
    """A cost per row, lifted to the weighted mean or sum over a batch.

    ``z`` is the output of the network, (..., rows, n_out); ``y`` the target, the same for all models; ``w`` one weight
    for each row, or ``()`` for equal ones. The mean is that of the weights: ``sum(w l) / sum(w)``.
    """

    reduction: Reduction
    target: ClassVar[Target] = "real"
    """What ``y`` has to be; checked where data enter."""
    metrics: ClassVar[tuple[Metric, ...]] = ()
    """What is measured beside the loss."""

    def rows(self, xp: Namespace, z: Array, y: Array) -> tuple[Array, Tree]:
        """Cost of each row, (..., rows), and what `slope` needs of it."""
        ...

    def slope(self, xp: Namespace, cache: Tree) -> Array:
        """Derivative of each row's cost by that row of ``z``, (..., rows, n_out)."""
        ...

    def output(self, xp: Namespace, z: Array) -> Array:
        """What the network predicts: the mean of the distribution that this loss is the likelihood of."""
        ...

    def forward(self, xp: Namespace, z: Array, y: Array, w: Array) -> tuple[Array, Tree]:
        """The reduced cost, one number per model, and the cache of `backward`."""
        cost, cache = self.rows(xp, z, y)
        share = _shares(xp, self.reduction, cost, w)
        return xp.sum(cost * share, axis=-1), (cache, share)

    def backward(self, xp: Namespace, cache: Tree) -> Array:
        """Derivative of the reduced cost by ``z``."""
        rows, share = cache
        slope = self.slope(xp, rows)
        return slope * (share if isinstance(share, float) else xp.expand_dims(share, axis=-1))


def _shares(xp: Namespace, reduction: Reduction, cost: Array, w: Array) -> Any:
    """The factor of each row in the reduced cost: ``w`` or ``w / sum(w)``; a number where all are equal."""
    if w is ABSENT:
        return 1.0 / cost.shape[-1] if reduction == "mean" else 1.0
    w = xp.astype(w, cost.dtype, copy=False)
    if reduction == "sum":
        return w
    total = xp.sum(w, axis=-1, keepdims=True)
    return w / xp.where(total > 0.0, total, 1.0)  # a batch without weight costs nothing


@dataclass(frozen=True, kw_only=True)
class SoftmaxCrossEntropy(Loss):
    """``l = log(sum_k exp z_k) - z_y`` for a class y, and ``l = -sum_k y_k log p_k`` for a distribution y.

    ``p = softmax(z)`` (Bishop 2006, eqs. 4.104 and 4.108). ``y`` is (rows,) integers, or (rows, n_out) floats that are
    not negative and sum to one in every row.
    """

    reduction: Reduction = "mean"
    target: ClassVar[Target] = "class"
    metrics: ClassVar[tuple[Metric, ...]] = (accuracy,)

    def __post_init__(self) -> None:
        conform(self, reduction=REDUCTION)

    def rows(self, xp: Namespace, z: Array, y: Array) -> tuple[Array, tuple[Array, Array]]:
        """The cost, with z shifted by its largest entry, so that nothing overflows; the cache is ``(p, y)``."""
        if xp.isdtype(y.dtype, "integral"):
            y = xp.one_hot(y, z.shape[-1], dtype=z.dtype)
        y = xp.astype(y, z.dtype, copy=False)
        z = z - xp.max(z, axis=-1, keepdims=True)
        e = xp.exp(z)
        total = xp.sum(e, axis=-1, keepdims=True)
        cost = xp.squeeze(xp.log(total), axis=-1) - xp.sum(y * z, axis=-1)
        return cost, (e / total, y)

    def slope(self, xp: Namespace, cache: tuple[Array, Array]) -> Array:
        """``dz = p - y`` (Bishop 2006, eq. 4.109)."""
        p, y = cache
        return p - y

    def output(self, xp: Namespace, z: Array) -> Array:
        """``softmax(z)``."""
        e = xp.exp(z - xp.max(z, axis=-1, keepdims=True))
        return e / xp.sum(e, axis=-1, keepdims=True)


@dataclass(frozen=True, kw_only=True)
class BinaryCrossEntropy(Loss):
    """``l = sum_k log(1 + exp z_k) - y_k z_k``: one yes or no for each output (Bishop 2006, eq. 4.90).

    ``y`` is (rows, n_out) with entries in [0, 1]; several may be 1 in a row (multilabel).
    """

    reduction: Reduction = "mean"
    target: ClassVar[Target] = "binary"
    metrics: ClassVar[tuple[Metric, ...]] = (binary_accuracy,)

    def __post_init__(self) -> None:
        conform(self, reduction=REDUCTION)

    def rows(self, xp: Namespace, z: Array, y: Array) -> tuple[Array, tuple[Array, Array]]:
        """The cost with ``log(1 + exp z) = max(z, 0) + log(1 + exp(-|z|))``; the cache is ``(z, y)``."""
        y = xp.astype(y, z.dtype, copy=False)
        cost = xp.maximum(z, 0.0) - y * z + xp.log1p(xp.exp(-xp.abs(z)))
        return xp.sum(cost, axis=-1), (z, y)

    def slope(self, xp: Namespace, cache: tuple[Array, Array]) -> Array:
        """``dz = sigmoid(z) - y``."""
        z, y = cache
        return self.output(xp, z) - y

    def output(self, xp: Namespace, z: Array) -> Array:
        """``sigmoid(z)``."""
        return 0.5 + 0.5 * xp.tanh(0.5 * z)


@dataclass(frozen=True, kw_only=True)
class SquaredError(Loss):
    """``l = |z - y|^2 / 2`` for ``y`` of shape (rows, n_out) (Bishop 2006, eq. 5.11)."""

    reduction: Reduction = "mean"
    target: ClassVar[Target] = "real"

    def __post_init__(self) -> None:
        conform(self, reduction=REDUCTION)

    def rows(self, xp: Namespace, z: Array, y: Array) -> tuple[Array, Array]:
        """The cost; the cache is ``z - y``."""
        d = z - xp.astype(y, z.dtype, copy=False)
        return 0.5 * xp.sum(d * d, axis=-1), d

    def slope(self, xp: Namespace, cache: Array) -> Array:
        """``dz = z - y``."""
        return cache

    def output(self, xp: Namespace, z: Array) -> Array:
        """``z``."""
        return z


@dataclass(frozen=True, kw_only=True)
class Poisson(Loss):
    """``l = sum_k exp(z_k) - y_k z_k`` for counts ``y`` of shape (rows, n_out) with rate ``exp(z)``.

    The negative log-likelihood without ``log y!``, which no weight can change (McCullagh and Nelder 1989, ch. 6).
    """

    reduction: Reduction = "mean"
    target: ClassVar[Target] = "count"

    def __post_init__(self) -> None:
        conform(self, reduction=REDUCTION)

    def rows(self, xp: Namespace, z: Array, y: Array) -> tuple[Array, tuple[Array, Array]]:
        """The cost; the cache is ``(rate, y)``."""
        y = xp.astype(y, z.dtype, copy=False)
        rate = self.output(xp, z)
        return xp.sum(rate - y * z, axis=-1), (rate, y)

    def slope(self, xp: Namespace, cache: tuple[Array, Array]) -> Array:
        """``dz = exp(z) - y``."""
        rate, y = cache
        return rate - y

    def output(self, xp: Namespace, z: Array) -> Array:
        """``exp(z)``, held at half the exponent range of the dtype, so that sums of it stay finite for every z."""
        return xp.exp(xp.minimum(z, 0.5 * math.log(float(xp.finfo(z.dtype).max))))


@dataclass(frozen=True, kw_only=True)
class AbsoluteError(Loss):
    """``l = sum_k |z_k - y_k|`` for ``y`` of shape (rows, n_out): its minimum is the conditional median.

    The likelihood of Laplace's distribution (Bishop 2006, exercise 1.25).
    """

    reduction: Reduction = "mean"
    target: ClassVar[Target] = "real"

    def __post_init__(self) -> None:
        conform(self, reduction=REDUCTION)

    def rows(self, xp: Namespace, z: Array, y: Array) -> tuple[Array, Array]:
        """The cost; the cache is ``z - y``."""
        d = z - xp.astype(y, z.dtype, copy=False)
        return xp.sum(xp.abs(d), axis=-1), d

    def slope(self, xp: Namespace, d: Array) -> Array:
        """``dz = sign(z - y)``, 0 where both are equal."""
        return xp.sign(d)

    def output(self, xp: Namespace, z: Array) -> Array:
        """``z``."""
        return z


@dataclass(frozen=True, kw_only=True)
class Huber(Loss):
    """``l = sum_k d^2 / 2`` where ``|d| <= delta``, else ``delta (|d| - delta / 2)``, with ``d = z - y``.

    Squares near the target and straight lines beyond, so that outliers pull no harder than ``delta`` (Huber 1964,
    sec. 1). ``y`` is (rows, n_out).
    """

    reduction: Reduction = "mean"
    delta: float = 1.0
    target: ClassVar[Target] = "real"

    def __post_init__(self) -> None:
        conform(self, reduction=REDUCTION, delta=POSITIVE)

    def rows(self, xp: Namespace, z: Array, y: Array) -> tuple[Array, Array]:
        """``c (d - c / 2)``, both cases in one, with ``c`` as `slope`; it is also the cache."""
        d = z - xp.astype(y, z.dtype, copy=False)
        c = xp.clip(d, min=-self.delta, max=self.delta)
        return xp.sum(c * (d - 0.5 * c), axis=-1), c

    def slope(self, xp: Namespace, c: Array) -> Array:
        """``dz``: d, but no further from 0 than ``delta``."""
        return c

    def output(self, xp: Namespace, z: Array) -> Array:
        """``z``."""
        return z


@dataclass(frozen=True, kw_only=True)
class Quantile(Loss):
    """``l = sum_k max(q (y_k - z_k), (1 - q) (z_k - y_k))``: its minimum is the conditional quantile ``q``.

    The pinball loss of Koenker and Bassett 1978, sec. 3, for ``y`` of shape (rows, n_out).
    """

    reduction: Reduction = "mean"
    q: float = 0.5
    target: ClassVar[Target] = "real"

    def __post_init__(self) -> None:
        conform(self, reduction=REDUCTION, q=Number(0.0, 1.0))

    def rows(self, xp: Namespace, z: Array, y: Array) -> tuple[Array, Array]:
        """The cost; the cache is ``z - y``."""
        d = z - xp.astype(y, z.dtype, copy=False)
        return xp.sum(xp.maximum(-self.q * d, (1.0 - self.q) * d), axis=-1), d

    def slope(self, xp: Namespace, d: Array) -> Array:
        """``dz = 1 - q`` above the target, ``-q`` below, half-way between at it."""
        return (0.5 - self.q) + 0.5 * xp.sign(d)

    def output(self, xp: Namespace, z: Array) -> Array:
        """``z``."""
        return z
