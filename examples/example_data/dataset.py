"""The result of every loader, and the splitting of data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["DataError", "Dataset", "Split", "split"]

Ints = npt.NDArray[np.int32]


class DataError(ValueError):
    """Data are missing, damaged or of another kind; the message says what was expected and what to do."""


class Split(NamedTuple):
    """Items and their targets, on the host."""

    x: npt.NDArray[Any]  # (n, features): uint8 pixels 0-255, int32 word ids or float64 coordinates
    y: Ints  # (n,) int32 class or word ids from 0


class Dataset(NamedTuple):
    """A data set, split into parts, with the names and shapes needed to display it."""

    name: str
    source: str  # one line for the user: where the data came from and, for a substitute, why
    train: Split
    valid: Split | None
    test: Split
    classes: tuple[str, ...]  # the name of each target
    shape: tuple[int, ...]  # of one item for display: (28, 28) for an image, (3,) for three words


def split(data: Split, parts: Sequence[float], rng: np.random.Generator) -> tuple[Split, ...]:
    """Shuffle ``data`` with ``rng`` and split it in the proportions ``parts``.

    If ``parts`` add up to the number of items, they are the sizes: ``split(data, (55_000, 5_000), rng)``.
    Raises `DataError` if a part would be empty.
    """
    rows = rng.permutation(len(data.x))
    return tuple(Split(data.x[part], data.y[part]) for part in cut(rows, parts))


def cut(items: npt.NDArray[Any], parts: Sequence[float]) -> list[npt.NDArray[Any]]:
    """Split ``items``, in their order, in the proportions ``parts``."""
    weights = np.asarray(parts, np.float64)
    if weights.ndim != 1 or not weights.size or not np.all(np.isfinite(weights) & (weights > 0)):
        raise DataError(f"parts must be positive numbers, the sizes or proportions of a split, not {parts!r}")
    ends = np.rint(np.cumsum(weights) / np.sum(weights) * len(items)).astype(np.int64)
    pieces = np.split(items, ends[:-1])
    if not all(map(len, pieces)):
        raise DataError(f"{len(items)} items in the proportions {tuple(parts)} leave a part empty: use more data")
    return pieces
