"""array-api-strict: the standard and nothing else, on the CPU. Reveals use of nonstandard features."""

from __future__ import annotations

import array_api_strict
import numpy as np

from mlp_xp_backends.loop import plain_loop
from mlp_xp_backends.memory import as_host, host_memory, memory_guard
from mlp_xp_backends.namespace import derived, extras
from mlp_xp_backends.protocol import Body, Loop, Memory, OnDevice
from mlp_xp_backends.typing import Array, HostArray, Tree


class StrictBackend(OnDevice):
    """The reference implementation of version 2024.12 of the standard."""

    name = "array_api_strict"
    device = "cpu"

    def __init__(self) -> None:
        array_api_strict.set_array_api_strict_flags(api_version="2024.12")
        self.xp = derived(
            array_api_strict,
            linalg=array_api_strict.linalg,  # which `dir` does not list
            fft=array_api_strict.fft,
            **extras(array_api_strict),
        )

    def asarray(self, x: Array, dtype: str | None = None) -> Array:
        """``x`` as an array of the standard; shares memory with ``x`` where NumPy does."""
        with memory_guard(self.device, self.memory):
            if isinstance(x, type(array_api_strict.empty(0))) and dtype in (None, str(x.dtype)):
                return x
            return array_api_strict.asarray(np.asarray(as_host(x), dtype=dtype))

    def to_numpy(self, x: Array) -> HostArray:
        """``x`` as a NumPy array."""
        return as_host(x)

    def synchronize(self) -> None:
        """Nothing to wait for."""

    def compile(self, body: Body) -> Loop:
        """The loop in plain Python."""
        plain = plain_loop(self.xp, body, array_api_strict.stack)

        def loop(carry: Tree, consts: Tree, items: Tree) -> tuple[Tree, Tree]:
            with memory_guard(self.device, self.memory):
                return plain(carry, consts, items)

        return loop

    def memory(self) -> Memory:
        """Free and total bytes of the machine's memory."""
        return host_memory()
