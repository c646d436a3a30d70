"""Products and differences with one-hot rows, without the rows."""

from __future__ import annotations

from dataclasses import replace
from math import prod

import numpy as np

from mlp_xp_backends.compiler.program import Kind, Op, Program, Value
from mlp_xp_backends.compiler.tape import Tape

LARGE = 4_096
"""Elements of one-hot rows from which on making them costs more than picking by id."""


def picks(program: Program) -> Program:
    """``sum(one_hot * z, axis=-1)`` as ``z`` at the ids, and ``p - one_hot`` as ``p`` less by 1 there.

    The same numbers where ``z`` is finite, if the ids are columns: `Program.bounds` says so from now on.
    """
    for op in program.ops:
        if op.kind is Kind.ONE_HOT and prod(op.out.shape[-2:]) >= LARGE:
            program = _without(program, op)
    return program


def _without(program: Program, hot: Op) -> Program:
    """The program without these one-hot rows, if all that is done with them can be done by id."""
    (ids,), n, source = hot.inputs, hot["n"], program.leaf_of(hot.inputs[0])
    new: dict[Op, tuple[Kind, Value]] = {}
    for op in program.readers.get(hot.out, ()):
        others = [v for v in op.inputs if v is not hot.out]
        if len(others) != 1 or not _rows(others[0], hot.out) or op.out.dtype != others[0].dtype:
            return program
        if op.name == "subtract" and op.inputs[1] is hot.out:
            new[op] = (Kind.LESSEN, others[0])
            continue
        total = program.only_reader(op.out)
        last = (len(op.out.shape) - 1,)
        if op.name != "multiply" or total is None or total.name != "sum" or total.kind is not Kind.REDUCE:
            return program
        if total["axes"] != last or total["keepdims"] or total.out.dtype != op.out.dtype:
            return program
        new[total] = (Kind.TAKE, others[0])
    if hot.out in program.kept or source is None or ids.dtype == np.uint64 or not new:
        return program
    ops: list[Op] = []
    for op in program.ops:
        if op not in new:
            ops.append(op)
            continue
        kind, z = new[op]
        tape = Tape()
        places = _places(tape, ids, z.shape[:-1], n)
        if kind is Kind.TAKE:
            z = tape.view("reshape", np.reshape, z, (z.size,))
        options = {"axis": 0} if kind is Kind.TAKE else {}
        ops += [*tape.ops, Op(kind, "", (z, places), op.out, options)]
    bounds = program.bounds | {(*source, n)}
    return replace(program, bounds=bounds).with_ops(ops)


def _rows(x: Value, hot: Value) -> bool:
    """Whether ``x`` has a row for every row of one-hot numbers, or several of such."""
    return x.is_contiguous and len(x.shape) >= len(hot.shape) and x.shape[len(x.shape) - len(hot.shape) :] == hot.shape


def _places(tape: Tape, ids: Value, shape: tuple[int, ...], n: int) -> Value:
    """Where the columns ``ids`` are among the flat elements of rows of length ``n``."""
    starts = tape.constant(np.arange(prod(shape)).reshape(shape) * n)
    loop = (np.dtype(np.intp), np.dtype(np.intp))
    return tape.emit(Kind.ELEMENTWISE, "add", (starts, ids), shape, np.intp, loop=loop)
