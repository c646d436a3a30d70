"""Groups of processes that run one job together, and backends whose compiled loops sum arrays over a group.

>>> import numpy as np
>>> from mlp_xp_backends import get_backend
>>> group = get_group(None)  # "mpi" in a program that mpiexec starts
>>> backend = with_group(get_backend("cpu"), group)
>>> backend.xp.all_sum(np.asarray([1.0, 2.0])).tolist()
[1.0, 2.0]
"""

from __future__ import annotations

from functools import cache

from mlp_xp_backends.groups.base import Group, Solo
from mlp_xp_backends.groups.binding import with_group
from mlp_xp_backends.protocol import BackendError

__all__ = ["Group", "Solo", "get_group", "with_group"]

NAMES = ("mpi", "nccl", "torch")


@cache
def get_group(name: str | None = None) -> Group:
    """Return the group of processes to which this process belongs; the same name always returns the same object.

    ``mpi`` communicates host arrays by MPI (``mpiexec -n 4 python -m mpi4py program.py``), ``nccl`` CuPy arrays between
    GPUs, and ``torch`` torch tensors by torch.distributed (``torchrun``). ``None`` is the group of this process alone.
    Raises `BackendError` if the name is unknown or a library is missing; the message says what to install.
    """
    if name is None:
        return Solo()
    if name == "mpi":
        from mlp_xp_backends.groups.mpi import MpiGroup

        return MpiGroup()
    if name == "nccl":
        from mlp_xp_backends.groups.nccl import NcclGroup

        return NcclGroup()
    if name == "torch":
        from mlp_xp_backends.groups.torch_distributed import TorchGroup

        return TorchGroup()
    raise BackendError(f"unknown group {name!r}.\nKnown names: {', '.join(NAMES)}; None for a single process.")
