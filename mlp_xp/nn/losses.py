"""Losses: the cost of each row, its gradient with respect to the network's output, and the reduction over rows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

from mlp_xp._checks import POSITIVE, Number, OneOf, conform
from mlp_xp.nn.metrics import Metric, accuracy, binary_accuracy
from mlp_xp.nn.parts import part_of
from mlp_xp_backends.trees import ABSENT
from mlp_xp_backends.typing import Array, Namespace, Tree

Reduction = Literal["mean", "sum"]
REDUCTION = OneOf("mean", "sum")
Target = Literal["class", "binary", "real", "count"]


class Loss(Protocol):
    """A cost per row, reduced to the weighted mean or sum over a batch.

    ``z`` is the output of the network, (..., rows, n_out); ``y`` is the target, the same for all models; ``w`` holds
    one weight per row, or is ``ABSENT`` for equal weights. The mean is weighted: ``sum(w l) / sum(w)``.

    Write a loss of your own as a frozen dataclass that inherits from this class and defines ``rows``, ``slope`` and
    ``output``:

    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True, kw_only=True)
    ... class LogCosh(Loss):
    ...     reduction: str = "mean"
    ...     def rows(self, xp, z, y):
    ...         d = z - y
    ...         return xp.sum(xp.log(xp.cosh(d)), axis=-1), d
    ...     def slope(self, xp, d):
    ...         return xp.tanh(d)
    ...     def output(self, xp, z):
    ...         return z
    >>> x, y = np.random.default_rng(0).standard_normal((2, 6, 3))
    >>> check_gradients(mlp(3, 4, 3), LogCosh(), x, y).ok
    True
    """

    reduction: Reduction
    target: ClassVar[Target] = "real"
    """The kind of target, against which the data are checked before training."""
    metrics: ClassVar[tuple[Metric, ...]] = ()
    """Metrics that an evaluation reports in addition to the loss."""

    def rows(self, xp: Namespace, z: Array, y: Array) -> tuple[Array, Tree]:
        """The cost of each row, (..., rows), and the cache of `slope`."""
        ...

    def slope(self, xp: Namespace, cache: Tree) -> Array:
        """The gradient of each row's cost with respect to that row of ``z``, (..., rows, n_out)."""
        ...

    def output(self, xp: Namespace, z: Array) -> Array:
        """The prediction: the mean of the distribution whose negative log-likelihood is this loss."""
        ...

    def forward(self, xp: Namespace, z: Array, y: Array, w: Array) -> tuple[Array, Tree]:
        """Return the reduced cost, one number per model, and the cache of `backward`.

        On a part of a batch (``mlp_xp.nn.parts``), it is the weighted sum for either reduction; the step divides.
        """
        cost, cache = self.rows(xp, z, y)
        share = _shares(xp, self.reduction, cost, w)
        return xp.sum(cost * share, axis=-1), (cache, share)

    def backward(self, xp: Namespace, cache: Tree) -> Array:
        """The gradient of the reduced cost with respect to ``z``."""
        rows, share = cache
        slope = self.slope(xp, rows)
        return slope * (share if isinstance(share, float) else xp.expand_dims(share, axis=-1))


def _shares(xp: Namespace, reduction: Reduction, cost: Array, w: Array) -> Any:
    """The factor of each row in the reduced cost: ``w`` or ``w / sum(w)``; without weights, a single number."""
    if part_of(xp) is not None:
        reduction = "sum"
    if w is ABSENT:
        return 1.0 / cost.shape[-1] if reduction == "mean" else 1.0
    w = xp.astype(w, cost.dtype, copy=False)
    if reduction == "sum":
        return w
    total = _sum_of_rows(xp, w)
    return w / xp.where(total > 0.0, total, 1.0)  # a batch whose weights are all zero costs nothing


def weight_of_rows(xp: Namespace, cost: Array, rows: int, w: Array) -> Array:
    """The sum of the weights ``w``, (1,), in the dtype of ``cost``; without weights, the number of ``rows``."""
    if w is ABSENT:
        return xp.full((1,), float(rows), dtype=cost.dtype)
    return _sum_of_rows(xp, xp.astype(w, cost.dtype, copy=False))


def _sum_of_rows(xp: Namespace, w: Array) -> Array:
    """The sum of each model's weights, (..., rows) to (..., 1), whose rounding does not depend on other models."""
    return xp.expand_dims(xp.sum(w, axis=-1), axis=-1)


def sum_of_outputs(xp: Namespace, x: Array) -> Array:
    """The sum of each row, (..., rows, n_out) to (..., rows), in a form that the compiler turns into a product."""
    return xp.squeeze(xp.sum(x, axis=-1, keepdims=True), axis=-1)


@dataclass(frozen=True, kw_only=True)
class SoftmaxCrossEntropy(Loss):
    """``l = log(sum_k exp z_k) - z_y`` for a class y, and ``l = -sum_k y_k log p_k`` for a distribution y.

    ``p = softmax(z)`` (Bishop 2006, eqs. 4.104 and 4.108). ``y`` contains class numbers, integers of shape (rows,), or
    distributions, non-negative floats of shape (rows, n_out) that sum to 1 in every row.

    >>> z = np.asarray([[0.0, 0.0], [0.0, np.log(3.0)]])
    >>> loss, _ = SoftmaxCrossEntropy().forward(xp, z, np.asarray([0, 1]), ABSENT)
    >>> round(float(loss), 4)  # the mean of log 2 and log 4/3
    0.4904
    >>> SoftmaxCrossEntropy().output(xp, z)
    array([[0.5 , 0.5 ],
           [0.25, 0.75]])
    """

    reduction: Reduction = "mean"
    target: ClassVar[Target] = "class"
    metrics: ClassVar[tuple[Metric, ...]] = (accuracy,)

    def __post_init__(self) -> None:
        conform(self, reduction=REDUCTION)

    def rows(self, xp: Namespace, z: Array, y: Array) -> tuple[Array, tuple[Array, Array]]:
        """The cost, with each row of z shifted by its largest entry to avoid overflow; the cache is ``(p, y)``."""
        if xp.isdtype(y.dtype, "integral"):
            y = xp.one_hot(y, z.shape[-1], dtype=z.dtype)
        y = xp.astype(y, z.dtype, copy=False)
        z = z - xp.max(z, axis=-1, keepdims=True)
        e = xp.exp(z)
        total = xp.sum(e, axis=-1, keepdims=True)
        cost = xp.squeeze(xp.log(total), axis=-1) - sum_of_outputs(xp, y * z)
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
    """``l = sum_k log(1 + exp z_k) - y_k z_k``: an independent decision for each output (Bishop 2006, eq. 4.90).

    ``y`` is (rows, n_out) with entries in [0, 1]; several may be 1 in a row (multilabel).

    >>> loss, _ = BinaryCrossEntropy().forward(xp, np.zeros((1, 2)), np.asarray([[0, 1]]), ABSENT)
    >>> round(float(loss), 4)  # twice log 2
    1.3863
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
        return sum_of_outputs(xp, cost), (z, y)

    def slope(self, xp: Namespace, cache: tuple[Array, Array]) -> Array:
        """``dz = sigmoid(z) - y``."""
        z, y = cache
        return self.output(xp, z) - y

    def output(self, xp: Namespace, z: Array) -> Array:
        """``sigmoid(z)``."""
        return 0.5 + 0.5 * xp.tanh(0.5 * z)


@dataclass(frozen=True, kw_only=True)
class SquaredError(Loss):
    """``l = |z - y|^2 / 2`` for ``y`` of shape (rows, n_out) (Bishop 2006, eq. 5.11).

    >>> z, y = np.asarray([[3.0], [0.0]]), np.asarray([[1.0], [0.0]])
    >>> float(SquaredError().forward(xp, z, y, ABSENT)[0])
    1.0
    >>> float(SquaredError(reduction="sum").forward(xp, z, y, ABSENT)[0])
    2.0
    """

    reduction: Reduction = "mean"
    target: ClassVar[Target] = "real"

    def __post_init__(self) -> None:
        conform(self, reduction=REDUCTION)

    def rows(self, xp: Namespace, z: Array, y: Array) -> tuple[Array, Array]:
        """The cost; the cache is ``z - y``."""
        d = z - xp.astype(y, z.dtype, copy=False)
        return 0.5 * sum_of_outputs(xp, d * d), d

    def slope(self, xp: Namespace, cache: Array) -> Array:
        """``dz = z - y``."""
        return cache

    def output(self, xp: Namespace, z: Array) -> Array:
        """``z``."""
        return z


@dataclass(frozen=True, kw_only=True)
class Poisson(Loss):
    """``l = sum_k exp(z_k) - y_k z_k`` for counts ``y`` of shape (rows, n_out) with rate ``exp(z)``.

    The negative log-likelihood without ``log y!``, which is constant in z (McCullagh and Nelder 1989, ch. 6).

    >>> loss, _ = Poisson().forward(xp, np.log(np.asarray([[2.0]])), np.asarray([[3]]), ABSENT)
    >>> round(float(loss), 4)  # 2 - 3 log 2
    -0.0794
    """

    reduction: Reduction = "mean"
    target: ClassVar[Target] = "count"

    def __post_init__(self) -> None:
        conform(self, reduction=REDUCTION)

    def rows(self, xp: Namespace, z: Array, y: Array) -> tuple[Array, tuple[Array, Array]]:
        """The cost; the cache is ``(rate, y)``."""
        y = xp.astype(y, z.dtype, copy=False)
        rate = self.output(xp, z)
        return sum_of_outputs(xp, rate - y * z), (rate, y)

    def slope(self, xp: Namespace, cache: tuple[Array, Array]) -> Array:
        """``dz = exp(z) - y``."""
        rate, y = cache
        return rate - y

    def output(self, xp: Namespace, z: Array) -> Array:
        """``exp(z)``, with z limited to half the exponent range of the dtype, so that sums stay finite."""
        return xp.exp(xp.minimum(z, 0.5 * math.log(float(xp.finfo(z.dtype).max))))


@dataclass(frozen=True, kw_only=True)
class AbsoluteError(Loss):
    """``l = sum_k |z_k - y_k|`` for ``y`` of shape (rows, n_out): its minimum is the conditional median.

    The negative log-likelihood of a Laplace distribution, up to a constant (Bishop 2006, exercise 1.25).

    >>> float(AbsoluteError().forward(xp, np.asarray([[3.0], [0.0]]), np.zeros((2, 1)), ABSENT)[0])
    1.5
    """

    reduction: Reduction = "mean"
    target: ClassVar[Target] = "real"

    def __post_init__(self) -> None:
        conform(self, reduction=REDUCTION)

    def rows(self, xp: Namespace, z: Array, y: Array) -> tuple[Array, Array]:
        """The cost; the cache is ``z - y``."""
        d = z - xp.astype(y, z.dtype, copy=False)
        return sum_of_outputs(xp, xp.abs(d)), d

    def slope(self, xp: Namespace, d: Array) -> Array:
        """``dz = sign(z - y)``, 0 where they are equal."""
        return xp.sign(d)

    def output(self, xp: Namespace, z: Array) -> Array:
        """``z``."""
        return z


@dataclass(frozen=True, kw_only=True)
class Huber(Loss):
    """``l = sum_k d^2 / 2`` where ``|d| <= delta``, else ``delta (|d| - delta / 2)``, with ``d = z - y``.

    The loss is quadratic near the target and linear beyond, so the gradient of an outlier is at most ``delta`` (Huber
    1964, sec. 1). ``y`` has the shape (rows, n_out).

    >>> float(Huber(delta=2.0).forward(xp, np.asarray([[1.0], [10.0]]), np.zeros((2, 1)), ABSENT)[0])
    9.25
    """

    reduction: Reduction = "mean"
    delta: float = 1.0
    target: ClassVar[Target] = "real"

    def __post_init__(self) -> None:
        conform(self, reduction=REDUCTION, delta=POSITIVE)

    def rows(self, xp: Namespace, z: Array, y: Array) -> tuple[Array, Array]:
        """``c (d - c / 2)`` for both cases, with ``c = clip(d, -delta, delta)``, which is the cache."""
        d = z - xp.astype(y, z.dtype, copy=False)
        c = xp.clip(d, min=-self.delta, max=self.delta)
        return sum_of_outputs(xp, c * (d - 0.5 * c)), c

    def slope(self, xp: Namespace, c: Array) -> Array:
        """``dz = clip(z - y, -delta, delta)``."""
        return c

    def output(self, xp: Namespace, z: Array) -> Array:
        """``z``."""
        return z


@dataclass(frozen=True, kw_only=True)
class Quantile(Loss):
    """``l = sum_k max(q (y_k - z_k), (1 - q) (z_k - y_k))``: its minimum is the conditional quantile ``q``.

    The pinball loss of Koenker and Bassett 1978, sec. 3, for ``y`` of shape (rows, n_out).

    >>> float(Quantile(q=0.9).forward(xp, np.asarray([[0.0]]), np.asarray([[10.0]]), ABSENT)[0])
    9.0
    """

    reduction: Reduction = "mean"
    q: float = 0.5
    target: ClassVar[Target] = "real"

    def __post_init__(self) -> None:
        conform(self, reduction=REDUCTION, q=Number(0.0, 1.0))

    def rows(self, xp: Namespace, z: Array, y: Array) -> tuple[Array, Array]:
        """The cost; the cache is ``z - y``."""
        d = z - xp.astype(y, z.dtype, copy=False)
        return sum_of_outputs(xp, xp.maximum(-self.q * d, (1.0 - self.q) * d)), d

    def slope(self, xp: Namespace, d: Array) -> Array:
        """``dz = 1 - q`` above the target, ``-q`` below it, and the mean of both at the target."""
        return (0.5 - self.q) + 0.5 * xp.sign(d)

    def output(self, xp: Namespace, z: Array) -> Array:
        """``z``."""
        return z
