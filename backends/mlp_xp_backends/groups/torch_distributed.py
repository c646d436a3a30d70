"""A group of processes that communicate by torch.distributed: gloo on the CPU, NCCL on GPUs."""

from __future__ import annotations

import atexit
import os
import sys
from typing import Any, NoReturn

import numpy as np

from mlp_xp_backends.groups.base import Numbered, end_all_with, place, report, stored
from mlp_xp_backends.protocol import BackendError
from mlp_xp_backends.typing import Array


class TorchGroup(Numbered):
    """The processes that ``torchrun`` started; ``MASTER_ADDR`` and ``MASTER_PORT`` must be set."""

    native = frozenset({"torch", "numpy"})

    def __init__(self) -> None:
        self._torch = _imported()
        self._dist = self._torch.distributed
        self.rank, self.size, self.local_rank = place()
        if missing := [name for name in ("MASTER_ADDR", "MASTER_PORT") if name not in os.environ]:
            raise BackendError(
                f'group "torch": the environment has no {missing[0]}.\n'
                f"Start the program with: torchrun --nproc-per-node 2 program.py"
            )
        if not self._dist.is_initialized():
            kind = "cpu:gloo,cuda:nccl" if self._torch.cuda.is_available() else "gloo"
            self._dist.init_process_group(kind, rank=self.rank, world_size=self.size)
            atexit.register(self._dist.destroy_process_group)
        if self.size > 1:
            end_all_with(self.abort)

    def sum(self, x: Array, out: Array | None = None) -> Array:
        """See `Group`."""
        total = self._tensor(x)
        self._dist.all_reduce(total)
        return stored(total.numpy() if isinstance(x, np.ndarray) else total, out)

    def broadcast(self, x: Array, root: int = 0) -> Array:
        """Return the ``x`` of rank ``root``, as a new array."""
        out = self._tensor(x)
        self._dist.broadcast(out, root)
        return out.numpy() if isinstance(x, np.ndarray) else out

    def barrier(self) -> None:
        """Wait until all ranks have reached this call."""
        self.sum(np.zeros(1, np.int32))  # with NCCL, torch's barrier guesses a GPU (pytorch, pull 134617)

    def abort(self, message: str) -> NoReturn:
        """Print ``message`` to standard error and end this process; torchrun ends the others."""
        report(self.rank, message)
        sys.stdout.flush()
        os._exit(1)

    def _tensor(self, x: Array) -> Any:
        """Return a contiguous copy of ``x`` as a tensor."""
        if isinstance(x, np.ndarray):
            return self._torch.from_numpy(np.array(x, order="C"))
        return x.detach().clone(memory_format=self._torch.contiguous_format)


def _imported() -> Any:
    try:
        import torch
    except ImportError as error:
        raise BackendError(f'group "torch" needs torch: {error}.\nRun: pip install "mlp-xp[torch]"') from error
    if not torch.distributed.is_available():
        raise BackendError(f'group "torch": torch {torch.__version__} is a build without torch.distributed.')
    return torch
