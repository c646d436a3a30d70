"""Chains: the elementwise operations that update carried arrays.

A network has many small parameters (biases, narrow layers), and a call of NumPy costs more than their arithmetic:
arrays with chains of the same form can be updated together. For a large array it is faster to let BLAS add the product
of the gradient to it. `packable` decides for each matrix by itself, so that a model of a stack is rounded like a model
alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from mlp_xp_backends.compiler.program import Kind, Op, Program, Value

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
    numbers: tuple[Value, ...]
    """The operands with a number for each matrix of a stack."""
    words: tuple[Any, ...]
    """The form of the chain: equal for two chains of the same operations on different arrays."""


def is_number(v: Value, shape: tuple[int, ...]) -> bool:
    """Whether ``v`` is 0-d, or an argument of the loop with a number for each matrix of a stack of this shape."""
    source = v.root.source
    given = source is not None and source[0] in ("item", "const")
    return v.shape == () or (given and len(shape) > 2 and v.shape == (*shape[:-2], 1, 1))


def groups(found: Iterator[Chain]) -> list[list[Chain]]:
    """The chains by their form, where there are several."""
    by_form: dict[tuple[Any, ...], list[Chain]] = {}
    for chain in found:
        by_form.setdefault(chain.words, []).append(chain)
    return [part for part in by_form.values() if len(part) > 1]


def packable(program: Program) -> frozenset[Op]:
    """The operations of updates that are faster packed than as part of a product.

    Decided as for one matrix of each stack, because a product that includes its update is rounded differently.
    """
    found = (c for c in chains(program) if pays(c, prod(program.carry[c.slots[0]].shape[-2:])))
    return frozenset(op for part in groups(found) for chain in part for op in chain.ops)


def pays(chain: Chain, size: int) -> bool:
    """Whether packing an array of ``size`` elements is faster than including its update in a product."""
    return size <= SMALL or (size <= LARGER and len(chain.ops) > MANY)


def chains(program: Program) -> Iterator[Chain]:
    """The chains of all updates; no two share an array or an operation."""
    order = {op: k for k, op in enumerate(program.ops)}
    slot_of = {v: k for k, v in enumerate(program.carry)}
    found: list[tuple[set[int], set[Op]]] = []
    for k, (before, after) in enumerate(zip(program.carry, program.carry_out, strict=True)):
        if before is after or before.size == 0:
            continue
        slots, ops = _reached(program, k, slot_of, order)
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
    program: Program, slot: int, slot_of: Mapping[Value, int], order: Mapping[Op, int]
) -> tuple[set[int], set[Op]]:
    """The elementwise operations that lead to the new value in ``slot``, and the carried arrays they start from."""
    after = program.carry_out[slot]
    slots, ops, todo = {slot}, set(), [after]
    while todo:
        v = todo.pop()
        op = program.makers.get(v)
        if v in slot_of:
            slots.add(slot_of[v])
        elif op is not None and op in order and v.shape == after.shape and _is_elementwise(op) and op not in ops:
            ops.add(op)
            todo.extend(x for x in op.inputs if not is_number(x, after.shape))
    return slots, ops


def _is_elementwise(op: Op) -> bool:
    """Whether element k of the result depends only on element k of the operands and on numbers."""
    shape = op.out.shape
    whole = all(is_number(v, shape) or (v.shape == shape and v.is_contiguous) for v in op.inputs)
    return op.kind is Kind.ELEMENTWISE and op.out.shape != () and whole


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
                number = is_number(v, op.out.shape)
                names[v] = ("number", v) if number else ("array", len(outside))
                outside.extend([] if number else [v])
        words.append((op.name, op["loop"], op.out.dtype, tuple((names[v], v.dtype) for v in op.inputs)))
        names[op.out] = ("result", len(words))
    numbers = tuple(v for v, name in names.items() if name[0] == "number" and v.shape != ())
    return Chain(tuple(slots), tuple(ops), tuple(outside), numbers, (*words, tuple(names[end] for end in ends)))
