"""The interface of a group of processes, and the group of one."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import NamedTuple, NoReturn, Protocol

from mlp_xp_backends.typing import Array


class Group(Protocol):
    """The processes that run one job together. Every rank must make the same calls in the same order.

    Arrays may have any shape and any real numeric dtype, but the same ones on every rank. A group takes NumPy arrays
    and the arrays of the libraries in `native`.
    """

    rank: int
    """The number of this process: ``0 <= rank < size``."""
    size: int
    """The number of processes."""
    local_rank: int
    """The number of this process among those of the same machine: which of its GPUs to use."""
    native: frozenset[str]
    """Names of the backends whose arrays the group communicates without a copy to the host."""

    def sum(self, x: Array, out: Array | None = None) -> Array:
        """Return the sum of ``x`` over all ranks, with the same bits on every rank: a new array, or ``out`` if given.

        ``out`` is a contiguous array of the shape and dtype of ``x`` in other memory.
        """

    def broadcast(self, x: Array, root: int = 0) -> Array:
        """Return the ``x`` of rank ``root``, as a new array."""

    def barrier(self) -> None:
        """Wait until all ranks have reached this call."""

    def abort(self, message: str) -> NoReturn:
        """Print ``message`` to standard error and end the processes of all ranks with a non-zero exit code."""


class Solo:
    """The group of one process.

    >>> group = Solo()
    >>> group.rank, group.size
    (0, 1)
    """

    rank, size, local_rank = 0, 1, 0
    native = frozenset({"numpy", "cupy", "torch", "array_api_strict"})

    def sum(self, x: Array, out: Array | None = None) -> Array:
        """``x`` itself, or ``out`` with the numbers of ``x``."""
        return stored(x, out)

    def broadcast(self, x: Array, root: int = 0) -> Array:
        """``x`` itself."""
        return x

    def barrier(self) -> None:
        """Return at once."""

    def abort(self, message: str) -> NoReturn:
        """End the process with ``message``."""
        raise SystemExit(message)


class Place(NamedTuple):
    """The place of this process in its job, as the launcher put it into the environment."""

    rank: int
    size: int
    local_rank: int


LAUNCHERS = (
    ("RANK", "WORLD_SIZE", "LOCAL_RANK"),  # torchrun
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),  # Open MPI
    ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID"),  # MPICH
    ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"),
)
"""The variables of each launcher; those of the innermost one come first."""


def place(environment: Mapping[str, str] = os.environ) -> Place:
    """The place of this process; rank 0 of 1 without a launcher.

    >>> place({"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1"})
    Place(rank=3, size=8, local_rank=1)
    """
    for rank, size, local in LAUNCHERS:
        if rank in environment and size in environment:
            return Place(int(environment[rank]), int(environment[size]), int(environment.get(local, environment[rank])))
    return Place(0, 1, 0)


def stored(x: Array, out: Array | None) -> Array:
    """``x``, or ``out`` with the numbers of ``x`` if there is one."""
    if out is None:
        return x
    out[...] = x
    return out


def report(rank: int, message: str) -> None:
    """Print ``message`` to standard error with the rank in front."""
    print(f"rank {rank}: {message}", file=sys.stderr, flush=True)
