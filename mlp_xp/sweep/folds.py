"""Folds: the rows to train on and those held out."""

from __future__ import annotations

from typing import Any

import numpy as np  # noqa: TID251  row numbers are host arrays

from mlp_xp._checks import check_count, shown
from mlp_xp_backends.typing import Array, HostArray

Folds = list[tuple[HostArray, HostArray]]


def as_folds(folds: Any, x: Array, y: Array) -> Folds:
    """Pairs of training rows and held-out rows; none for ``None``.

    ``folds`` is a number (of contiguous parts, as scikit-learn's ``KFold``), an object with a method ``split``, or
    pairs of row numbers.
    """
    if folds is None:
        return []
    rows = int(np.shape(x)[0])
    if hasattr(folds, "split"):
        pairs = list(folds.split(np.zeros((rows, 1)), np.asarray(y)))
    elif hasattr(folds, "__iter__"):
        pairs = list(folds)
    else:
        k = check_count("folds", folds)
        if not 2 <= k <= rows:
            raise ValueError(f"folds must be from 2 to the number of rows, {rows}, not {k}")
        parts = np.array_split(np.arange(rows), k)
        pairs = [(np.concatenate([*parts[:i], *parts[i + 1 :]]), parts[i]) for i in range(k)]
    return [(_rows(a, rows), _rows(b, rows)) for a, b in (_pair(pair) for pair in pairs)]


def _pair(pair: Any) -> Any:
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        raise TypeError(f"folds must be a number, a splitter or pairs of row numbers, not {shown(pair)}")
    return pair


def _rows(numbers: Any, rows: int) -> HostArray:
    """Row numbers, or a mask of the rows."""
    found = np.asarray(numbers)
    if found.dtype.kind == "b" and found.shape == (rows,):
        found = np.flatnonzero(found)
    if found.ndim != 1 or found.size == 0 or found.dtype.kind not in "ui":
        raise ValueError(f"a fold must have at least one row number on each side, not {shown(numbers)}")
    if found.min() < 0 or found.max() >= rows:
        raise ValueError(f"a fold names the rows {found.min()} ... {found.max()}, but x has {rows} rows, from 0")
    return found.astype(np.int32 if rows <= 2**31 else np.int64)
