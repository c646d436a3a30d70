"""One-hot rows and sums by id."""

from __future__ import annotations

import numpy as np

from mlp_xp_backends.typing import HostArray


class OneHot:
    """Update ``out``, zeros at first, to the one-hot rows of ``ids``, whose elements change between calls."""

    def __init__(self, out: HostArray, ids: HostArray) -> None:
        self.flat, self.n, self.ids = out.reshape(-1), out.shape[-1], ids
        self.starts = np.arange(ids.size) * self.n
        self.ones = np.empty(0, np.intp)

    def __call__(self) -> None:
        """Move the ones. An id outside [0, n) has a row of zeros."""
        ids = self.ids.reshape(-1).astype(np.intp, copy=False)
        places = self.starts + ids
        if ids.min() < 0 or ids.max() >= self.n:
            places = places[(ids >= 0) & (ids < self.n)]
        self.flat[self.ones] = 0
        self.ones = places  # before writing, so that the next call repairs an interrupted one
        self.flat[places] = 1


class SumById:
    """Compute ``out[i]``, the sum of the ``rows`` with id i, in order."""

    def __init__(self, out: HostArray, ids: HostArray, rows: HostArray) -> None:
        self.out, self.ids, self.rows = out, ids, rows
        self.columns = np.arange(rows.shape[1])
        self.first = np.empty(ids.shape, np.intp)
        self.places = np.empty(rows.shape, np.intp)

    def __call__(self) -> None:
        """Compute the sums. Raises IndexError for an id outside [0, len(out))."""
        if self.ids.size and (self.ids.min() < 0 or self.ids.max() >= len(self.out)):
            raise IndexError(f"segment_sum: ids must be at least 0 and below {len(self.out)}")
        np.multiply(self.ids[:, None], len(self.columns), out=self.first[:, None], dtype=np.intp, casting="unsafe")
        np.add(self.first[:, None], self.columns, out=self.places)
        self.out[...] = 0
        np.add.at(self.out.reshape(-1), self.places.reshape(-1), self.rows.reshape(-1))
