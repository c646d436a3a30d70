"""NumPy on the CPU: bodies are recorded once and replayed without temporaries."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mlp_xp_backends.compiler.loop import CompiledLoop
from mlp_xp_backends.compiler.targets.cpu.blas import Blas
from mlp_xp_backends.compiler.targets.cpu.libraries import blas
from mlp_xp_backends.compiler.targets.cpu.run import Runner
from mlp_xp_backends.loop import plain_loop
from mlp_xp_backends.memory import as_host, host_memory, memory_guard
from mlp_xp_backends.numpy_namespace import xp
from mlp_xp_backends.protocol import Body, Loop, Memory, OnDevice
from mlp_xp_backends.typing import Array, HostArray, Namespace, Tree


class NumpyBackend(OnDevice):
    """NumPy with compiled loops; ``library`` returns the BLAS for their products."""

    name = "numpy"
    device = "cpu"
    xp: Namespace = xp

    def __init__(self, library: Callable[[], Blas | None] = blas) -> None:
        self.library = library

    def asarray(self, x: Array, dtype: str | None = None) -> HostArray:
        """``x`` as a NumPy array; shares memory with ``x`` where the dtype is the same."""
        return as_host(x).astype(dtype, copy=False) if dtype is not None else as_host(x)

    def to_numpy(self, x: Array) -> HostArray:
        """``x`` itself."""
        return np.asarray(x)

    def synchronize(self) -> None:
        """Do nothing: NumPy's functions are synchronous."""

    def compile(self, body: Body) -> Loop:
        """The loop, recorded for each set of shapes and replayed; step by step if it cannot be recorded.

        Overflow gives infinity without a warning.
        """
        plain, all_sum = plain_loop(self.xp, body, np.stack), getattr(self.xp, "all_sum", None)
        compiled = CompiledLoop(body, plain, lambda program: Runner(program, self.library()), all_sum)

        def loop(carry: Tree, consts: Tree, items: Tree) -> tuple[Tree, Tree]:
            with memory_guard(self.device, host_memory), np.errstate(all="ignore"):
                return compiled(carry, consts, items)

        return loop

    def memory(self) -> Memory:
        """Free and total bytes of the machine's memory."""
        return host_memory()
