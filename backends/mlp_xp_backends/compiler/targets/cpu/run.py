"""A program prepared for the CPU: rewritten, its memory planned, and run as a list of calls in every step."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import nullcontext
from threading import Lock
from types import SimpleNamespace
from typing import Any
from weakref import WeakSet

import numpy as np

from mlp_xp_backends.compiler.passes import PASSES, Pass, rewritten
from mlp_xp_backends.compiler.program import Program, Value
from mlp_xp_backends.compiler.targets.cpu.adopt import adopted
from mlp_xp_backends.compiler.targets.cpu.blas import SPLIT, Blas, Call
from mlp_xp_backends.compiler.targets.cpu.calls import Machine, copied
from mlp_xp_backends.compiler.targets.cpu.denormals import flushed
from mlp_xp_backends.compiler.targets.cpu.memory import plan_memory
from mlp_xp_backends.compiler.targets.cpu.parts import MOST
from mlp_xp_backends.compiler.targets.cpu.shares import largest_product, pays, shared_calls
from mlp_xp_backends.compiler.targets.cpu.team import TEAM
from mlp_xp_backends.trees import leaves, unflatten
from mlp_xp_backends.typing import HostArray, Tree

CACHE_LINE = 64
ALIVE: WeakSet[Runner] = WeakSet()
"""All runners of the process."""


def _after_fork() -> None:
    """Replace the locks: the threads that hold them do not exist in a forked process."""
    for runner in ALIVE:
        runner.lock = Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class Runner:
    """Run a program over any number of steps, with the products of ``blas``, or NumPy's if that is `None`.

    It keeps scratch memory, but only the addresses of the arrays of the last run: it does not keep them alive, and it
    reuses its calls for arrays at the same addresses.
    """

    def __init__(self, program: Program, blas: Blas | None, passes: Sequence[Pass] = PASSES) -> None:
        self.blas = blas
        self.program = program = rewritten(program, passes)
        self.plan = plan_memory(program)
        self.cells = {v: np.empty(v.shape, v.dtype) for v in program.items}
        self.buffers = [_aligned(size) for size in self.plan.buffers]
        self.bound: Any = None
        self.threads = 0
        self.is_small = largest_product(program) < SPLIT
        self.pays = pays(program)
        self.lock = Lock()
        ALIVE.add(self)

    def fits(self, consts: Tree, items: Tree) -> bool:
        """Whether all row numbers, columns and segment ids are in range."""
        of = {"item": leaves(items), "const": leaves(consts)}
        numbers = ((of[kind][k], bound) for kind, k, bound in self.program.bounds)
        return all(a.size == 0 or (a.min() >= 0 and a.max() < bound) for a, bound in numbers)

    def __call__(self, carry: Tree, consts: Tree, items: Tree) -> tuple[Tree, Tree]:
        """The loop over these arrays; consumes ``carry``."""
        carried, given, stacks = (list(map(np.asarray, leaves(tree))) for tree in (carry, consts, items))
        n, trees = len(stacks[0]), self.program.trees
        with self.lock:
            threads = self._threads()
            if self.bound != _keys(carried, given) or threads != self.threads:
                self.threads = threads
                carried = self._bind(carried, given)
            outs = [np.empty((n, *v.shape), v.dtype) for v in self.program.outs]
            one_core = nullcontext() if self.blas is None else self.blas.on_one_core()
            with flushed(), one_core, TEAM.led(threads), np.errstate(all="ignore"):
                self._run(n, stacks, outs)
        return unflatten(trees[0], iter(carried)), unflatten(trees[1], iter(outs))

    def _threads(self) -> int:
        """The threads to divide work between; 0 if the BLAS runs the products on threads of its own."""
        if self.blas is None or self.is_small:
            return 0
        threads = self.blas.threads
        return threads if self.blas.in_parts or (self.pays and threads <= MOST) else 0

    def _run(self, n: int, stacks: list[HostArray], outs: list[HostArray]) -> None:
        cells = list(zip(self.cells.values(), stacks, strict=True))
        ends = list(zip(outs, self.outs, strict=True))
        each = self.each
        for i in range(n):
            for cell, stack in cells:
                cell[...] = stack[i]
            for f, args in each:
                f(*args)
            for out, value in ends:
                out[i] = value
            for f, args in self.last:
                f(*args)

    def _bind(self, carried: list[HostArray], given: list[HostArray]) -> list[HostArray]:
        """Prepare the calls for these arrays; returns the leaves of the carry to go on with."""
        returned, held = adopted(self.program, carried, given)
        roots = {**dict(zip(self.program.carry, held, strict=True)), **self.cells}
        roots |= dict(zip(self.program.consts, given, strict=True))
        known: dict[Value, HostArray] = {}

        def address(v: Value) -> int:
            if v in roots:
                return int(roots[v].ctypes.data)
            if v.constant is not None:
                return int(v.constant.ctypes.data)
            place = self.plan.places[v]
            base = held[place.number] if place.kind == "carry" else self.buffers[place.number]
            return int(base.ctypes.data) + place.offset

        def at(v: Value) -> HostArray:
            if v not in known:
                known[v] = _lent(address(v.root) + v.offset, v)
            return known[v]

        program = self.program
        machine = Machine(program, at, self.blas, self.threads, self.is_small)
        self.each: list[Call] = shared_calls(program.ops, machine)
        self.last = [copied(at(program.carry[k]), at(program.carry_out[k])) for k in self.plan.copies]
        self.outs = [at(v) for v in program.outs]
        self.bound = _keys(returned, given)
        return returned


def _lent(address: int, v: Value) -> HostArray:
    """An array of the layout of ``v`` at ``address``; it does not keep the memory alive."""
    layout = {"shape": v.shape, "strides": v.strides, "typestr": v.dtype.str}
    return np.asarray(SimpleNamespace(__array_interface__={"data": (address, False), "version": 3, **layout}))


def _keys(carried: list[HostArray], given: list[HostArray]) -> list[Any]:
    """The properties of the arrays that the calls depend on: addresses, strides, writability."""
    return [(a.ctypes.data, a.strides, a.flags.writeable) for a in carried] + [a.ctypes.data for a in given]


def _aligned(size: int) -> HostArray:
    raw = np.empty(size + CACHE_LINE, np.uint8)
    start = -raw.ctypes.data % CACHE_LINE
    return raw[start : start + size]
