"""Layers that center and scale their input: over each row, over the batch, or by fixed numbers."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar, NamedTuple

from mlp_xp._checks import FINITE, SHARE, Count, conform
from mlp_xp.nn.initializers import Constant
from mlp_xp.nn.layers.base import Generator, Input, Layer, Spec, StatefulLayer, check_width
from mlp_xp.nn.parts import batch_means, batch_rows
from mlp_xp_backends.trees import ABSENT
from mlp_xp_backends.typing import Array, Namespace, Tree


class Scale(NamedTuple):
    """The parameters of a normalizing layer."""

    gamma: Array  # (..., 1, n)
    beta: Array  # (..., 1, n)


class Moments(NamedTuple):
    """Running mean and variance of each feature."""

    mean: Array  # (..., 1, n)
    var: Array  # (..., 1, n)


class Units(NamedTuple):
    """The fixed shift and scale of `Rescale`."""

    shift: Array  # (..., 1, 1)
    scale: Array  # (..., 1, 1)


def _init_scale(rng: Generator, n: int) -> Scale:
    return Scale(Constant(1.0)(rng, (1, n), (n, n)), Constant(0.0)(rng, (1, n), (n, n)))


def _normalize(xp: Namespace, x: Array, mean: Array, var: Array, eps: float) -> tuple[Array, Array]:
    """``(x - mean) / sqrt(var + eps)`` and the factor ``1 / sqrt(var + eps)``."""
    r = 1.0 / xp.sqrt(var + eps)
    return (x - mean) * r, r


def _normalize_backward(z: Array, r: Array, dz: Array, mean_dz: Array, mean_dz_z: Array) -> Array:
    """``dx = r (dz - mean(dz) - z mean(dz z))`` (Ioffe and Szegedy 2015, sec. 3, terms collected)."""
    return r * (dz - mean_dz - z * mean_dz_z)


def _bessel(xp: Namespace, rows: Any) -> Any:
    """``rows / (rows - 1)``, for a number or an array; 1 for a single row."""
    return rows / (max(rows - 1, 1) if isinstance(rows, int) else xp.maximum(rows - 1.0, 1.0))


@dataclass(frozen=True)
class LayerNorm(Layer):
    """``y = gamma z + beta`` with ``z = (x - mean(x)) / sqrt(var(x) + eps)`` over each row (Ba et al. 2016, eq. 4).

    >>> layer, x = LayerNorm(8), np.random.default_rng(0).normal(5.0, 3.0, (4, 8))
    >>> y, _ = layer.forward(xp, layer.init(np.random.default_rng(0)), x)
    >>> bool(np.allclose(y.mean(axis=1), 0.0)), bool(np.allclose(y.std(axis=1), 1.0))
    (True, True)
    """

    n: int
    _: KW_ONLY
    eps: float = 1e-5

    def __post_init__(self) -> None:
        conform(self, n=Count(), eps=SHARE)

    def width(self, n_in: int | None) -> int:
        """``n``."""
        check_width(self, self.n, n_in)
        return self.n

    def specs(self) -> Scale:
        """``gamma`` and ``beta``."""
        return Scale(Spec(1, self.n), Spec(1, self.n))

    def init(self, rng: Generator) -> Scale:
        """Ones and zeros."""
        return _init_scale(rng, self.n)

    def forward(self, xp: Namespace, params: Scale, x: Array) -> tuple[Array, tuple[Array, Array]]:
        """The output; the cache is ``z`` and ``1 / sqrt(var + eps)``."""
        d = x - xp.mean(x, axis=-1, keepdims=True)
        z, r = _normalize(xp, d, 0.0, xp.mean(d * d, axis=-1, keepdims=True), self.eps)
        return params.gamma * z + params.beta, (z, r)

    def backward(self, xp: Namespace, params: Scale, cache: tuple[Array, Array], dy: Array) -> tuple[Array, Scale]:
        """``(dx, grads)``."""
        return self.input_gradient(xp, params, cache, dy), self.gradient(xp, params, cache, dy)

    def input_gradient(self, xp: Namespace, params: Scale, cache: tuple[Array, Array], dy: Array) -> Array:
        """``dx`` from ``dz = dy gamma``."""
        (z, r), dz = cache, dy * params.gamma
        means = xp.mean(dz, axis=-1, keepdims=True), xp.mean(dz * z, axis=-1, keepdims=True)
        return _normalize_backward(z, r, dz, *means)

    def gradient(self, xp: Namespace, params: Scale, cache: tuple[Array, Array], dy: Array) -> Scale:
        """``dgamma``, the sum of ``dy z``, and ``dbeta``, that of ``dy``."""
        z, _ = cache
        return Scale(xp.sum(dy * z, axis=-2, keepdims=True), xp.sum(dy, axis=-2, keepdims=True))


@dataclass(frozen=True)
class BatchNorm(StatefulLayer):
    """``y = gamma z + beta`` with ``z = (x - mean) / sqrt(var + eps)`` (Ioffe and Szegedy 2015, algorithm 1).

    In training, mean and variance are those of the whole batch, even if its rows are divided among ranks, and the
    running moments are updated: ``running += momentum (batch - running)``, with the unbiased variance, as in PyTorch.
    In prediction, the running moments are used.

    >>> rng, layer = np.random.default_rng(0), BatchNorm(8)
    >>> x = rng.normal(5.0, 3.0, (100, 8))
    >>> y, _, state = layer.forward(xp, layer.init(rng), layer.init_state(rng), x, True)
    >>> bool(np.allclose(y.mean(axis=0), 0.0)), bool(np.allclose(state.mean, 0.1 * x.mean(axis=0)))
    (True, True)
    """

    n: int
    _: KW_ONLY
    momentum: float = 0.1
    eps: float = 1e-5

    def __post_init__(self) -> None:
        conform(self, n=Count(), momentum=SHARE, eps=SHARE)

    def width(self, n_in: int | None) -> int:
        """``n``."""
        check_width(self, self.n, n_in)
        return self.n

    def specs(self) -> Scale:
        """``gamma`` and ``beta``."""
        return Scale(Spec(1, self.n), Spec(1, self.n))

    def state_specs(self) -> Moments:
        """The running mean and variance."""
        return Moments(Spec(1, self.n), Spec(1, self.n))

    def init(self, rng: Generator) -> Scale:
        """Ones and zeros."""
        return _init_scale(rng, self.n)

    def init_state(self, rng: Generator) -> Moments:
        """Mean 0 and variance 1."""
        gamma, beta = _init_scale(rng, self.n)
        return Moments(beta, gamma)

    def forward(
        self, xp: Namespace, params: Scale, state: Moments, x: Array, train: bool
    ) -> tuple[Array, tuple[Array, Array], Moments]:
        """The output; the cache is ``z`` and ``1 / sqrt(var + eps)``."""
        if train:
            (mean,) = batch_means(xp, x)
            d = x - mean
            (var,) = batch_means(xp, d * d)
            z, r = _normalize(xp, d, 0.0, var, self.eps)
            unbiased = var * _bessel(xp, batch_rows(xp, x))
            state = Moments(
                state.mean + self.momentum * (mean - state.mean),
                state.var + self.momentum * (unbiased - state.var),
            )
        else:
            z, r = _normalize(xp, x, state.mean, state.var, self.eps)
        return params.gamma * z + params.beta, (z, r), state

    def backward(self, xp: Namespace, params: Scale, cache: tuple[Array, Array], dy: Array) -> tuple[Array, Scale]:
        """``(dx, grads)``."""
        return self.input_gradient(xp, params, cache, dy), self.gradient(xp, params, cache, dy)

    def input_gradient(self, xp: Namespace, params: Scale, cache: tuple[Array, Array], dy: Array) -> Array:
        """``dx`` from ``dz = dy gamma``."""
        (z, r), dz = cache, dy * params.gamma
        return _normalize_backward(z, r, dz, *batch_means(xp, dz, dz * z))

    def gradient(self, xp: Namespace, params: Scale, cache: tuple[Array, Array], dy: Array) -> Scale:
        """``dgamma``, the sum of ``dy z``, and ``dbeta``, that of ``dy``."""
        z, _ = cache
        return Scale(xp.sum(dy * z, axis=-2, keepdims=True), xp.sum(dy, axis=-2, keepdims=True))


@dataclass(frozen=True, kw_only=True)
class Rescale(StatefulLayer):
    """``y = (x - shift) scale`` with fixed numbers, for instance ``Rescale(scale=1 / 255)`` for pixels in bytes.

    Use it as the first layer for integer data: the data stay in their small dtype and become floats batch by batch.

    >>> layer = Rescale(scale=1 / 255)
    >>> pixels, state = np.asarray([[0, 51, 255]], dtype=np.uint8), layer.init_state(np.random.default_rng(0))
    >>> layer.forward(xp, ABSENT, state, pixels, False)[0]
    array([[0. , 0.2, 1. ]])
    """

    takes: ClassVar[Input] = "numbers"

    shift: float = 0.0
    scale: float = 1.0

    def __post_init__(self) -> None:
        conform(self, shift=FINITE, scale=FINITE)

    def state_specs(self) -> Units:
        """The shift and the scale."""
        return Units(Spec(1, 1), Spec(1, 1))

    def init_state(self, rng: Generator) -> Units:
        """The shift and the scale of the configuration; the trainer casts them to the network's dtype."""
        return Units(
            Constant(self.shift)(rng, (1, 1), (1, 1)),
            Constant(self.scale)(rng, (1, 1), (1, 1)),
        )

    def forward(self, xp: Namespace, params: Tree, state: Units, x: Array, train: bool) -> tuple[Array, Array, Units]:
        """The output, in the dtype of ``scale``; the cache is ``scale``."""
        x = xp.astype(x, state.scale.dtype, copy=False)
        return (x if self.shift == 0.0 else x - state.shift) * state.scale, state.scale, state

    def backward(self, xp: Namespace, params: Tree, scale: Array, dy: Array) -> tuple[Array, Tree]:
        """``dx = dy scale``."""
        return dy * scale, ABSENT
