"""A recorded body, ready to run: memory, bound names, and the carried arrays that the names stand for."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import nullcontext
from itertools import combinations
from threading import Lock
from typing import Any
from weakref import WeakSet

import numpy as np

from mlp_xp_backends.numpy_engine.blas import Blas
from mlp_xp_backends.numpy_engine.denormals import flushed
from mlp_xp_backends.numpy_engine.emit import Source
from mlp_xp_backends.numpy_engine.fuse import fuse
from mlp_xp_backends.numpy_engine.layout import lay_out
from mlp_xp_backends.numpy_engine.lines import row_numbers
from mlp_xp_backends.numpy_engine.onehot import find_one_hots
from mlp_xp_backends.numpy_engine.pack import pack, part
from mlp_xp_backends.numpy_engine.tape import NDArray, Program, Value
from mlp_xp_backends.trees import leaves, unflatten
from mlp_xp_backends.typing import Tree

CACHE_LINE = 64
STACKABLE = {np.add, np.subtract, np.multiply, np.true_divide, np.negative, np.sqrt, np.square}
"""Functions that give the same bits for one number as for many."""


ALIVE: WeakSet[Plan] = WeakSet()
"""All plans there are."""


def _after_fork() -> None:
    """Nobody is left in a forked process who could give a lock back."""
    for plan in ALIVE:
        plan.lock = Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class Plan:
    """Runs a program over any number of steps, with the products of ``blas``, or else NumPy's."""

    def __init__(self, program: Program, blas: Blas | None) -> None:
        self.program, self.blas = program, blas
        find_one_hots(program)
        pack(program)
        self.alone = blas is not None and blas.small(_products(program))
        if blas is not None:
            fuse(program, blas, self.alone)
        stacked = _stacked(program)
        self.layout = lay_out(program, {key for key, v in stacked.items() if v.op is not None}, blas)
        self.source = Source(program, self.layout, stacked, blas)
        found = ((row_numbers(op), op.inputs[0].shape[op.options[0]]) for op in program.ops if op.kind == "take")
        program.bounds |= {("item", leaf, bound) for leaf, bound in found if leaf is not None}
        self.code = compile(self.source.text, "<plan>", "exec")
        self.cells = {id(v): np.empty(v.shape, v.dtype) for v in (*program.items, *stacked.values())}
        self.buffers = [_aligned(size) for size in self.layout.buffers]
        self.names: dict[str, Any] = {}
        self.bound: list[NDArray] = []
        self.returned: list[NDArray] = []
        self.given: list[NDArray] = []
        self.lock = Lock()
        ALIVE.add(self)

    def fits(self, consts: list[NDArray], items: list[NDArray]) -> bool:
        """Whether all row numbers number rows that are there, and all ids columns."""
        return all(
            numbers.size == 0 or (numbers.min() >= 0 and numbers.max() < bound)
            for numbers, bound in (((items if kind == "item" else consts)[k], n) for kind, k, n in self.program.bounds)
        )

    def __call__(self, carry: Tree, consts: Tree, items: Tree) -> tuple[Tree, Tree]:
        """The loop over these arrays; consumes ``carry``."""
        with self.lock:
            carried, given, stacks = leaves(carry), leaves(consts), leaves(items)
            here = [*self.returned, *self.given]
            if not here or any(a is not b for a, b in zip([*carried, *given], here, strict=True)):
                self._bind(carried, given)
            n = len(stacks[0])
            outs = [np.empty((n, *v.shape), v.dtype) for v in self.program.outs]
            if self.blas is not None:
                self.blas.begin()
            alone = self.blas.on_one_core() if self.blas is not None and self.alone else nullcontext()
            with flushed(), alone:
                self.names["run"](n, stacks, outs)
            trees = self.program.trees
            return unflatten(trees[0], iter(self.returned)), unflatten(trees[1], iter(outs))

    def _bind(self, carried: list[NDArray], given: list[NDArray]) -> None:
        """Let the names stand for these arrays."""
        self.bound = self._adopt(carried, given)
        self.given = given
        found: dict[int, NDArray] = dict(self.cells)
        for v, array in zip(self.program.carry, self.bound, strict=True):
            found[id(v)] = array
        for v, array in zip(self.program.consts, given, strict=True):
            found[id(v)] = array

        def at(v: Value) -> NDArray:
            if id(v) not in found:
                found[id(v)] = self._array(v, at)
            return found[id(v)]

        self.names = {name: binding(at) for name, binding in self.source.names.bindings.items()}
        exec(self.code, self.names)
        self.arrays = found

    def _array(self, v: Value, at: Any) -> NDArray:
        if v.constant is not None:
            return v.constant
        if v.op is not None and v.op.kind == "onehot":
            return np.zeros(v.shape, v.dtype)
        if v.op is not None and v.op.kind == "view":
            array: NDArray = v.op.f(at(v.op.inputs[0]), *v.op.options)
            return array
        place = self.layout.places[id(v)]
        if place.kind == "carry":
            return self.bound[place.number].reshape(v.shape)
        start = place.offset * v.dtype.itemsize
        if id(v) in self.layout.inside:
            return self.buffers[place.number][: self.layout.inside[id(v)] * v.dtype.itemsize].view(v.dtype)
        return self.buffers[place.number][start : start + v.like.nbytes].view(v.dtype).reshape(v.shape)

    def _adopt(self, carried: list[NDArray], given: list[NDArray]) -> list[NDArray]:
        """The carried arrays themselves where they can be written to, else copies; packed ones as one array."""
        crowded = _overlapping(carried, given)
        adopted = []
        self.returned = list(carried)
        for v, after, members in zip(self.program.carry, self.program.carry_out, self.program.members, strict=True):
            arrays = [carried[k] for k in members]
            if v.source is not None and v.source[0] == "carry":
                (a,), (k,) = arrays, members
                unchanged = after is v and a.flags.c_contiguous and a.flags.aligned
                usable = unchanged or (a.flags.carray and k not in crowded)
                self.returned[k] = a if usable else a.copy()
                adopted.append(self.returned[k])
                continue
            long = _packed(arrays, v)
            if long is None or crowded.intersection(members):
                long = np.concatenate([a.reshape(-1) for a in arrays])
            start = 0
            for k, a in zip(members, arrays, strict=True):
                if a.base is not long:
                    self.returned[k] = part(long, start, start + a.size, a.shape)
                start += a.size
            adopted.append(long)
        return adopted


def _products(program: Program) -> Iterator[tuple[int, int, int]]:
    """Rows, shared axis and columns of every product of matrices."""
    for op in program.ops:
        if op.kind == "matmul":
            a, b = op.inputs
            yield a.shape[-2], a.shape[-1], b.shape[-1]


def _stacked(program: Program) -> dict[int, Value]:
    """The 0-d items, and the numbers that are computed from them and constants: for all steps at once."""
    found = {id(v): v for v in program.items if v.shape == ()}
    for op in program.ops:
        known = all(id(v) in found or (v.constant is not None and v.shape == ()) for v in op.inputs)
        if op.kind == "ufunc" and op.f in STACKABLE and known and any(id(v) in found for v in op.inputs):
            found[id(op.out)] = op.out
    return found


def _aligned(size: int) -> NDArray:
    raw = np.empty(size + CACHE_LINE, np.uint8)
    start = -raw.ctypes.data % CACHE_LINE
    return raw[start : start + size]


def _overlapping(carried: list[NDArray], given: list[NDArray]) -> set[int]:
    """The carried arrays that share memory with another array."""
    crowded = {j for (_, a), (j, b) in combinations(enumerate(carried), 2) if np.may_share_memory(a, b)}
    return crowded | {j for j, a in enumerate(carried) if any(np.may_share_memory(a, b) for b in given)}


def _packed(arrays: list[NDArray], like: Value) -> NDArray | None:
    """The array that has these, one behind the other, if there is one."""
    long, start = arrays[0].base, 0
    if (
        not isinstance(long, np.ndarray)
        or long.shape != like.shape
        or long.dtype != like.dtype
        or not long.flags.carray
    ):
        return None
    for a in arrays:
        if a.base is not long or not a.flags.c_contiguous or a.ctypes.data != long.ctypes.data + start:
            return None
        start += a.nbytes
    return long
