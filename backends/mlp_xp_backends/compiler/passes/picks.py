"""Products and differences with one-hot rows, computed by id."""

from __future__ import annotations

from dataclasses import replace
from math import prod

import numpy as np

from mlp_xp_backends.compiler.program import Kind, Op, Program, Value
from mlp_xp_backends.compiler.tape import Tape

LARGE = 4_096
"""Elements of a matrix of one-hot rows from which picking by id is faster."""


def picks(program: Program) -> Program:
    """Rewrite ``sum(one_hot * z, axis=-1)`` as ``z`` at the ids, and ``p - one_hot`` as ``p`` minus 1 there.

    Equal if ``z`` is finite and the ids are columns, which `Program.bounds` requires from then on.
    """
    for op in program.ops:
        if op.kind is Kind.ONE_HOT and prod(op.out.shape[-2:]) >= LARGE:
            program = _without(program, op)
    return program


def _without(program: Program, hot: Op) -> Program:
    """The program without these one-hot rows, if every operation on them can be done by id."""
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
        if total["axes"] != last or total.out.dtype != op.out.dtype:
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
            places = tape.view("reshape", np.reshape, places, op.out.shape)
        options = {"axis": 0} if kind is Kind.TAKE else {}
        ops += [*tape.ops, Op(kind, "", (z, places), op.out, options)]
    bounds = program.bounds | {(*source, n)}
    return replace(program, bounds=bounds).with_ops(ops)


def _rows(x: Value, hot: Value) -> bool:
    """Whether ``x`` is contiguous and has the shape of ``hot``, after any number of leading axes."""
    return x.is_contiguous and len(x.shape) >= len(hot.shape) and x.shape[len(x.shape) - len(hot.shape) :] == hot.shape


def _places(tape: Tape, ids: Value, shape: tuple[int, ...], n: int) -> Value:
    """Positions of the columns ``ids`` among the flat elements of rows of length ``n``."""
    starts = tape.constant(np.arange(prod(shape)).reshape(shape) * n)
    loop = (np.dtype(np.intp), np.dtype(np.intp))
    return tape.emit(Kind.ELEMENTWISE, "add", (starts, ids), loop[0], loop=loop)
