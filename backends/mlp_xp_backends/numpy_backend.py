"""NumPy on the CPU, with bodies recorded once and replayed without temporaries."""

from __future__ import annotations

from collections.abc import Callable, Hashable

import numpy as np

from mlp_xp_backends.errors import memory_guard
from mlp_xp_backends.host import as_host, host_memory
from mlp_xp_backends.loop import length, plain_loop
from mlp_xp_backends.numpy_engine.blas import Blas
from mlp_xp_backends.numpy_engine.mkl import blas
from mlp_xp_backends.numpy_engine.plan import Plan
from mlp_xp_backends.numpy_engine.tape import NDArray, Untraceable
from mlp_xp_backends.numpy_engine.trace import record
from mlp_xp_backends.numpy_namespace import xp
from mlp_xp_backends.protocol import Body, Loop, Memory
from mlp_xp_backends.trees import leaves, tree_map
from mlp_xp_backends.typing import Array, Namespace, Tree

PLANS = 8
"""How many sets of shapes a loop remembers: each holds scratch memory and the arrays that it last ran on."""


class NumpyBackend:
    """NumPy, with bodies compiled.

    ``library`` finds what computes the products of compiled loops: MKL where it is installed, else NumPy's OpenBLAS.
    """

    name = "numpy"
    device = "cpu"
    xp: Namespace = xp

    def __init__(self, library: Callable[[], Blas | None] = blas) -> None:
        self.library = library

    def asarray(self, x: Array, dtype: str | None = None) -> NDArray:
        """``x`` as a NumPy array; shares memory with ``x`` where the dtype is the same."""
        return as_host(x).astype(dtype, copy=False) if dtype is not None else as_host(x)

    def to_numpy(self, x: Array) -> NDArray:
        """``x`` itself."""
        return np.asarray(x)

    def synchronize(self) -> None:
        """Nothing: NumPy returns when the work is done."""

    def compile(self, body: Body) -> Loop:
        """The loop, recorded for each set of shapes and replayed; step by step where it cannot be recorded."""
        return CompiledLoop(body, self.library)

    def memory(self) -> Memory:
        """Free and total bytes of the machine's memory."""
        return host_memory()


class CompiledLoop:
    """A loop over ``body`` that keeps one plan for each set of shapes."""

    def __init__(self, body: Body, library: Callable[[], Blas | None]) -> None:
        self.body, self.library = body, library
        self.plain = plain_loop(xp, body, np.stack)
        self.plans: dict[Hashable, Plan | None] = {}

    def __call__(self, carry: Tree, consts: Tree, items: Tree) -> tuple[Tree, Tree]:
        """The loop, as `Backend.compile` says."""
        length(items)
        with memory_guard("cpu", host_memory):
            plan = self.plan(carry, consts, items)
            if plan is None or not plan.fits(leaves(consts), leaves(items)):
                return self.plain(carry, consts, items)
            return plan(carry, consts, items)

    def plan(self, carry: Tree, consts: Tree, items: Tree) -> Plan | None:
        """The plan for arrays like these; ``None`` if the body does what cannot be recorded."""
        key = (
            tree_map(lambda a: (a.shape, a.dtype), carry),
            tree_map(lambda a: (a.shape, a.dtype, a.strides, a.flags.aligned), consts),
            tree_map(lambda a: (a.shape[1:], a.dtype), items),
        )
        if key not in self.plans:
            try:
                plan = Plan(record(self.body, carry, consts, items), self.library())
            except Untraceable:
                plan = None
            if len(self.plans) == PLANS:
                del self.plans[next(iter(self.plans))]
            self.plans[key] = plan
        return self.plans[key]
