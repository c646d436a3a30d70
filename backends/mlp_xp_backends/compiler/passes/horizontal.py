"""Horizontal fusion: the same update of many small arrays becomes one update of one long array.

Carried arrays whose `chains` have the same form are stored in one 1-D array, and so are the other operands of the
chains: gradients, and numbers that differ between the models of a stack, repeated for each element.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import accumulate

import numpy as np

from mlp_xp_backends.compiler.passes.chains import SMALL, Chain, chains, groups, pays
from mlp_xp_backends.compiler.program import Kind, Op, Program, Value, new_value
from mlp_xp_backends.compiler.tape import Tape


def horizontal_fusion(program: Program) -> Program:
    """Pack the small arrays whose chains have the same form; all results keep their bits."""
    packed = groups(c for c in chains(program) if _pays(c, program.carry[c.slots[0]].size))
    parts: dict[Value, Value] = {}
    for alike in packed:
        program = _merged(program, alike, parts)
    gone = {slot for alike in packed for chain in alike for slot in chain.slots}
    kept = [k for k in range(len(program.carry)) if k not in gone]
    return replace(
        program,
        carry=tuple(program.carry[k] for k in kept),
        carry_out=tuple(program.carry_out[k] for k in kept),
        members=tuple(program.members[k] for k in kept),
    ).substituted(parts)


def _pays(chain: Chain, size: int) -> bool:
    """Whether packing is faster; numbers of models are memory to read, too."""
    return pays(chain, size) and (size <= SMALL or not chain.numbers)


def _merged(program: Program, alike: Sequence[Chain], parts: dict[Value, Value]) -> Program:
    """Replace chains of one form by one chain; add the views that replace the carried arrays to ``parts``."""
    first = alike[0]
    shapes = [program.carry[chain.slots[0]].shape for chain in alike]
    bounds = list(accumulate((program.carry[chain.slots[0]].size for chain in alike), initial=0))
    packed: dict[Value, Value] = {}  # keys: values of the first chain
    members, views = [], []
    for position, slot in enumerate(first.slots):
        whole = packed[program.carry[slot]] = new_value((bounds[-1],), program.carry[slot].dtype, ("carry", -1))
        members.append(tuple(k for chain in alike for k in program.members[chain.slots[position]]))
        for chain, shape, start in zip(alike, shapes, bounds[:-1], strict=True):
            part = replace(new_value(shape, whole.dtype), base=whole, offset=start * whole.dtype.itemsize)
            parts[program.carry[chain.slots[position]]] = part
            views.append(Op(Kind.VIEW, "part", (whole,), part, {"args": (start,)}))
    inserted = list(_packed_ops(alike, shapes, packed, bounds[-1]))
    gone = {op for chain in alike for op in chain.ops}
    last = max(k for k, op in enumerate(program.ops) if op in gone)
    ops = [*views, *program.ops[:last], *inserted, *program.ops[last + 1 :]]
    return replace(
        program,
        ops=tuple(op for op in ops if op not in gone),
        carry=(*program.carry, *(packed[program.carry[slot]] for slot in first.slots)),
        carry_out=(*program.carry_out, *(packed[program.carry_out[slot]] for slot in first.slots)),
        members=(*program.members, *members),
    )


def _packed_ops(
    alike: Sequence[Chain], shapes: Sequence[tuple[int, ...]], packed: dict[Value, Value], size: int
) -> Iterable[Op]:
    """The packs of the operands, and the operations of the first chain on the packs; adds to ``packed``."""
    tape = Tape()
    for inputs in zip(*(chain.outside for chain in alike), strict=True):
        packed[inputs[0]] = tape.emit(Kind.PACK, "", inputs)
    for v in alike[0].numbers:
        repeated = [tape.view("broadcast_to", np.broadcast_to, v, shape) for shape in shapes]
        packed[v] = tape.emit(Kind.PACK, "", repeated)
    yield from tape.ops
    for op in alike[0].ops:
        out = packed[op.out] = new_value((size,), op.out.dtype)
        yield replace(op, inputs=tuple(packed.get(v, v) for v in op.inputs), out=out)
