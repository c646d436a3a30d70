"""A group of processes, one for each GPU, that communicate by NCCL, through CuPy."""

from __future__ import annotations

import atexit
import os
import sys
from typing import Any, NoReturn

from mlp_xp_backends.groups.base import place, report, stored
from mlp_xp_backends.protocol import BackendError
from mlp_xp_backends.typing import Array

INSTALL = "pip install nvidia-nccl-cu13"


class NcclGroup:
    """Processes that ``torchrun``, ``mpiexec`` or ``srun`` started, one for each GPU.

    Makes the GPU with the number `local_rank` the current device: use ``device=f"cuda:{group.local_rank}"``. The ranks
    find each other at the address in ``CUPYX_DISTRIBUTED_HOST`` and ``CUPYX_DISTRIBUTED_PORT``, by default of this
    machine.
    """

    native = frozenset({"cupy"})

    def __init__(self) -> None:
        self.rank, self.size, self.local_rank = place()
        self._cupy, distributed = _imported()
        self._cupy.cuda.Device(self.local_rank).use()
        self._comm = distributed.init_process_group(self.size, self.rank)
        atexit.register(self._comm.stop)

    def sum(self, x: Array, out: Array | None = None) -> Array:
        """See `Group`."""
        on_device = self._cupy.ascontiguousarray(self._cupy.asarray(x))
        direct = isinstance(out, self._cupy.ndarray)
        total = out if direct else self._cupy.empty_like(on_device)
        self._comm.all_reduce(on_device, total)
        return total if direct else stored(self._like(x, total), out)

    def broadcast(self, x: Array, root: int = 0) -> Array:
        """Return the ``x`` of rank ``root``, as a new array."""
        out = self._cupy.array(x, order="C")
        self._comm.broadcast(out, root)
        return self._like(x, out)

    def barrier(self) -> None:
        """Wait until all ranks have reached this call."""
        self._comm.barrier()

    def abort(self, message: str) -> NoReturn:
        """Print ``message`` to standard error and end this process; its launcher ends the others."""
        report(self.rank, message)
        sys.stdout.flush()
        os._exit(1)

    def _like(self, x: Array, result: Array) -> Array:
        return result if isinstance(x, self._cupy.ndarray) else self._cupy.asnumpy(result)


def _imported() -> tuple[Any, Any]:
    try:
        import cupy
        from cupy.cuda import nccl
        from cupyx import distributed
    except ImportError as error:
        message = f'group "nccl" needs CuPy and NCCL: {error}.\nRun: pip install "mlp-xp[cuda13]" && {INSTALL}'
        raise BackendError(message) from error
    if not nccl.available:
        raise BackendError(f'group "nccl": CuPy does not find the NCCL library.\nRun: {INSTALL}')
    return cupy, distributed
