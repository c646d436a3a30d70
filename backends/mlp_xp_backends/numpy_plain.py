"""NumPy without the compiler: every operation runs as it is written."""

from __future__ import annotations

import numpy as np

from mlp_xp_backends.loop import plain_loop
from mlp_xp_backends.memory import host_memory, memory_guard
from mlp_xp_backends.numpy_backend import NumpyBackend
from mlp_xp_backends.protocol import Body, Loop
from mlp_xp_backends.typing import Tree


class PlainNumpyBackend(NumpyBackend):
    """NumPy with loops in plain Python, for debugging a step and for measuring what the compiler gains."""

    def compile(self, body: Body) -> Loop:
        """The loop, step by step."""
        plain = plain_loop(self.xp, body, np.stack)

        def loop(carry: Tree, consts: Tree, items: Tree) -> tuple[Tree, Tree]:
            with memory_guard(self.device, host_memory):
                return plain(carry, consts, items)

        return loop
