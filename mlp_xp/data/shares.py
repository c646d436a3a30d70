"""The batches of one rank of a group of processes: a slice of every batch, or rows that only this rank has."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np  # noqa: TID251  row numbers are drawn on the host

from mlp_xp.data.feed import Batches, Place, Whole, bounds_of_chunks
from mlp_xp_backends.typing import HostArray


@dataclass(frozen=True, eq=False)
class Slices(Whole):
    """The rows of one rank: every batch is cut into ``size`` contiguous slices, as equal as possible."""

    rank: int
    size: int

    def rows(self, start: int, end: int) -> HostArray:
        """See `Batches`. There may be none."""
        batches = super().rows(start, end)
        return np.ascontiguousarray(batches[:, slice(*share(batches.shape[-1], self.rank, self.size))])

    def place(self, start: int, end: int) -> Place:
        """See `Batches`."""
        rows = super().rows(start, start + 1).shape[-1]
        first, _ = share(rows, self.rank, self.size)
        return Place(np.full(end - start, first, np.int32), np.full(end - start, float(rows)))


@dataclass(frozen=True, eq=False)
class Shards(Batches):
    """The rows of a rank that has its own data: rank r has ``counts[r]`` rows and spreads them over all steps.

    An epoch takes as many steps as for one data set of all rows, and batches have ``batch_size`` rows, give or take one
    row per rank. ``order`` contains the rank's own row numbers.
    """

    order: HostArray
    batch_size: int
    rank: int
    counts: tuple[int, ...]

    def bounds(self, most: int, start: int) -> list[int]:
        """See `Batches`; a chunk also ends where the slice of any rank becomes one row smaller."""
        steps = self.steps
        regular = bounds_of_chunks(steps, 1, most, start)
        return sorted({*regular, *(n % steps for n in self.counts if n % steps > start)})

    @property
    def steps(self) -> int:
        """Steps of the epoch."""
        return -(-sum(self.counts) // self.batch_size)

    def rows(self, start: int, end: int) -> HostArray:
        """See `Batches`."""
        first, last = (self._before(self.rank, step) for step in (start, end))
        return np.ascontiguousarray(self.order[first:last].reshape(end - start, -1))

    def place(self, start: int, end: int) -> Place:
        """See `Batches`."""
        sizes = [self._before(rank, start + 1) - self._before(rank, start) for rank in range(len(self.counts))]
        first, rows = sum(sizes[: self.rank]), float(sum(sizes))
        return Place(np.full(end - start, first, np.int32), np.full(end - start, rows))

    def _before(self, rank: int, step: int) -> int:
        """How many of its rows a rank has used before a step."""
        each, more = divmod(self.counts[rank], self.steps)
        return each * step + min(step, more)


def share(n: int, rank: int, size: int) -> tuple[int, int]:
    """The bounds of a rank's share of ``n`` items; shares are contiguous and as equal as possible.

    >>> [share(5, rank, 3) for rank in range(3)]
    [(0, 2), (2, 4), (4, 5)]
    """
    each, more = divmod(n, size)
    first = rank * each + min(rank, more)
    return first, first + each + (rank < more)
