"""Steps on a part of a batch, whose other rows are on other ranks.

Such a step runs on a namespace with two more members: ``all_sum(x)`` sums over the ranks, and ``part`` is the position
of this rank's rows in the batch. Layers that depend on the whole batch use the functions of this module. On a namespace
without these members, the functions take ``x`` to be the whole batch.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from mlp_xp_backends.trees import leaves, unflatten
from mlp_xp_backends.typing import Array, Namespace, Tree


class Part(NamedTuple):
    """The position of one rank's rows in a batch that is divided among the ranks of a group."""

    first: Array
    """Number of rows of the batch in front of them, 0-d int32."""
    rows: Array
    """Number of rows of the whole batch, 0-d, in the dtype of the network."""


class PartNamespace:
    """A namespace with ``all_sum``, and with ``part`` as one more member."""

    def __init__(self, xp: Namespace, part: Part) -> None:
        self._xp, self.part = xp, part

    def __getattr__(self, name: str) -> Any:
        return getattr(self._xp, name)


def part_of(xp: Namespace) -> Part | None:
    """The position of the rows on which ``xp`` computes, or ``None`` if they are the whole batch."""
    return getattr(xp, "part", None)


def batch_means(xp: Namespace, *arrays: Array) -> tuple[Array, ...]:
    """The mean of each array over all rows of the batch, (..., 1, n), with one sum over the ranks for all of them.

    >>> batch_means(xp, np.asarray([[1.0, 2.0], [3.0, 6.0]]))
    (array([[2., 4.]]),)
    """
    part = part_of(xp)
    if part is None:
        return tuple(xp.mean(a, axis=-2, keepdims=True) for a in arrays)
    sums = xp.all_sum(xp.concat([xp.sum(a, axis=-2, keepdims=True) for a in arrays], axis=-2)) / part.rows
    return tuple(sums[..., i : i + 1, :] for i in range(len(arrays)))


def batch_rows(xp: Namespace, x: Array) -> Any:
    """The number of rows of the batch of which ``x`` (..., rows, n) is a part: a Python number or a 0-d array."""
    part = part_of(xp)
    return x.shape[-2] if part is None else part.rows


def row_numbers(xp: Namespace, rows: int) -> Array:
    """The positions of ``rows`` rows in their batch, (rows,) int32."""
    part, numbers = part_of(xp), xp.arange(rows, dtype=xp.int32)
    return numbers if part is None else part.first + numbers


def reduced(xp: Namespace, loss: Array, weight: Array, grads: Tree, mean: bool) -> tuple[Array, Tree]:
    """The sums of ``loss`` and ``grads`` over all ranks, divided by the sum of ``weight`` if ``mean``.

    They are summed as one flat array, with ``weight``, the weight of this rank's rows, (1,), at its end.
    """
    given = [*leaves(grads), loss]
    total = xp.all_sum(xp.concat([xp.reshape(a, (-1,)) for a in (*given, weight)]))
    if mean:
        total = total / xp.where(total[-1:] > 0.0, total[-1:], 1.0)  # a batch whose weights are all zero costs nothing
    pieces, start = [], 0
    for a in given:
        end = start + math.prod(a.shape)
        pieces.append(xp.reshape(total[start:end], a.shape))
        start = end
    *sums, loss = pieces
    return loss, unflatten(grads, iter(sums))
