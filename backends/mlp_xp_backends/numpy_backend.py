"""NumPy on the CPU, with bodies recorded once and replayed without temporaries."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mlp_xp_backends.compiler.loop import CompiledLoop
from mlp_xp_backends.compiler.targets.cpu.blas import Blas, blas
from mlp_xp_backends.compiler.targets.cpu.ids import one_hot, segment_sum
from mlp_xp_backends.compiler.targets.cpu.run import Runner
from mlp_xp_backends.errors import memory_guard
from mlp_xp_backends.host import as_host, host_memory
from mlp_xp_backends.loop import plain_loop
from mlp_xp_backends.namespace import derived
from mlp_xp_backends.protocol import Body, Loop, Memory
from mlp_xp_backends.typing import Array, HostArray, Namespace, Tree

XP: Namespace = derived(np, one_hot=one_hot, segment_sum=segment_sum)
"""NumPy's own namespace, which follows the standard by itself from NumPy 2.3 on, and the two members of every backend's."""


class NumpyBackend:
    """NumPy; its loops are compiled unless ``compiled`` is false (``numpy:plain``).

    ``library`` finds what computes the products of compiled loops.
    """

    name = "numpy"
    device = "cpu"
    xp: Namespace = XP

    def __init__(self, compiled: bool = True, library: Callable[[], Blas | None] = blas) -> None:
        self.compiled, self.library = compiled, library

    def asarray(self, x: Array, dtype: str | None = None) -> HostArray:
        """``x`` as a NumPy array; shares memory with ``x`` where the dtype is the same."""
        return as_host(x).astype(dtype, copy=False) if dtype is not None else as_host(x)

    def to_numpy(self, x: Array) -> HostArray:
        """``x`` itself."""
        return np.asarray(x)

    def synchronize(self) -> None:
        """Nothing: NumPy returns when the work is done."""

    def compile(self, body: Body) -> Loop:
        """The loop, recorded for each set of shapes and replayed; step by step where it cannot be recorded.

        Its floating-point operations do not warn: what overflows is infinite.
        """
        plain = plain_loop(XP, body, np.stack)
        loop = CompiledLoop(body, plain, lambda program: Runner(program, self.library())) if self.compiled else plain
        return _Guarded(loop)

    def memory(self) -> Memory:
        """Free and total bytes of the machine's memory."""
        return host_memory()


class _Guarded:
    """A loop that says what the machine's memory is if it is too little."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop

    def __call__(self, carry: Tree, consts: Tree, items: Tree) -> tuple[Tree, Tree]:
        with memory_guard("cpu", host_memory), np.errstate(all="ignore"):
            return self.loop(carry, consts, items)
