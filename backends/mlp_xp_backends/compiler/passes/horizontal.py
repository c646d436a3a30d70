"""Horizontal fusion: the same update of many small arrays becomes one update of one long array.

A network has many small parameters (biases, narrow layers), and a call of NumPy costs more than their arithmetic.
Carried arrays with the same chain of elementwise operations are therefore stored in one 1-D array, and so are the other
operands of the chain (their gradients).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

from mlp_xp_backends.compiler.program import Kind, Op, Program, Value, new_value

SMALL, LARGER = 16_384, 65_536
"""Elements up to which an array is packed; the second number is for updates of more than `MANY` operations."""
MANY = 4
"""Operations of a short update: BLAS adds the product of the gradient to the array, which packing prevents."""


@dataclass(frozen=True, eq=False)
class Chain:
    """Elementwise operations that end in the new values of some carried arrays of one shape."""

    slots: tuple[int, ...]
    ops: tuple[Op, ...]
    outside: tuple[Value, ...]
    """The operands from outside the chain, other than carried arrays and numbers."""
    words: tuple[Any, ...]
    """The form of the chain: equal for two chains of the same operations on different arrays."""


def horizontal_fusion(program: Program, worth: Callable[[Chain, Program], bool] | None = None) -> Program:
    """Pack the arrays whose chains have the same form and are ``worth`` it; all results keep their bits."""
    groups: dict[tuple[Any, ...], list[Chain]] = {}
    for chain in _chains(program):
        if (worth or _pays)(chain, program):
            groups.setdefault(chain.words, []).append(chain)
    packed = [chains for chains in groups.values() if len(chains) > 1]
    parts: dict[Value, Value] = {}
    for chains in packed:
        program = _merged(program, chains, parts)
    gone = {slot for chains in packed for chain in chains for slot in chain.slots}
    kept = [k for k in range(len(program.carry)) if k not in gone]
    return replace(
        program,
        carry=tuple(program.carry[k] for k in kept),
        carry_out=tuple(program.carry_out[k] for k in kept),
        members=tuple(program.members[k] for k in kept),
    ).substituted(parts)


def _pays(chain: Chain, program: Program) -> bool:
    size = program.carry[chain.slots[0]].size
    return size <= SMALL or (size <= LARGER and len(chain.ops) > MANY)


def is_elementwise(op: Op) -> bool:
    """Whether element k of the result depends only on element k of the operands and on 0-d operands."""
    whole = all(v.shape == () or (v.shape == op.out.shape and v.is_contiguous) for v in op.inputs)
    return op.kind is Kind.ELEMENTWISE and op.out.shape != () and whole


def _chains(program: Program) -> Iterator[Chain]:
    """The chains of all updates; no two share an array or an operation."""
    order = {op: k for k, op in enumerate(program.ops)}
    slot_of = {v: k for k, v in enumerate(program.carry)}
    found: list[tuple[set[int], set[Op]]] = []
    for k, (before, after) in enumerate(zip(program.carry, program.carry_out, strict=True)):
        if before is after or before.size == 0:
            continue
        slots, ops = _reached(program, after, slot_of, order, k)
        for other in [f for f in found if f[0] & slots or f[1] & ops]:
            found.remove(other)
            slots, ops = slots | other[0], ops | other[1]
        if ops:
            found.append((slots, ops))
    for slots, ops in found:
        chain = _checked(program, sorted(slots), sorted(ops, key=order.__getitem__))
        if chain is not None:
            yield chain


def _reached(
    program: Program, after: Value, slot_of: Mapping[Value, int], order: Mapping[Op, int], slot: int
) -> tuple[set[int], set[Op]]:
    """The elementwise operations that lead to ``after``, and the carried arrays that they start from."""
    slots, ops, todo = {slot}, set(), [after]
    while todo:
        v = todo.pop()
        op = program.makers.get(v)
        if v in slot_of:
            slots.add(slot_of[v])
        elif op is not None and op in order and v.shape == after.shape and is_elementwise(op) and op not in ops:
            ops.add(op)
            todo.extend(x for x in op.inputs if x.shape == after.shape)
    return slots, ops


def _checked(program: Program, slots: Sequence[int], ops: Sequence[Op]) -> Chain | None:
    """The chain, if no operation outside reads its intermediate results."""
    results = {op.out for op in ops}
    ends = [program.carry_out[k] for k in slots]
    kept = {*program.outs, *(v for k, v in enumerate(program.carry_out) if k not in slots)}
    if len(set(ends)) < len(ends) or not results.issuperset(ends) or results & kept:
        return None
    if any(op not in ops for r in results for op in program.readers.get(r, ())):
        return None
    if len({program.carry[k].shape for k in slots}) > 1:
        return None
    names: dict[Value, Any] = {program.carry[k]: ("carry", position) for position, k in enumerate(slots)}
    outside: list[Value] = []
    words: list[Any] = []
    for op in ops:
        for v in op.inputs:
            if v not in names:
                names[v] = ("number", v) if v.shape == () else ("array", len(outside))
                outside.extend([v] if v.shape != () else [])
        words.append((op.name, op["loop"], op.out.dtype, tuple((names[v], v.dtype) for v in op.inputs)))
        names[op.out] = ("result", len(words))
    return Chain(tuple(slots), tuple(ops), tuple(outside), (*words, tuple(names[end] for end in ends)))


def _merged(program: Program, chains: Sequence[Chain], parts: dict[Value, Value]) -> Program:
    """Replace chains of one form by one chain; add the views that replace the carried arrays to ``parts``."""
    first = chains[0]
    shapes = [program.carry[chain.slots[0]].shape for chain in chains]
    bounds = list(accumulate((program.carry[chain.slots[0]].size for chain in chains), initial=0))
    packed: dict[Value, Value] = {}  # keys: values of the first chain
    members, views = [], []
    for position, slot in enumerate(first.slots):
        whole = packed[program.carry[slot]] = new_value((bounds[-1],), program.carry[slot].dtype, ("carry", -1))
        members.append(tuple(k for chain in chains for k in program.members[chain.slots[position]]))
        for chain, shape, start in zip(chains, shapes, bounds[:-1], strict=True):
            part = replace(new_value(shape, whole.dtype), base=whole, offset=start * whole.dtype.itemsize)
            parts[program.carry[chain.slots[position]]] = part
            views.append(Op(Kind.VIEW, "part", (whole,), part, {"args": (start,)}))
    inserted = list(_packed_ops(chains, packed, bounds[-1]))
    gone = {op for chain in chains for op in chain.ops}
    last = max(k for k, op in enumerate(program.ops) if op in gone)
    ops = [*views, *program.ops[:last], *inserted, *program.ops[last + 1 :]]
    return replace(
        program,
        ops=tuple(op for op in ops if op not in gone),
        carry=(*program.carry, *(packed[program.carry[slot]] for slot in first.slots)),
        carry_out=(*program.carry_out, *(packed[program.carry_out[slot]] for slot in first.slots)),
        members=(*program.members, *members),
    )


def _packed_ops(chains: Sequence[Chain], packed: dict[Value, Value], size: int) -> Iterable[Op]:
    """The packs of the operands, and the operations of the first chain on the packs; adds to ``packed``."""
    for inputs in zip(*(chain.outside for chain in chains), strict=True):
        out = packed[inputs[0]] = new_value((size,), inputs[0].dtype)
        yield Op(Kind.PACK, "", inputs, out)
    for op in chains[0].ops:
        out = packed[op.out] = new_value((size,), op.out.dtype)
        yield replace(op, inputs=tuple(packed.get(v, v) for v in op.inputs), out=out)
