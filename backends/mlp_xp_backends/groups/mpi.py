"""A group of processes that communicate by MPI, through mpi4py."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any, NoReturn

import numpy as np

from mlp_xp_backends.groups.base import Numbered, end_all_with, report
from mlp_xp_backends.memory import as_host
from mlp_xp_backends.protocol import BackendError
from mlp_xp_backends.typing import Array

INSTALL = 'pip install "mlp-xp[mpi]"'
CUDA_AWARE = ("MPICH_GPU_SUPPORT_ENABLED", "OMPI_MCA_opal_cuda_support")
"""Environment variables by which users of MPICH and Open MPI enable communication of device memory."""


FORWARD = 0.2
"""Seconds for the launcher to forward the output before the end of the job discards the rest."""


class MpiGroup(Numbered):
    """The processes that ``mpiexec`` started.

    Host arrays are communicated without a copy. CuPy arrays are copied to the host, or communicated directly after a
    synchronization of the stream if one of the variables in `CUDA_AWARE` is set.

    An exception that ends one rank ends all ranks. To include exceptions raised before the group exists, start programs
    as ``mpiexec -n 4 python -m mpi4py program.py``.
    """

    def __init__(self) -> None:
        self._mpi = _imported()
        self._comm = self._mpi.COMM_WORLD
        self.rank, self.size = int(self._comm.Get_rank()), int(self._comm.Get_size())
        node = self._comm.Split_type(self._mpi.COMM_TYPE_SHARED)
        self.local_rank = int(node.Get_rank())
        node.Free()
        self.native = frozenset({"numpy", "cupy"} if is_cuda_aware(os.environ) else {"numpy"})
        if self.size > 1:
            end_all_with(self.abort)

    def sum(self, x: Array, out: Array | None = None) -> Array:
        """See `Group`."""
        x, out = _buffers(x, out)
        self._comm.Allreduce(x, out)
        return out

    def broadcast(self, x: Array, root: int = 0) -> Array:
        """Return the ``x`` of rank ``root``, as a new array."""
        x, out = _buffers(x)
        out[...] = x
        _synchronize(out)
        self._comm.Bcast(out, root=root)
        return out

    def barrier(self) -> None:
        """Wait until all ranks have reached this call."""
        self._comm.Barrier()

    def abort(self, message: str) -> NoReturn:
        """Print ``message`` to standard error and end the processes of all ranks."""
        report(self.rank, message)
        time.sleep(FORWARD)
        self._comm.Abort(1)
        raise SystemExit(1)


def is_cuda_aware(environment: Mapping[str, str]) -> bool:
    """Whether the environment declares that MPI can communicate device memory.

    >>> is_cuda_aware({"MPICH_GPU_SUPPORT_ENABLED": "1"}), is_cuda_aware({})
    (True, False)
    """
    return any(environment.get(name, "").lower() in ("1", "true") for name in CUDA_AWARE)


def _buffers(x: Array, out: Array | None = None) -> tuple[Array, Array]:
    """Return ``x``, contiguous, and ``out`` or an array like ``x``, ready for MPI to read from and write to."""
    if type(x).__module__.partition(".")[0] == "cupy":
        import cupy

        with x.device:
            x = cupy.asarray(x, order="C")  # ascontiguousarray would give a 0-d array an axis
            out = cupy.empty_like(x) if out is None else out
        _synchronize(x)
        return x, out
    host = np.asarray(as_host(x), order="C")
    return host, np.empty_like(host) if out is None else out


def _synchronize(x: Array) -> None:
    """Wait for the kernels that a CuPy array depends on: MPI does not know CUDA streams (pylops-mpi, issue 182)."""
    if not isinstance(x, np.ndarray):
        import cupy

        with x.device:
            cupy.cuda.get_current_stream().synchronize()


def _imported() -> Any:
    try:
        from mpi4py import MPI
    except ModuleNotFoundError as error:
        raise BackendError(f'group "mpi" needs mpi4py, which is not installed.\nRun: {INSTALL}') from error
    except (ImportError, RuntimeError) as error:
        said = str(error).partition("\n")[0]
        raise BackendError(f'group "mpi": mpi4py does not find an MPI library: {said}.\nRun: {INSTALL}') from error
    return MPI
