"""A compiled program on the device: its memory, its kernels, and the calls that make up a step."""

from __future__ import annotations

import ctypes
import warnings
from collections.abc import Mapping
from threading import Lock
from typing import Any
from weakref import ref

import cupy
import numpy as np
from cupy.cuda.compiler import CompileException
from cupy_backends.cuda.api.driver import launchKernel

from mlp_xp_backends.compiler.program import Program, Unrecordable, Value
from mlp_xp_backends.compiler.targets.cuda.emit import Emitted, emit
from mlp_xp_backends.compiler.targets.cuda.graph import WORTH, StepGraphs
from mlp_xp_backends.compiler.targets.cuda.lt import LtProduct, available, lt_products
from mlp_xp_backends.compiler.targets.cuda.prelude import THREADS
from mlp_xp_backends.compiler.targets.cuda.products import Call, Product, product
from mlp_xp_backends.trees import leaves, unflatten
from mlp_xp_backends.typing import Array, Tree


def target(program: Program) -> Plan | None:
    """Compile ``program``; return None if the target or the installed CUDA compiler does not support it."""
    try:
        return Plan(emit(program))
    except Unrecordable:
        return None
    except CompileException as error:
        warnings.warn(f"the loop runs operation by operation: NVRTC cannot compile its kernels: {error}", stacklevel=6)
        return None


class Plan:
    """Runs a program for any number of steps. Between calls, it keeps its own memory but no reference to arguments."""

    def __init__(self, emitted: Emitted) -> None:
        self.emitted, self.program = emitted, emitted.program
        module = cupy.RawModule(code=emitted.source)
        names = ["begin", "tick", *(k.name for k in emitted.kernels.values())]
        self.functions = {name: module.get_function(name) for name in names}
        self.memory = cupy.empty(max(emitted.size, 1), np.uint8)
        self.table = cupy.zeros(emitted.table, np.int64)
        used = {v for k in emitted.kernels.values() for v in k.arrays}
        used |= {v.root for launch in emitted.order if (op := launch[0].product) for v in op.inputs}
        self.constants = {v: cupy.asarray(v.constant) for v in used if v.constant is not None}
        self.lock = Lock()
        self.bound: list[ref[Array]] = []  # the arrays for which the calls were built
        self.calls: list[Call] = []
        self.products: Mapping[int, Product | LtProduct] = {}
        self.pointers: dict[int, list[int]] = {}
        self.capturable, self.taken = False, 0
        self.graphs: StepGraphs | None = None
        self.where: int | None = None
        self.done = cupy.cuda.Event(disable_timing=True)

    def fits(self, consts: Tree, items: Tree) -> bool:
        """Always true: row numbers out of range wrap around, as in CuPy."""
        return True

    def __call__(self, carry: Tree, consts: Tree, items: Tree) -> tuple[Tree, Tree]:
        """Queue the loop over these arrays on the current stream; consumes ``carry``."""
        with self.lock:
            stream = cupy.cuda.get_current_stream()
            stream.wait_event(self.done)  # the last call uses the same memory, perhaps on another stream
            carried = self._bound(leaves(carry), leaves(consts), stream.ptr)
            stacks = [cupy.ascontiguousarray(a) for a in leaves(items)]
            n = len(stacks[0])
            outs = [cupy.empty((n, *v.shape), v.dtype) for v in self.program.outs]
            f, args, _ = self._launch("begin", [a.data.ptr for a in (*stacks, *outs)], stream.ptr)
            f(*args)
            self._steps(n, stream)
            self.done.record(stream)
            trees = self.program.trees
            return unflatten(trees[0], iter(carried)), unflatten(trees[1], iter(outs))

    def _steps(self, n: int, stream: Any) -> None:
        """Run ``n`` steps: the first ones call by call and, after enough steps on the same arrays, as graphs."""
        eager = n
        if self.graphs is not None:
            eager = 0
        elif self.capturable and self.taken + n > WORTH:
            eager = 0 if self.taken else 1  # CUDA loads kernels on first use, which a capture cannot do
        for _ in range(eager):
            for f, args, _ in self.calls:
                f(*args)
        if eager < n:
            self._replay(n - eager, stream)
        self.taken += n

    def _replay(self, n: int, stream: Any) -> None:
        """Run ``n`` steps as graphs, or call by call if CUDA cannot capture them, which leaves the device unchanged."""
        try:
            self.graphs = self.graphs or StepGraphs(self._calls)
        except Exception as error:  # of CUDA, of cuBLASLt or of its bindings
            warnings.warn(f"the loop runs without CUDA graphs: {error}", stacklevel=7)
            self.capturable = False
            self._steps(n, stream)
        else:
            self.graphs.launch(n, stream)

    def _bound(self, carried: list[Array], given: list[Array], stream: int) -> list[Array]:
        """Return the carried arrays, copied where necessary, and build the calls for these arrays if they are new."""
        if stream == self.where and all(a is b() for a, b in zip([*carried, *given], self.bound, strict=True)):
            return carried
        crowded = _crowded(carried, given)
        ends = self.program.carry_out
        carried = [
            a if a.flags.c_contiguous and (not inside or after is before) else a.copy()
            for a, inside, before, after in zip(carried, crowded, self.program.carry, ends, strict=True)
        ]
        self.bound, self.where = [ref(a) for a in (*carried, *given)], stream
        self.graphs, self.taken = None, 0
        arrays = dict(zip((*self.program.carry, *self.program.consts), (*carried, *given), strict=True))
        arrays |= self.constants
        start = self.memory.data.ptr

        def address(v: Value) -> int:
            return int(arrays[v].data.ptr) if v in arrays else start + self.emitted.offsets[v]

        products = {k: product(op, address) for k, launch in enumerate(self.emitted.order) if (op := launch[0].product)}
        self.capturable, self.products = self._prepared(products)
        self.pointers = {k: [address(v) for v in kernel.arrays] for k, kernel in self.emitted.kernels.items()}
        self.calls = self._calls(stream)
        return carried

    def _prepared(self, products: dict[int, Product]) -> tuple[bool, Mapping[int, Product | LtProduct]]:
        """Whether a graph can capture the products of a step, and these, by cuBLASLt if it is installed and works."""
        if not products or not available():
            return not products, products
        try:
            return True, lt_products(products)
        except Exception as error:  # of CUDA, of cuBLASLt or of its bindings
            warnings.warn(f"the loop runs without cuBLASLt and CUDA graphs: {error}", stacklevel=7)
            return False, products

    def _calls(self, stream: int) -> list[Call]:
        """The calls of a step on ``stream``."""
        calls: list[Call] = []
        for k in range(len(self.emitted.order)):
            kernel = self.emitted.kernels.get(k)
            if kernel is not None:
                calls.append(self._launch(kernel.name, self.pointers[k], stream, kernel.blocks))
            else:
                calls.append(self.products[k].call(stream))
        if self.emitted.ticks:
            calls.append(self._launch("tick", [], stream))
        return calls

    def _launch(self, name: str, pointers: list[int], stream: int, blocks: int = 1) -> Call:
        """The launch of a kernel, with its arguments laid out for the driver."""
        values = (ctypes.c_longlong * (1 + len(pointers)))(self.table.data.ptr, *pointers)
        start = ctypes.addressof(values)
        args = (ctypes.c_void_p * len(values))(*(start + 8 * k for k in range(len(values))))
        threads = THREADS if name.startswith("step") else 1
        grid = (blocks, 1, 1, threads, 1, 1)
        return (
            launchKernel,
            (self.functions[name].kernel.ptr, *grid, 0, stream, ctypes.addressof(args), 0),
            (values, args),
        )


def _crowded(carried: list[Array], given: list[Array]) -> list[bool]:
    """For each carried array, whether it shares memory with another array."""
    spans = [cupy.byte_bounds(a) for a in (*carried, *given)]
    return [
        any(k != j and first < e and s < last for j, (s, e) in enumerate(spans))
        for k, (first, last) in enumerate(spans[: len(carried)])
    ]
