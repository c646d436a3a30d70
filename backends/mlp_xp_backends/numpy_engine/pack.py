"""Packing: the same update of many small arrays becomes one update of one long array.

A network has many small parameters (biases, narrow layers), and a call of NumPy costs more than their arithmetic.
Carried arrays that go through the same chain of elementwise operations are therefore kept one behind the other in one
piece of memory, together with whatever goes into the chain (their gradients).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import numpy as np

from mlp_xp_backends.numpy_engine.fuse import elementwise
from mlp_xp_backends.numpy_engine.tape import NDArray, Op, Program, Value, blank

SMALL, LARGER = 16_384, 65_536
"""Elements of an array that is worth packing, and of one whose update takes so many calls that it is, too."""
MANY = 4
"""Operations of an update up to which BLAS adds the gradient's product onto the array, which packing would prevent."""


@dataclass(eq=False)
class _Chain:
    """Elementwise operations that end in the new values of some carried arrays of one shape."""

    slots: list[int]
    ops: list[Op]
    outside: list[Value]
    """The arrays that go in, besides the carried ones."""
    words: tuple[Any, ...] = ()
    """What is done, equal for two chains that do the same to different arrays."""


def pack(program: Program) -> None:
    """Pack what can be packed."""
    groups: dict[tuple[Any, ...], list[_Chain]] = {}
    for chain in _chains(program):
        groups.setdefault(chain.words, []).append(chain)
    packed = [chains for chains in groups.values() if len(chains) > 1]
    for chains in packed:
        _merge(program, chains)
    gone = {slot for chains in packed for chain in chains for slot in chain.slots}
    kept = [k for k in range(len(program.carry)) if k not in gone]
    program.carry = [program.carry[k] for k in kept]
    program.carry_out = [program.carry_out[k] for k in kept]
    program.members = [program.members[k] for k in kept]


def _chains(program: Program) -> Iterable[_Chain]:
    order = {id(op): k for k, op in enumerate(program.ops)}
    slot_of = {id(v): k for k, v in enumerate(program.carry)}
    found: list[tuple[set[int], dict[int, Op]]] = []
    for k, (before, after) in enumerate(zip(program.carry, program.carry_out, strict=True)):
        if before is after or not 0 < before.size <= LARGER:
            continue
        slots, ops = _reached(after, slot_of, k)
        for other in [f for f in found if f[0] & slots or f[1].keys() & ops.keys()]:
            found.remove(other)
            slots, ops = slots | other[0], ops | other[1]
        if ops:
            found.append((slots, ops))
    readers = program.readers()
    for slots, ops in found:
        chain = _checked(program, sorted(slots), sorted(ops.values(), key=lambda op: order[id(op)]), readers)
        if chain is not None and (program.carry[chain.slots[0]].size <= SMALL or len(chain.ops) > MANY):
            yield chain


def _reached(after: Value, slot_of: dict[int, int], slot: int) -> tuple[set[int], dict[int, Op]]:
    """The carried arrays and the operations from which ``after`` comes by elementwise operations alone."""
    slots, ops, todo = {slot}, {}, [after]
    while todo:
        v = todo.pop()
        if id(v) in slot_of:
            slots.add(slot_of[id(v)])
        elif v.op is not None and v.shape == after.shape and elementwise(v.op) and id(v.op) not in ops:
            ops[id(v.op)] = v.op
            todo.extend(x for x in v.op.inputs if x.shape == after.shape)
    return slots, ops


def _checked(program: Program, slots: list[int], ops: list[Op], readers: dict[int, list[Op]]) -> _Chain | None:
    """The chain, if nothing outside sees what happens inside."""
    inside = {id(op) for op in ops}
    results = {id(op.out) for op in ops}
    ends = [id(program.carry_out[k]) for k in slots]
    kept = {id(v) for v in program.outs} | {id(v) for k, v in enumerate(program.carry_out) if k not in slots}
    if len(set(ends)) < len(ends) or not results.issuperset(ends) or results & kept:
        return None
    if any(id(op) not in inside for r in results for op in readers.get(r, ())):
        return None
    names: dict[int, Any] = {id(program.carry[k]): ("carry", position) for position, k in enumerate(slots)}
    outside: list[Value] = []
    words: list[Any] = []
    for op in ops:
        for v in op.inputs:
            if id(v) not in names:
                names[id(v)] = ("number", id(v)) if v.shape == () else ("array", len(outside))
                outside.extend([v] if v.shape != () else [])
        words.append((op.kind, op.f, op.out.dtype, tuple((names[id(v)], v.dtype) for v in op.inputs), op.options))
        names[id(op.out)] = ("result", len(words))
    return _Chain(slots, ops, outside, (*words, tuple(names[end] for end in ends)))


def _merge(program: Program, chains: list[_Chain]) -> None:
    """One chain in place of several that do the same."""
    shapes = [program.carry[chain.slots[0]].shape for chain in chains]
    bounds = list(accumulate((int(np.prod(shape)) for shape in shapes), initial=0))
    first, total = chains[0], bounds[-1]
    new: dict[int, Value] = {}  # by the first chain's values
    views: list[Op] = []
    for position, slot in enumerate(first.slots):
        packed = Value(blank((total,), program.carry[slot].dtype), source=("pack", len(program.members)))
        new[id(program.carry[slot])] = packed
        program.carry.append(packed)
        program.members.append(tuple(k for chain in chains for k in program.members[chain.slots[position]]))
        for chain, shape, (start, stop) in zip(chains, shapes, pairwise(bounds), strict=True):
            views.append(_as_part(program.carry[chain.slots[position]], packed, start, stop, shape))
    inserted: list[Op] = []
    for parts in zip(*(chain.outside for chain in chains), strict=True):
        out = new[id(parts[0])] = Value(blank((total,), parts[0].dtype))
        out.op = Op("pack", None, parts, out)
        inserted.append(out.op)
    for op in first.ops:
        out = new[id(op.out)] = Value(blank((total,), op.out.dtype))
        out.op = Op(op.kind, op.f, tuple(new.get(id(v), v) for v in op.inputs), out, op.options)
        inserted.append(out.op)
    gone = {id(op) for chain in chains for op in chain.ops}
    last = max(k for k, op in enumerate(program.ops) if id(op) in gone)
    ends = [new[id(program.carry_out[slot])] for slot in first.slots]
    program.carry_out.extend(ends)
    program.ops = [*views, *program.ops[:last], *inserted, *program.ops[last + 1 :]]
    program.ops = [op for op in program.ops if id(op) not in gone]


def _as_part(member: Value, packed: Value, start: int, stop: int, shape: tuple[int, ...]) -> Op:
    """``member``, so far a carried array of its own, as a view of ``packed``."""
    member.source, member.like = None, part(packed.like, start, stop, shape)
    member.op = Op("view", part, (packed,), member, (start, stop, shape))
    return member.op


def part(x: NDArray, start: int, stop: int, shape: tuple[int, ...]) -> NDArray:
    """Elements ``start`` to ``stop`` of a long array as an array of its own shape."""
    return x[start:stop].reshape(shape)
