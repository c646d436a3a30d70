"""A group of processes, one per GPU, that communicate by NCCL through CuPy."""

from __future__ import annotations

import atexit
import os
import sys
from typing import Any, NoReturn

import numpy as np

from mlp_xp_backends.groups.base import Numbered, end_all_with, gpu_of, place, report, stored
from mlp_xp_backends.groups.rendezvous import address, from_first
from mlp_xp_backends.protocol import BackendError
from mlp_xp_backends.typing import Array

INSTALL = "pip install nvidia-nccl-cu13"


class NcclGroup(Numbered):
    """Processes that ``torchrun``, ``mpiexec`` or ``srun`` started, one per GPU.

    Each rank has a GPU of its own, which it makes the current device: see `gpu_of`. The ranks meet at ``MASTER_ADDR``
    and the port after ``MASTER_PORT``, by default on this machine. A sum is queued in the current stream of that GPU,
    after the kernels that compute its argument and before those that read its result. The group uses NCCL's own
    communicator, because the server process of ``cupyx.distributed`` outlives a rank that ends with an error.
    """

    native = frozenset({"cupy"})

    def __init__(self) -> None:
        self.rank, self.size, self.local_rank = place()
        self._cupy, self._nccl = _imported()
        visible = int(self._cupy.cuda.runtime.getDeviceCount())
        self._device = self._cupy.cuda.Device(gpu_of(self.local_rank, visible))
        self._device.use()
        number = self._nccl.get_unique_id() if self.rank == 0 else b""
        if self.size > 1:
            number = from_first(number, self.rank, self.size, address())
        try:
            self._comm = self._nccl.NcclCommunicator(self.size, number, self.rank)
        except self._nccl.NcclError as error:
            raise BackendError(
                f'group "nccl": rank {self.rank} on cuda:{self._device.id} of {visible}: {error}.\n'
                "Start one rank for each GPU; NCCL_DEBUG=WARN gives the reason."
            ) from error
        atexit.register(self._comm.destroy)
        if self.size > 1:
            end_all_with(self.abort)

    def sum(self, x: Array, out: Array | None = None) -> Array:
        """See `Group`."""
        with self._device:
            on_device = self._here(x)
            direct = isinstance(out, self._cupy.ndarray)
            total: Any = out if direct else self._cupy.empty_like(on_device)
            addresses, code = (on_device.data.ptr, total.data.ptr), self._code(on_device)
            self._comm.allReduce(*addresses, on_device.size, code, self._nccl.NCCL_SUM, self._stream())
            return total if direct else stored(self._like(x, total), out)

    def broadcast(self, x: Array, root: int = 0) -> Array:
        """Return the ``x`` of rank ``root``, as a new array."""
        with self._device:
            out = self._cupy.array(self._here(x))
            at = out.data.ptr
            self._comm.broadcast(at, at, out.size, self._code(out), root, self._stream())
            return self._like(x, out)

    def barrier(self) -> None:
        """Wait until all ranks have reached this call and their GPUs have finished the work queued before it."""
        self.sum(np.zeros(1, np.int32))

    def abort(self, message: str) -> NoReturn:
        """Print ``message`` to standard error and end this process; its launcher ends the others."""
        report(self.rank, message)
        sys.stdout.flush()
        os._exit(1)

    def _here(self, x: Array) -> Array:
        """Return ``x``, contiguous, on the GPU of this rank."""
        x = self._cupy.asarray(x, order="C")  # ascontiguousarray would give a 0-d array an axis
        if x.device.id != self._device.id:
            raise BackendError(
                f'group "nccl": the array is on cuda:{x.device.id}, and the GPU of rank {self.rank} is '
                f'cuda:{self._device.id}.\nUse device="cuda" without a number.'
            )
        return x

    def _code(self, x: Array) -> int:
        """NCCL's number of the dtype."""
        code: int = getattr(self._nccl, f"NCCL_{x.dtype.name.upper()}")
        return code

    def _stream(self) -> int:
        pointer: int = self._cupy.cuda.get_current_stream().ptr
        return pointer

    def _like(self, x: Array, result: Array) -> Array:
        return result if isinstance(x, self._cupy.ndarray) else self._cupy.asnumpy(result)


def _imported() -> tuple[Any, Any]:
    try:
        import cupy
        from cupy.cuda import nccl
    except ImportError as error:
        message = f'group "nccl" needs CuPy and NCCL: {error}.\nRun: pip install "mlp-xp[cuda13]" && {INSTALL}'
        raise BackendError(message) from error
    if not nccl.available:
        raise BackendError(f'group "nccl": CuPy does not find the NCCL library.\nRun: {INSTALL}')
    return cupy, nccl
