"""The batches of an epoch: all their rows, or those of one rank of a group of processes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np  # noqa: TID251  row numbers are drawn on the host

from mlp_xp_backends.trees import ABSENT
from mlp_xp_backends.typing import HostArray


class Place(NamedTuple):
    """Where the rows of a rank are in each batch: see `mlp_xp.nn.parts.Part`."""

    first: HostArray  # (steps,) int32
    rows: HostArray  # (steps,) float64


class Batches(Protocol):
    """The rows of each step of an epoch. Steps, bounds and places are the same, or agree, on all ranks."""

    order: HostArray
    """Row numbers, ([models,] rows)."""
    batch_size: int

    def bounds(self, most: int, start: int) -> list[int]:
        """Where chunks of at most ``most`` steps begin and end, from step ``start`` on; equal shapes in each chunk."""
        ...

    def rows(self, start: int, end: int) -> HostArray:
        """The rows of the steps ``start`` to ``end - 1`` of a chunk, (steps, [models,] rows)."""
        ...

    def place(self, start: int, end: int) -> Any:
        """The `Place` of these rows, or `ABSENT` if they are whole batches."""
        ...


Cut = Callable[[HostArray, int], Batches]
"""From the order of the rows in an epoch and the batch size to its batches."""


@dataclass(frozen=True, eq=False)
class Whole(Batches):
    """All rows of every batch."""

    order: HostArray
    batch_size: int

    def bounds(self, most: int, start: int) -> list[int]:
        """See `Batches`."""
        return bounds_of_chunks(self.order.shape[-1], self.batch_size, most, start)

    def rows(self, start: int, end: int) -> HostArray:
        """See `Batches`."""
        rows = self.order[..., start * self.batch_size : end * self.batch_size]
        rows = rows.reshape(*self.order.shape[:-1], end - start, -1)
        return np.ascontiguousarray(np.moveaxis(rows, -2, 0))

    def place(self, start: int, end: int) -> Any:
        """See `Batches`."""
        return ABSENT


@dataclass(frozen=True, eq=False)
class Slices(Whole):
    """The rows of one rank: every batch is cut into ``size`` contiguous slices, as equal as can be."""

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
    """The rows of one rank that alone has them: rank r has ``counts[r]`` rows and spreads them over all steps.

    An epoch takes as many steps as for one data set of all rows, and batches have ``batch_size`` rows up to one
    for each rank. ``order`` holds the rank's own row numbers.
    """

    order: HostArray
    batch_size: int
    rank: int
    counts: tuple[int, ...]

    def bounds(self, most: int, start: int) -> list[int]:
        """See `Batches`: a chunk also ends where the slice of any rank becomes a row smaller."""
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
    """Begin and end of the share of a rank in ``n`` things, contiguous and as equal as can be.

    >>> [share(5, rank, 3) for rank in range(3)]
    [(0, 2), (2, 4), (4, 5)]
    """
    each, more = divmod(n, size)
    first = rank * each + min(rank, more)
    return first, first + each + (rank < more)


def bounds_of_chunks(rows: int, batch_size: int, most: int, start: int) -> list[int]:
    """Where chunks begin and end, in steps: at multiples of one length as far as possible, and before a smaller batch.

    Some backends compile for every length.
    """
    full, steps = rows // batch_size, -(-rows // batch_size)
    most = min(most, max(full, 1))
    length = next((n for n in range(most, most // 2, -1) if full % n == 0), most)
    return sorted({start, *(step for step in (*range(0, full, length), full, steps) if step > start)})
