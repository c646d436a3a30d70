"""Sums by id."""

from __future__ import annotations

import numpy as np

from mlp_xp_backends.typing import HostArray


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
