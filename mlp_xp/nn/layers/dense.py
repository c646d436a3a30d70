"""The fully connected layer."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

from mlp_xp._checks import Count, Flag, conform
from mlp_xp.nn.initializers import INITIALIZER, Constant, Glorot, Initializer
from mlp_xp.nn.layers.base import Affine, Generator, Layer, Spec, check_width
from mlp_xp_backends.trees import ABSENT
from mlp_xp_backends.typing import Array, Namespace


@dataclass(frozen=True)
class Dense(Layer):
    """``y = x W + b``, with x of shape (..., rows, n_in) and y of shape (..., rows, n_out).

    ``init_W`` and ``init_b`` are initializers. With ``bias=False``, ``b`` is omitted.

    >>> import numpy as np
    >>> Dense(3, 2).init(np.random.default_rng(0)).W.shape
    (3, 2)
    """

    n_in: int
    n_out: int
    _: KW_ONLY
    bias: bool = True
    init_W: Initializer = Glorot()
    init_b: Initializer = Constant(0.0)

    def __post_init__(self) -> None:
        conform(self, n_in=Count(), n_out=Count(), bias=Flag(), init_W=INITIALIZER, init_b=INITIALIZER)

    def width(self, n_in: int | None) -> int:
        """``n_out``."""
        check_width(self, self.n_in, n_in)
        return self.n_out

    def specs(self) -> Affine:
        """``W`` and ``b``, the bias as one row."""
        return Affine(Spec(self.n_in, self.n_out), Spec(1, self.n_out) if self.bias else ABSENT)

    def init(self, rng: Generator) -> Affine:
        """Draw ``W`` first, then ``b``, as other libraries do."""
        fans = (self.n_in, self.n_out)
        W = self.init_W(rng, (self.n_in, self.n_out), fans)
        return Affine(W, self.init_b(rng, (1, self.n_out), fans) if self.bias else ABSENT)

    def forward(self, xp: Namespace, params: Affine, x: Array) -> tuple[Array, Array]:
        """``x W + b``; the cache is ``x``."""
        y = xp.matmul(x, params.W)
        return (y + params.b if self.bias else y), x

    def backward(self, xp: Namespace, params: Affine, x: Array, dy: Array) -> tuple[Array, Affine]:
        """``(dx, grads)``."""
        return self.input_gradient(xp, params, x, dy), self.gradient(xp, params, x, dy)

    def gradient(self, xp: Namespace, params: Affine, x: Array, dy: Array) -> Affine:
        """``dW = x' dy`` and ``db``, the sum of ``dy`` over the rows."""
        dW = xp.matmul(xp.matrix_transpose(x), dy)
        db = xp.sum(dy, axis=-2, keepdims=True) if self.bias else ABSENT
        return Affine(dW, db)

    def input_gradient(self, xp: Namespace, params: Affine, x: Array, dy: Array) -> Array:
        """``dx = dy W'``."""
        return xp.matmul(dy, xp.matrix_transpose(params.W))
