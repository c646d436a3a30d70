"""The processes of a run, its ranks: the values that they exchange, and the division of the rows of an epoch.

`Ranks` is a run in a single process, without any communication; the ranks of a group are in `group_ranks`.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np  # noqa: TID251  sums over ranks are host arrays

from mlp_xp.data.feed import Batch, Cut, Feed, Whole, make_feed
from mlp_xp.files.snapshot import Plan
from mlp_xp.model import as_backend
from mlp_xp.nn.layers import Chain
from mlp_xp.training.epoch import batch_weights, row_order
from mlp_xp_backends import Backend
from mlp_xp_backends.groups import Group, get_group
from mlp_xp_backends.typing import HostArray

T = TypeVar("T")


@dataclass(frozen=True)
class Division:
    """How the rows of an epoch are divided among the ranks, which all have the same data."""

    rows: int
    """The number of rows in an epoch."""
    cut: Cut
    """A function from an order of rows to this rank's part of the batches."""

    def order(self, rng: np.random.Generator, plan: Plan) -> HostArray:
        """The order of the rows in an epoch; advances ``rng`` equally on all ranks."""
        return row_order(rng, plan)

    def weights(self, order: HostArray, batch_size: int, w: Any) -> HostArray:
        """The sum of the sample weights in each batch, over all ranks, (steps,) float64."""
        return batch_weights(order, batch_size, w)


class Ranks:
    """The processes of a run; ``rank`` is the number of this one, here the only one."""

    rank, size = 0, 1

    def __init__(self, group: Group) -> None:
        self.group = group

    def together(self) -> AbstractContextManager[None]:
        """A context whose body ends with an error on all ranks or on none."""
        return nullcontext()

    def steps(self, chunks: Iterable[T]) -> Iterable[T]:
        """``chunks``, computed by loops that sum over the ranks."""
        return chunks

    def backend(self, device: str | Backend | None) -> Backend:
        """The backend of that name; with a group, on a separate GPU for each rank of a machine."""
        return as_backend(device)

    def bound(self, backend: Backend) -> Backend:
        """The backend for loops over steps: with ``all_sum`` in its namespace if there are several ranks."""
        return backend

    def division(self, rows: int, sharded: bool) -> Division:
        """The division of data of which this rank has ``rows`` rows: its own if ``sharded``, otherwise those of all."""
        return Division(rows, Whole)

    def own(self, rows: int) -> slice:
        """The rows of a data set that this rank evaluates."""
        return slice(0, rows)

    def feed(self, backend: Backend, network: Chain, data: Batch, dtype: str, resident: bool | None) -> Feed:
        """The feed of the data, of the same kind on all ranks; memory-mapped data as described in `Trainer.fit`."""
        return make_feed(backend, network, data, dtype, resident)

    def random_state(self, drawn: Any) -> Any:
        """A `numpy.random.RandomState` in the state that it has on rank 0."""
        return drawn

    def any(self, flag: bool) -> bool:
        """Whether ``flag`` is set on any rank."""
        return bool(flag)

    def total(self, numbers: Any) -> HostArray:
        """The sum over the ranks of float64 numbers."""
        return np.asarray(numbers, np.float64)

    def gather(self, number: int) -> list[int]:
        """The values of ``number`` on all ranks."""
        return [number]

    def first(self, number: float) -> float:
        """The value of ``number`` on rank 0."""
        return float(number)

    def check_equal(self, **things: Any) -> None:
        """Raise `ValueError` on all ranks unless every value, compared by its ``repr``, is equal on all of them."""


ALONE = Ranks(get_group(None))
"""The ranks of a run without a group."""
