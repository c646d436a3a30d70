"""Chains: the elementwise operations that update carried arrays.

A network has many small parameters (biases, narrow layers), and a call of NumPy costs more than their arithmetic:
arrays with chains of the same form can be updated together. For a large array it is faster to let BLAS add the product
of the gradient to it. `packable` decides for each matrix by itself, so that a model of a stack is rounded like a model
alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
    found: list[set[int | Op]] = []
    for k, (before, after) in enumerate(zip(program.carry, program.carry_out, strict=True)):
        if before is not after and before.size > 0:
            nodes = _reached(program, k)
            shared = [other for other in found if other & nodes]
            found = [*(other for other in found if other not in shared), nodes.union(*shared)]
    for nodes in found:
        slots = [k for k in range(len(program.carry)) if k in nodes]
        ops = [op for op in program.ops if op in nodes]
        if _is_closed(program, slots, ops):
            yield _chain(program, slots, ops)


def _reached(program: Program, slot: int) -> set[int | Op]:
    """The elementwise operations that lead to the new value in ``slot``, and the slots that they start from."""
    shape, todo = program.carry[slot].shape, [program.carry_out[slot]]
    nodes: set[int | Op] = {slot}
    while todo:
        v = todo.pop()
        op = program.makers.get(v)
        if v in program.carry:
            nodes.add(program.carry.index(v))
        elif op is not None and op not in nodes and v.shape == shape and _is_elementwise(op):
            nodes.add(op)
            todo.extend(x for x in op.inputs if not is_number(x, shape))
    return nodes


def _is_elementwise(op: Op) -> bool:
    """Whether element k of the result depends only on element k of the operands and on numbers."""
    shape = op.out.shape
    whole = all(is_number(v, shape) or (v.shape == shape and v.is_contiguous) for v in op.inputs)
    return op.kind is Kind.ELEMENTWISE and shape != () and whole


def _is_closed(program: Program, slots: Sequence[int], ops: Sequence[Op]) -> bool:
    """Whether ``ops`` compute all new values in ``slots``, of one shape, and nothing that is used elsewhere."""
    results = {op.out for op in ops}
    ends = [program.carry_out[k] for k in slots]
    kept = {*program.outs, *(v for k, v in enumerate(program.carry_out) if k not in slots)}
    readers = {op for v in results for op in program.readers.get(v, ())}
    complete = len(set(ends)) == len(ends) and results.issuperset(ends)
    return complete and len({v.shape for v in ends}) == 1 and not results & kept and readers.issubset(ops)


def _chain(program: Program, slots: Sequence[int], ops: Sequence[Op]) -> Chain:
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
    ends = tuple(names[program.carry_out[k]] for k in slots)
    return Chain(tuple(slots), tuple(ops), tuple(outside), numbers, (*words, ends))
