"""Namespaces: those of the libraries, with a few functions replaced and two added to the standard's.

`one_hot` and `segment_sum` are written here in the standard alone, and a library with a faster way replaces them. Ids
are integers in ``[0, n)``; the result for other ids is undefined.

>>> import numpy as np
>>> from mlp_xp_backends import get_backend
>>> xp = get_backend("cpu").xp
>>> ids = np.asarray([2, 0, 2])
>>> print(xp.one_hot(ids, 3, dtype=xp.float64))
[[0. 0. 1.]
 [1. 0. 0.]
 [0. 0. 1.]]
>>> print(xp.segment_sum(np.asarray([[1.0], [10.0], [100.0]]), ids, 3))
[[ 10.]
 [  0.]
 [101.]]
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from types import ModuleType, SimpleNamespace
from typing import Any

from mlp_xp_backends.typing import Array, Namespace

CREATION = ("arange", "asarray", "empty", "eye", "full", "linspace", "ones", "zeros")
"""The functions of the standard that create arrays, on a device of their choice."""


def names(base: ModuleType) -> Iterable[str]:
    """The public names of ``base``."""
    return (name for name in dir(base) if not name.startswith("_"))


class Members(SimpleNamespace):
    """The functions and constants of a namespace."""

    def __repr__(self) -> str:
        return f"<namespace of {len(vars(self))} functions and constants>"


def derived(base: ModuleType, **replacements: Any) -> Members:
    """The public members of ``base``, looked up once, with ``replacements``."""
    return Members(**{name: getattr(base, name) for name in names(base)} | replacements)


def mapped(base: ModuleType, f: Callable[[Callable[..., Any]], Any], only: Iterable[str]) -> dict[str, Any]:
    """``f`` applied to the functions of ``base`` named in ``only``."""
    return {name: f(getattr(base, name)) for name in only}


SegmentSum = Callable[[Array, Array, int], Array]


def extras(xp: Namespace) -> dict[str, Callable[..., Array]]:
    """Both functions, written in terms of ``xp``, by name."""
    return {"one_hot": partial(one_hot, xp), "segment_sum": over_models(xp, partial(segment_sum, xp))}


def one_hot(xp: Namespace, ids: Array, n: int, *, dtype: Any) -> Array:
    """``y[..., i] = (ids == i)`` as numbers of ``dtype``, of shape (*ids.shape, n)."""
    ids = xp.astype(ids, xp.int64, copy=False)  # small dtypes cannot count to n
    return xp.astype(xp.expand_dims(ids, axis=-1) == xp.arange(n, dtype=ids.dtype), dtype)


def segment_sum(xp: Namespace, values: Array, ids: Array, n: int) -> Array:
    """``y[i] =`` the sum of the rows of ``values`` (rows, d) with the id i in ``ids`` (rows,), of shape (n, d).

    Sorts the rows by id and adds neighbors at distances 1, 2, 4, ... (Hillis and Steele 1986) as long as their ids
    agree, so that the last row of each id holds its sum. The order of additions depends on the ids alone, no atomic
    addition takes place, and nothing larger than ``values`` and the result is allocated.
    """
    rows = values.shape[0]
    if not rows:
        return xp.zeros((n, values.shape[1]), dtype=values.dtype)
    ids = xp.astype(ids, xp.int64, copy=False)
    order = xp.argsort(ids, stable=True)
    ids, total = xp.take(ids, order, axis=0), xp.take(values, order, axis=0)
    zero = xp.zeros_like(total)
    distance = 1
    while distance < rows:
        same = xp.expand_dims(ids[distance:] == ids[:-distance], axis=-1)
        total = total + xp.concat([zero[:distance, :], xp.where(same, total[:-distance, :], zero[distance:, :])])
        distance *= 2
    ends = xp.searchsorted(ids, xp.arange(n, dtype=ids.dtype), side="right")  # one past the last row of each id
    last = xp.maximum(ends - 1, xp.zeros_like(ends))
    found = xp.expand_dims((ends > 0) & (xp.take(ids, last, axis=0) == xp.arange(n, dtype=ids.dtype)), axis=-1)
    sums = xp.take(total, last, axis=0)
    return xp.where(found, sums, xp.zeros_like(sums))


def over_models(xp: Namespace, flat: SegmentSum) -> SegmentSum:
    """``flat``, a sum of rows (rows, d) by ids (rows,), for any number of leading axes.

    ``values`` is (..., rows, d) and ``ids`` (..., rows), or (rows,), the same for all models; the sums are (..., n, d).
    """

    def segment_sum(values: Array, ids: Array, n: int) -> Array:
        *models, rows, d = values.shape
        if not models:
            return flat(values, ids, n)
        if ids.ndim == 1:  # models side by side: (rows, models * d)
            total = flat(xp.reshape(xp.moveaxis(values, -2, 0), (rows, -1)), ids, n)
            return xp.moveaxis(xp.reshape(total, (n, *models, d)), 0, -2)
        ids = xp.reshape(xp.astype(ids, xp.int64, copy=False), (-1, rows))  # models below each other: ids of their own
        count = ids.shape[0]
        ids = ids + n * xp.expand_dims(xp.arange(count, dtype=ids.dtype), axis=-1)
        total = flat(xp.reshape(values, (count * rows, d)), xp.reshape(ids, (-1,)), count * n)
        return xp.reshape(total, (*models, n, d))

    return segment_sum
