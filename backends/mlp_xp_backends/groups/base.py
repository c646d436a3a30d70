"""The interface of a group of processes, and the group of a single process."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import NamedTuple, NoReturn, Protocol

from mlp_xp_backends.protocol import BackendError
from mlp_xp_backends.typing import Array


class Group(Protocol):
    """The processes that run one job together. Every rank must make the same calls in the same order.

    Arrays may have any shape and any real numeric dtype, which must be the same on every rank. A group accepts NumPy
    arrays and the arrays of the libraries in `native`.

    >>> group = get_group(None)
    >>> group.rank, group.size
    (0, 1)
    """

    rank: int
    """The number of this process: ``0 <= rank < size``."""
    size: int
    """The number of processes."""
    local_rank: int
    """The number of this process among those of the same machine, which selects its GPU."""
    native: frozenset[str]
    """Names of the backends whose arrays the group communicates without a copy to the host."""

    def sum(self, x: Array, out: Array | None = None) -> Array:
        """Return the sum of ``x`` over all ranks, with the same bits on every rank: a new array, or ``out`` if given.

        ``out`` is a contiguous array with the shape and dtype of ``x`` that does not overlap ``x``.
        """

    def broadcast(self, x: Array, root: int = 0) -> Array:
        """Return the ``x`` of rank ``root``, as a new array."""

    def barrier(self) -> None:
        """Wait until all ranks have reached this call."""

    def abort(self, message: str) -> NoReturn:
        """Print ``message`` to standard error and end the processes of all ranks with a non-zero exit code."""


class Numbered:
    """A process of a group: the ``repr`` of groups."""

    rank: int
    size: int

    def __repr__(self) -> str:
        return f"<{type(self).__name__}, rank {self.rank} of {self.size}>"


class Solo(Numbered):
    """The group of a single process.

    >>> group = Solo()
    >>> group.rank, group.size
    (0, 1)
    """

    rank, size, local_rank = 0, 1, 0
    native = frozenset({"numpy", "cupy", "torch", "array_api_strict"})

    def sum(self, x: Array, out: Array | None = None) -> Array:
        """Return ``x`` itself, or ``out`` with the values of ``x``."""
        return stored(x, out)

    def broadcast(self, x: Array, root: int = 0) -> Array:
        """Return ``x`` itself."""
        return x

    def barrier(self) -> None:
        """Return at once."""

    def abort(self, message: str) -> NoReturn:
        """End the process with ``message``."""
        raise SystemExit(message)


class Place(NamedTuple):
    """The position of this process in its job, which the launcher has put into the environment."""

    rank: int
    size: int
    local_rank: int


LAUNCHERS = (
    ("RANK", "WORLD_SIZE", "LOCAL_RANK"),  # torchrun
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),  # Open MPI
    ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID"),  # MPICH, and srun --mpi=pmi2, which sets SLURM_LOCALID only
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"),  # srun, but not the batch script around it
)
"""The environment variables of each launcher; those of the innermost launcher come first."""


def place(environment: Mapping[str, str] = os.environ) -> Place:
    """Return the position of this process: rank 0 of 1 if no launcher started it.

    >>> place({"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1"})
    Place(rank=3, size=8, local_rank=1)
    """
    for rank, size, local in LAUNCHERS:
        if rank in environment and size in environment:
            number = environment[rank]
            local_rank = environment.get(local, environment.get("SLURM_LOCALID", number))
            return Place(int(number), int(environment[size]), int(local_rank))
    return Place(0, 1, 0)


def gpu_of(local_rank: int, visible: int) -> int:
    """Return the number of a rank's GPU among the GPUs that are visible to its process.

    It is ``local_rank``, or 0 if only one GPU is visible because the launcher binds each rank to a GPU of its own.
    Raises `BackendError` if there are fewer GPUs than ranks.

    >>> gpu_of(2, visible=4), gpu_of(2, visible=1)
    (2, 0)
    """
    if visible == 1:
        return 0
    if local_rank >= visible:
        raise BackendError(
            f"rank {local_rank} of this machine has no GPU: {visible} are visible.\n"
            f"Start at most {visible} ranks on it."
        )
    return local_rank


def end_all_with(abort: Callable[[str], NoReturn]) -> None:
    """Call ``abort`` after an uncaught exception. Otherwise, the rank and the others could wait for each other."""

    def ended(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        sys.__excepthook__(kind, error, trace)
        abort(f"ended by {kind.__name__}")

    sys.excepthook = ended


def stored(x: Array, out: Array | None) -> Array:
    """Return ``x``, or ``out`` with the values of ``x`` if ``out`` is given."""
    if out is None:
        return x
    out[...] = x
    return out


def report(rank: int, message: str) -> None:
    """Print ``message`` to standard error with the rank in front."""
    print(f"rank {rank}: {message}", file=sys.stderr, flush=True)
