"""The fully connected layer."""

from __future__ import annotations

from dataclasses import dataclass

from mlp_xp.nn.initializers import Constant, Glorot, Initializer
from mlp_xp.nn.layers.base import (
    Affine,
    Array,
    Generator,
    Layer,
    Namespace,
    Spec,
    check_positive,
    check_width,
)


@dataclass(frozen=True)
class Dense(Layer):
    """``y = x W + b``, with x of shape (..., rows, n_in) and y of shape (..., rows, n_out)."""

    n_in: int
    n_out: int
    init_W: Initializer = Glorot()
    init_b: Initializer = Constant(0.0)

    def __post_init__(self) -> None:
        check_positive(self, n_in=self.n_in, n_out=self.n_out)

    def width(self, n_in: int | None) -> int:
        """``n_out``."""
        check_width(self, self.n_in, n_in)
        return self.n_out

    def specs(self) -> Affine:
        """``W`` and ``b``, the bias as one row."""
        return Affine(Spec(self.n_in, self.n_out), Spec(1, self.n_out))

    def init(self, rng: Generator) -> Affine:
        """``W`` first, then ``b``, so that one generator gives the order of other libraries."""
        fans = (self.n_in, self.n_out)
        return Affine(self.init_W(rng, (self.n_in, self.n_out), fans), self.init_b(rng, (1, self.n_out), fans))

    def forward(self, xp: Namespace, params: Affine, x: Array) -> tuple[Array, Array]:
        """``x W + b``; the cache is ``x``."""
        return xp.matmul(x, params.W) + params.b, x

    def backward(self, xp: Namespace, params: Affine, x: Array, dy: Array) -> tuple[Array, Affine]:
        """``dx = dy W'`` and `gradient`."""
        dx = xp.matmul(dy, xp.matrix_transpose(params.W))
        return dx, self.gradient(xp, params, x, dy)

    def gradient(self, xp: Namespace, params: Affine, x: Array, dy: Array) -> Affine:
        """``dW = x' dy`` and ``db``, the sum of ``dy`` over the rows."""
        dW = xp.matmul(xp.matrix_transpose(x), dy)
        db = xp.sum(dy, axis=-2, keepdims=True)
        return Affine(dW, db)
