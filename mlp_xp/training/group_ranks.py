"""Training on several processes: the rows of each rank, and the values on which the ranks have to agree."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Hashable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any, TypeVar, cast

import numpy as np  # noqa: TID251  messages between ranks are host arrays

from mlp_xp._checks import check_kind
from mlp_xp.data.feed import Batch, Feed, fits, is_mapped, shares_memory
from mlp_xp.data.shares import Shards, Slices, share
from mlp_xp.files.snapshot import Plan
from mlp_xp.model import as_backend
from mlp_xp.nn.layers import Chain
from mlp_xp.training.epoch import row_order, step_count
from mlp_xp.training.messages import Messages
from mlp_xp.training.ranks import Division, Ranks
from mlp_xp_backends import Backend
from mlp_xp_backends.groups import Group, get_group, with_group
from mlp_xp_backends.groups.base import gpu_of
from mlp_xp_backends.probe import probe
from mlp_xp_backends.trees import ABSENT, leaves
from mlp_xp_backends.typing import HostArray

T = TypeVar("T")
ADDRESS = re.compile(r" at 0x[0-9a-f]+")
"""The address in the ``repr`` of functions, which differs between processes."""


def ranks_of(group: str | Group | None) -> Ranks:
    """The ranks of a group, or of the group with that name; ``None`` means a single process."""
    if group is None or isinstance(group, str):
        group = get_group(group)
    else:
        check_kind("group", group, ("sum", "broadcast", "barrier", "abort"), "'mpi' or get_group('mpi')")
    return Ranks(group) if group.size == 1 else GroupRanks(group)


class GroupRanks(Ranks):
    """The processes of a group of two or more."""

    def __init__(self, group: Group) -> None:
        super().__init__(group)
        self.rank, self.size = group.rank, group.size
        self.messages = Messages(group)

    def together(self) -> AbstractContextManager[None]:
        """See `Messages.together`."""
        return self.messages.together()

    def steps(self, chunks: Iterable[T]) -> Iterable[T]:
        """See `Messages.steps`."""
        return self.messages.steps(chunks)

    def backend(self, device: str | Backend | None) -> Backend:
        """The backend of that name; each rank of a machine gets its own GPU unless ``device`` gives a number.

        Raises `BackendError` for a library that cannot run with a group.
        """
        backend = as_backend(device)
        self.bound(backend)
        unnumbered = device is None or (isinstance(device, str) and not device.endswith(":0"))
        if backend.device == "cuda:0" and unnumbered and self.group.local_rank:
            library = "" if backend.name == "cupy" else f"{backend.name}:"
            visible = len(probe(f"{library}cuda" if library else "cupy").devices)
            backend = as_backend(f"{library}cuda:{gpu_of(self.group.local_rank, visible)}")
        return backend

    def bound(self, backend: Backend) -> Backend:
        """See `Ranks`."""
        return _bound(backend, cast(Hashable, self.group))

    def division(self, rows: int, sharded: bool) -> Division:
        """See `Ranks`."""
        if not sharded:
            return Division(rows, partial(Slices, rank=self.rank, size=self.size))
        counts = tuple(self.gather(rows))
        return Sharded(sum(counts), partial(Shards, rank=self.rank, counts=counts), self, counts)

    def own(self, rows: int) -> slice:
        """See `Ranks`."""
        return slice(*share(rows, self.rank, self.size))

    def feed(self, backend: Backend, network: Chain, data: Batch, dtype: str, resident: bool | None) -> Feed:
        """See `Ranks`."""
        if resident is None:
            whole = shares_memory(backend, network, data, dtype) or not any(map(is_mapped, leaves(data)))
            resident = not self.any(not (whole and fits(backend, network, data, dtype)))
        feed = super().feed(backend, network, data, dtype, resident)
        return replace(feed, bytes_per_row=max(self.gather(feed.bytes_per_row)))

    def random_state(self, drawn: Any) -> Any:
        """See `Ranks`."""
        name, key, *numbers = drawn.get_state()
        position, *gauss = self.messages.broadcast(np.asarray(numbers, np.float64)).tolist()
        drawn.set_state((name, self.messages.broadcast(key.astype(np.int64)), int(position), *map(float, gauss)))
        return drawn

    def any(self, flag: bool) -> bool:
        """See `Ranks`."""
        return self.messages.any(flag)

    def total(self, numbers: Any) -> HostArray:
        """See `Ranks`."""
        return self.messages.sum(np.asarray(numbers, np.float64))

    def gather(self, number: int) -> list[int]:
        """See `Ranks`."""
        own = np.zeros(self.size, np.int64)
        own[self.rank] = number
        return list(map(int, self.messages.sum(own)))

    def first(self, number: float) -> float:
        """See `Ranks`."""
        return float(self.messages.broadcast(np.asarray([number], np.float64))[0])

    def check_equal(self, **things: Any) -> None:
        """See `Ranks`."""
        own = np.asarray([_digest(thing) for thing in things.values()])
        differs = self.messages.sum((own != self.messages.broadcast(own)).astype(np.int64)) > 0
        if differs.any():
            names = ", ".join(name for name, different in zip(things, differs, strict=True) if different)
            raise ValueError(f"the ranks must run the same program, but they differ in: {names}")


@dataclass(frozen=True)
class Sharded(Division):
    """The division of data if each rank has its own rows."""

    ranks: GroupRanks
    counts: tuple[int, ...]
    """The rows that each rank has."""

    def order(self, rng: np.random.Generator, plan: Plan) -> HostArray:
        """The order of this rank's own rows."""
        own = np.random.default_rng([int(rng.integers(2**63)), self.ranks.rank])
        return row_order(own, plan._replace(rows=self.counts[self.ranks.rank]))

    def weights(self, order: HostArray, batch_size: int, w: Any) -> HostArray:
        """See `Division`."""
        batches = self.cut(order, batch_size)
        steps = range(step_count(self.rows, batch_size))
        parts = (batches.rows(step, step + 1) for step in steps)
        return self.ranks.total([part.size if w is ABSENT else np.sum(w[part], dtype=np.float64) for part in parts])


@lru_cache(maxsize=8)
def _bound(backend: Backend, group: Hashable) -> Backend:
    return with_group(backend, cast(Group, group))


def _digest(thing: Any) -> int:
    """63 bits that depend on all of a tree of arrays, or on the ``repr`` of anything else."""
    found = hashlib.sha256()
    _absorb(found, thing)
    return int.from_bytes(found.digest()[:8], "big") >> 1


def _absorb(found: Any, thing: Any) -> None:
    if isinstance(thing, np.ndarray):
        found.update(f"{thing.dtype} {thing.shape}".encode())
        found.update(np.ascontiguousarray(thing).tobytes())
    elif isinstance(thing, Mapping):
        _absorb(found, tuple(thing.items()))
    elif isinstance(thing, tuple):
        for part in thing:
            _absorb(found, part)
    else:
        found.update(ADDRESS.sub("", repr(thing)).encode())
