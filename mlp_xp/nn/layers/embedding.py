"""The embedding: a learned vector for each of a finite set of ids."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import ClassVar, Literal, NamedTuple

from mlp_xp._checks import Count, OneOf, conform
from mlp_xp.nn.initializers import INITIALIZER, Initializer, Normal
from mlp_xp.nn.layers.base import Generator, Input, Layer, Spec, check_width
from mlp_xp_backends.typing import Array, Namespace


class Table(NamedTuple):
    """The parameters of an embedding: one row per id."""

    E: Array  # (..., n_ids, dim)


@dataclass(frozen=True)
class Embedding(Layer):
    """``y = [E[i1], E[i2], ...]`` or ``y = E[i1] + E[i2] + ...`` for the ids of a row.

    The input contains integers from 0 to ``n_ids - 1``, with shape (rows, ids_per_row) for all models together or
    (models, rows, ids_per_row). The output is (..., rows, width), where the width is ``ids_per_row * dim`` if the
    vectors are concatenated (Bengio et al. 2003, eq. 1) and ``dim`` if they are summed.

    >>> layer = Embedding(1000, 16, ids_per_row=3)  # three words as 48 features
    >>> params = layer.init(np.random.default_rng(0))
    >>> layer.forward(xp, params, np.asarray([[1, 2, 3], [7, 7, 0]]))[0].shape
    (2, 48)
    """

    takes: ClassVar[Input] = "ids"

    n_ids: int
    dim: int
    _: KW_ONLY
    ids_per_row: int = 1
    combine: Literal["concat", "sum"] = "concat"
    init_E: Initializer = Normal(std=1.0)

    def __post_init__(self) -> None:
        conform(
            self, n_ids=Count(), dim=Count(), ids_per_row=Count(), combine=OneOf("concat", "sum"), init_E=INITIALIZER
        )

    def width(self, n_in: int | None) -> int:
        """``ids_per_row * dim``, or ``dim`` if the vectors are summed."""
        check_width(self, self.ids_per_row, n_in)
        return self.dim * (self.ids_per_row if self.combine == "concat" else 1)

    def specs(self) -> Table:
        """``E``."""
        return Table(Spec(self.n_ids, self.dim))

    def init(self, rng: Generator) -> Table:
        """One vector per id."""
        return Table(self.init_E(rng, (self.n_ids, self.dim), (self.n_ids, self.dim)))

    def forward(self, xp: Namespace, params: Table, ids: Array) -> tuple[Array, Array]:
        """Rows of ``E``, concatenated or summed; the cache is ``ids``."""
        y = self._vectors(xp, params.E, _flat_ids(xp, ids))  # (..., rows * ids, dim)
        models = y.shape[:-2]
        if self.combine == "concat":
            return xp.reshape(y, (*models, -1, self.ids_per_row * self.dim)), ids
        return xp.sum(xp.reshape(y, (*models, -1, self.ids_per_row, self.dim)), axis=-2), ids

    def _vectors(self, xp: Namespace, E: Array, ids: Array) -> Array:
        """``E[i]`` for ids of shape (rows * ids,), or (models, rows * ids) if each model has its own."""
        if len(ids.shape) == 1:
            return xp.take(E, ids, axis=-2)
        ids = xp.astype(ids, xp.int64, copy=False)
        first = self.n_ids * xp.arange(ids.shape[0], dtype=ids.dtype)  # first row of each model's table
        places = xp.reshape(ids + xp.expand_dims(first, axis=-1), (-1,))
        return xp.reshape(xp.take(xp.reshape(E, (-1, self.dim)), places, axis=0), (*ids.shape, self.dim))

    def backward(self, xp: Namespace, params: Table, ids: Array, dy: Array) -> tuple[None, Table]:
        """``(None, grads)``: ids have no gradient."""
        return None, self.gradient(xp, params, ids, dy)

    def gradient(self, xp: Namespace, params: Table, ids: Array, dy: Array) -> Table:
        """``dE[i]`` is the sum of ``dy`` over the positions with the id i, added in a fixed order on every device."""
        if self.combine == "sum":
            dy = xp.broadcast_to(xp.expand_dims(dy, axis=-2), (*dy.shape[:-1], self.ids_per_row, self.dim))
            dy = xp.reshape(dy, (*dy.shape[:-3], -1, self.dim))
        else:
            dy = xp.reshape(dy, (*dy.shape[:-2], -1, self.dim))
        return Table(xp.segment_sum(dy, _flat_ids(xp, ids), self.n_ids))  # dy: (..., rows * ids, dim)


def _flat_ids(xp: Namespace, ids: Array) -> Array:
    """The ids of all rows as one axis, behind the axis of models if there is one."""
    return xp.reshape(ids, (*ids.shape[:-2], -1))
