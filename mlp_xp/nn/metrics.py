"""Metrics: each computes one number per row, and the evaluation averages them."""

from __future__ import annotations

from collections.abc import Callable

from mlp_xp_backends.typing import Array, Namespace

Metric = Callable[[Namespace, Array, Array], Array]
"""``metric(xp, z, y)`` maps the outputs (..., rows, n_out) and the targets to one number per row, (..., rows)."""


def accuracy(xp: Namespace, z: Array, y: Array) -> Array:
    """1 where the largest output is that of the class ``y``, and 0 elsewhere.

    ``y`` contains classes, integers of shape (rows,), or distributions (rows, n_out), whose most probable class counts.

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
