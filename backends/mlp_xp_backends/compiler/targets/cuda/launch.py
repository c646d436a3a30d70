"""A recorded body on the device: its memory, its kernels, and the calls that make up a step."""

from __future__ import annotations

import ctypes
from threading import Lock, get_ident
from typing import Any

import cupy
import numpy as np
from cupy_backends.cuda.api.driver import launchKernel

from mlp_xp_backends.compiler.program import Program, Value
from mlp_xp_backends.compiler.targets.cuda.functions import PRELUDE
from mlp_xp_backends.compiler.targets.cuda.fuse import Graph
from mlp_xp_backends.compiler.targets.cuda.kernels import THREADS, Kernel, kernel
from mlp_xp_backends.compiler.targets.cuda.lower import lower
from mlp_xp_backends.compiler.targets.cuda.products import Call, product
from mlp_xp_backends.compiler.targets.cuda.schedule import launches, places
from mlp_xp_backends.trees import leaves, unflatten
from mlp_xp_backends.typing import Array, Tree

BEGIN = 'extern "C" __global__ void begin(long long* table, {}) {{ table[0] = 0; {} }}'
TICK = 'extern "C" __global__ void tick(long long* table) { table[0] += 1; }\n'


class Plan:
    """Runs a program over any number of steps. Between two calls it holds the arrays of the last one."""

    def __init__(self, program: Program) -> None:
        self.program, self.step = program, lower(program)
        graph = Graph(self.step)
        graph.fuse()
        self.order = launches(graph)
        self.offsets, size = places(graph, self.order)
        self.slots = [*program.items, *(v for v, (kind, _) in self.step.target.items() if kind == "out")]
        nested = [k for k, launch in enumerate(self.order) if not launch[0].product]
        self.kernels: dict[int, Kernel] = {
            k: kernel(f"step{k}", graph, self.order[k], self.slots, k == nested[0], k == nested[-1] != nested[0])
            for k in nested
        }
        self.ticks = len(nested) < 2
        self.module = cupy.RawModule(code=self._source())
        self.memory = cupy.empty(max(size, 1), np.uint8)
        self.table = cupy.empty(2 + len(self.slots), np.int64)
        used = {v for k in self.kernels.values() for v in k.arrays}
        used |= {v.root for launch in self.order if (op := launch[0].product) for v in op.inputs}
        self.constants = {v: cupy.asarray(v.constant) for v in used if v.constant is not None}
        self.lock = Lock()
        self.bound: list[Array] = []
        self.given: list[Array] = []
        self.calls: list[Call] = []
        self.where: tuple[int, int] | None = None
        self.done: Any = None

    @property
    def count(self) -> int:
        """Launches of a step, products included."""
        return len(self.order) + self.ticks

    def _source(self) -> str:
        n = len(self.slots)
        parameters = ", ".join(f"long long p{k}" for k in range(n)) or "int"
        begin = BEGIN.format(parameters, " ".join(f"table[{2 + k}] = p{k};" for k in range(n)))
        return "\n".join([PRELUDE, begin, TICK, *(k.source for k in self.kernels.values())])

    def __call__(self, carry: Tree, consts: Tree, items: Tree) -> tuple[Tree, Tree]:
        """The loop over these arrays, queued on the current stream; consumes ``carry``."""
        with self.lock:
            stream = cupy.cuda.get_current_stream()
            self._follow(stream)
            self._bind(leaves(carry), leaves(consts), stream.ptr)
            stacks = [cupy.ascontiguousarray(a) for a in leaves(items)]
            n = len(stacks[0])
            outs = [cupy.empty((n, *v.shape), v.dtype) for v in self.program.outs]
            f, args, _ = self._launch("begin", [a.data.ptr for a in (*stacks, *outs)], stream.ptr)
            f(*args)
            for _ in range(n):
                for f, args, _ in self.calls:
                    f(*args)
            self.done.record(stream)
            trees = self.program.trees
            return unflatten(trees[0], iter(self.bound)), unflatten(trees[1], iter(outs))

    def _follow(self, stream: Any) -> None:
        """Wait for the last call if that was queued on another stream; its memory is used again."""
        if self.done is None:
            self.done = cupy.cuda.Event(disable_timing=True)
        elif self.where is not None and self.where[0] != stream.ptr:
            stream.wait_event(self.done)

    def _bind(self, carried: list[Array], given: list[Array], stream: int) -> None:
        """Make the calls for these arrays, unless they are those of the last call."""
        here, where = [*self.bound, *self.given], (stream, get_ident())
        if where == self.where and all(a is b for a, b in zip([*carried, *given], here, strict=True)):
            return
        crowded = _crowded(carried, given)
        ends = self.program.carry_out
        self.bound = [
            a if a.flags.c_contiguous and (not inside or after is before) else a.copy()
            for a, inside, before, after in zip(carried, crowded, self.program.carry, ends, strict=True)
        ]
        self.given, self.where = given, where
        arrays = dict(zip((*self.program.carry, *self.program.consts), (*self.bound, *given), strict=True))
        arrays |= self.constants
        start = self.memory.data.ptr

        def address(v: Value) -> int:
            return int(arrays[v].data.ptr) if v in arrays else start + self.offsets[v]

        self.calls = []
        for k, launch in enumerate(self.order):
            op = launch[0].product
            if op is not None:
                self.calls.append(product(op, address))
            else:
                pointers = [address(v) for v in self.kernels[k].arrays]
                self.calls.append(self._launch(f"step{k}", pointers, stream, self.kernels[k].blocks))
        if self.ticks:
            self.calls.append(self._launch("tick", [], stream))

    def _launch(self, name: str, pointers: list[int], stream: int, blocks: int = 1) -> Call:
        """The launch of a kernel, with its arguments laid out for the driver."""
        values = (ctypes.c_longlong * (1 + len(pointers)))(self.table.data.ptr, *pointers)
        start = ctypes.addressof(values)
        args = (ctypes.c_void_p * len(values))(*(start + 8 * k for k in range(len(values))))
        threads = THREADS if name.startswith("step") else 1
        f = self.module.get_function(name).kernel.ptr
        grid = (blocks, 1, 1, threads, 1, 1)
        return launchKernel, (f, *grid, 0, stream, ctypes.addressof(args), 0), (values, args)


def _crowded(carried: list[Array], given: list[Array]) -> list[bool]:
    """For each carried array whether it shares memory with another one."""
    spans = [(a.data.ptr, a.data.ptr + a.nbytes) for a in (*carried, *given)]
    return [
        any(k != j and first < e and s < last for j, (s, e) in enumerate(spans))
        for k, (first, last) in enumerate(spans[: len(carried)])
    ]
