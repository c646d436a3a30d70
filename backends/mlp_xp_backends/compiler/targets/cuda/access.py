"""The axes along which an operation reads and writes, which determine whether two operations can share a loop.

The space of an operation has one axis for each index of its loops: the axes of the result or, for a reduction, those
of the operand. A read is pointwise if each point of the space needs one element, the one at the point's own indices.
All other operands, such as a transpose or the table of a gather, are looked up in memory.
"""

from __future__ import annotations

from math import prod

from mlp_xp_backends.compiler.program import Kind, Op, Value

Axes = tuple[int | None, ...]
"""For each axis of a value, the corresponding axis of a space, or None if the index is always 0."""

POINTWISE = {Kind.ELEMENTWISE, Kind.COPY, Kind.WHERE, Kind.TAKE, Kind.ONE_HOT, Kind.SEGMENT_SUM}
"""Kinds whose space is that of the result."""
FOLDING = {Kind.REDUCE, Kind.ARG}
ORDER = Kind.CALL
"""Sorts the ids of a segment sum: (..., 2, rows), the ids in ascending order and the rows from which they come."""


def space(op: Op) -> tuple[int, ...]:
    """The sizes of the space of ``op``."""
    return op.inputs[0].shape if op.kind in FOLDING or op.kind is ORDER else op.out.shape


def gone(op: Op) -> tuple[int, ...]:
    """The axes of its space over which ``op`` reduces."""
    if op.kind is Kind.REDUCE:
        return tuple(op["axes"])
    if op.kind is Kind.ARG:
        return tuple(range(len(space(op)))) if op["axis"] is None else (op["axis"],)
    return ()


def folded(op: Op) -> tuple[int, ...]:
    """The axes longer than 1 over which ``op`` reduces; a reduction without any is only a cast."""
    return tuple(a for a in gone(op) if space(op)[a] > 1)


def operand_axes(op: Op, k: int) -> Axes | None:
    """The axes of the space along which operand ``k`` is indexed, or None if it is looked up in memory."""
    v, d = op.inputs[k], len(space(op))
    if op.kind in (Kind.MATMUL, Kind.SEGMENT_SUM, ORDER) or (op.kind is Kind.TAKE and k == 0):
        return None
    first = op["axis"] if op.kind is Kind.TAKE else 0 if op.kind is Kind.ONE_HOT else d - len(v.shape)
    return tuple(a + first if n > 1 else None for a, n in enumerate(v.shape))


def result_axes(op: Op) -> Axes:
    """The axes of the space along which the result is indexed."""
    if op.kind is ORDER:
        return tuple(None for _ in op.out.shape)
    if op.kind not in FOLDING:
        return tuple(a if n > 1 else None for a, n in enumerate(op.out.shape))
    wide = [None if a in gone(op) or n == 1 else a for a, n in enumerate(space(op))]
    return tuple(a for k, a in enumerate(wide) if op["keepdims"] or k not in gone(op))


def root_axes(v: Value) -> Axes | None:
    """For each axis of the root of ``v``, the corresponding axis of ``v``; None if the order of elements differs.

    A view with the same order only adds or drops axes of length 1, or repeats elements.
    """
    root = v.root
    if v.base is None:
        return tuple(a if n > 1 else None for a, n in enumerate(v.shape))
    along = {s: a for a, (n, s) in enumerate(zip(v.shape, v.strides, strict=True)) if n > 1 and s}
    found = tuple(along.get(s) if n > 1 else None for n, s in zip(root.shape, root.strides, strict=True))
    wide = [(a, n) for a, n in zip(found, root.shape, strict=True) if n > 1]
    there = [a for a, _ in wide if a is not None]
    same = len(there) == len(wide) and all(v.shape[a] == n for a, n in wide if a is not None)
    complete = sorted(along.values()) == there and prod(v.shape[a] for a in there) == root.size
    return found if same and complete and not v.offset else None


def read_axes(op: Op, k: int) -> Axes | None:
    """For each axis of the root of operand ``k``, the axis of the space of ``op``; None if it is looked up."""
    outer, inner = operand_axes(op, k), root_axes(op.inputs[k])
    if outer is None or inner is None:
        return None
    return tuple(None if a is None else outer[a] for a in inner)
