"""Metrics: one number per row; the evaluation averages them."""

from __future__ import annotations

from collections.abc import Callable

from mlp_xp_backends.typing import Array, Namespace

Metric = Callable[[Namespace, Array, Array], Array]
"""``metric(xp, z, y)``: from the outputs (..., rows, n_out) and the targets, one number per row (..., rows)."""


def accuracy(xp: Namespace, z: Array, y: Array) -> Array:
    """1 where the largest output is the class ``y``, (rows,) integers, or the most probable class of a distribution.

    >>> metrics.accuracy(xp, np.asarray([[0.2, 0.1], [0.0, 3.0]]), np.asarray([0, 0]))
    array([1., 0.])
    """
    if not xp.isdtype(y.dtype, "integral"):
        y = xp.argmax(y, axis=-1)
    best = xp.argmax(z, axis=-1)
    return xp.astype(best == xp.astype(y, best.dtype, copy=False), z.dtype)


def binary_accuracy(xp: Namespace, z: Array, y: Array) -> Array:
    """The fraction of outputs with the right sign, for ``y`` of shape (rows, n_out) with entries in [0, 1].

    >>> metrics.binary_accuracy(xp, np.asarray([[0.2, -0.1]]), np.asarray([[1, 1]]))
    array([0.5])
    """
    right = (z > 0.0) == (xp.astype(y, z.dtype, copy=False) > 0.5)
    return xp.mean(xp.astype(right, z.dtype), axis=-1)
