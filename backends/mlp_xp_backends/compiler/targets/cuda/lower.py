"""Convert a recorded program to the form that the target compiles: a copy stores every result that leaves the step."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

import numpy as np

from mlp_xp_backends.compiler.program import Kind, Op, Program, Unrecordable, Value, new_value
from mlp_xp_backends.compiler.targets.cuda.access import FOLDING, ORDER, POINTWISE, read_axes
from mlp_xp_backends.compiler.targets.cuda.functions import c_type

LARGEST = 2**31 - 2**20
"""The size, in elements, from which on an array is too large for loops, which have 32-bit indices."""


@dataclass(eq=False)
class Step:
    """The operations of a step without views, and the destinations of the copies at its end."""

    program: Program
    ops: list[Op]
    target: dict[Value, tuple[str, int]]
    """``("carry", k)`` or ``("out", k)`` for the results that are stored there."""

    def __post_init__(self) -> None:
        self.maker = {op.out: op for op in self.ops}
        looked_up = {v.root for op in self.ops for k, v in enumerate(op.inputs) if read_axes(op, k) is None}
        self.inline = {op.out for op in self.ops if op.out not in looked_up and self._is_number(op)}
        """Single numbers, which every thread recomputes wherever they are needed; they are not stored."""

    def _is_number(self, op: Op) -> bool:
        simple = op.kind in (Kind.ELEMENTWISE, Kind.COPY, Kind.WHERE)
        return simple and op.out.size == 1 and op.out not in self.target


def lower(program: Program) -> Step:
    """Return the step of ``program``. Raises `Unrecordable` for operations that the target does not support."""
    ops: list[Op] = []
    target: dict[Value, tuple[str, int]] = {}

    def copied(v: Value) -> Value:
        out = new_value(v.shape, v.dtype)
        ops.append(Op(Kind.COPY, "copy", (v,), out))
        return out

    dense: dict[Value, Value] = {}
    for op in program.ops:
        op = replace(op, inputs=tuple(_dense(v, dense) for v in op.inputs))
        if op.kind is Kind.VIEW:
            continue
        if op.kind is Kind.MATMUL:
            inputs = tuple(v if multiplies(v) and not _moves(v) else copied(v) for v in op.inputs)
            op = Op(op.kind, op.name, inputs, op.out, op.options)
        elif op.kind is Kind.SEGMENT_SUM:
            *lead, rows = op.inputs[1].shape
            order = Op(ORDER, "order", op.inputs[1:], new_value((*lead, 2, rows), np.int32))
            ops.append(order)
            op = replace(op, inputs=(op.inputs[0], order.out))
        elif op.kind not in POINTWISE | FOLDING:
            raise Unrecordable(f"{op.kind.name} {op.name} on CUDA")
        for k, v in enumerate((*op.inputs, op.out)):
            c_type(v.dtype)
            gathered = op.kind is Kind.TAKE and k == 0
            if v.size == 0 or (v.size >= LARGEST and not gathered):
                raise Unrecordable(f"an array of {v.size} elements on CUDA")
        ops.append(op)
    ends = []
    outs = [_dense(v, dense) for v in program.outs]
    for k, (before, after) in enumerate(zip(program.carry, program.carry_out, strict=True)):
        if after is not before:
            whole = after.root.source is None  # an input that is carried on as another would be overwritten
            ends.append((after if whole else copied(after), ("carry", k)))
    for v, place in [*ends, *((v, ("out", k)) for k, v in enumerate(outs))]:
        target[copied(v)] = place
    return Step(program, ops, target)


def _dense(v: Value, known: dict[Value, Value]) -> Value:
    """A constant array in the layout that it has on the device, row-major; any other value as it is."""
    if v.root.constant is None or not isinstance(v.root.constant, np.ndarray):
        return v
    return known.setdefault(v, replace(new_value(v.shape, v.dtype), constant=v.constant))


def is_wide(v: Value) -> bool:
    """Whether offsets in the memory of ``v`` need 64 bits: a large table, or few elements at large distances."""
    steps = zip(v.root.shape, v.root.strides, strict=True)
    return sum((n - 1) * abs(s) for n, s in steps) // v.dtype.itemsize >= LARGEST


def multiplies(v: Value) -> bool:
    """Whether cuBLAS can read ``v`` as a stack of matrices: one axis is dense, and the stack has a constant stride."""
    rows, columns = (s // v.dtype.itemsize for s in v.strides[-2:])
    m, n = v.shape[-2:]
    by_rows = (columns == 1 or n == 1) and (rows >= n or m == 1)
    by_columns = (rows == 1 or m == 1) and (columns >= m or n == 1)
    return (by_rows or by_columns) and max(rows, columns) < LARGEST and stack_stride(v) is not None


def stack_stride(v: Value) -> int | None:
    """The stride of the stack in elements: 0 for a single or repeated matrix, None if it is not constant."""
    lead = [(n, s // v.dtype.itemsize) for n, s in zip(v.shape[:-2], v.strides[:-2], strict=True) if n > 1]
    if not lead:
        return 0
    inner = lead[-1][1]
    even = all(s == inner * prod(n for n, _ in lead[k + 1 :]) for k, (_, s) in enumerate(lead))
    return inner if even else None


def _moves(v: Value) -> bool:
    """Whether the address of ``v`` changes from step to step."""
    return v.root.source is not None and v.root.source[0] == "item"
