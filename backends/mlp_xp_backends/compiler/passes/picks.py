"""Products and differences with one-hot rows, computed by id."""

from __future__ import annotations

from math import prod

import numpy as np

from mlp_xp_backends.compiler.passes.rewrite import factors, rewrite
from mlp_xp_backends.compiler.program import Kind, Op, Program, Value
from mlp_xp_backends.compiler.tape import Tape

LARGE = 4_096
"""Elements of a matrix of one-hot rows from which picking by id is faster."""


def picks(program: Program) -> Program:
    """Rewrite ``sum(one_hot * z, axis=-1)`` as ``z`` at the ids, and ``p - one_hot`` as ``p`` minus 1 there.

    Equal if ``z`` is finite and the ids are columns, which `Program.bounds` requires.
    """

    def rule(tape: Tape, op: Op) -> Value | None:
        for z, rows in _operands(program, op):
            hot = program.makers.get(rows)
            if hot is None or not _can_pick(program, hot, z) or not z.dtype == op.inputs[0].dtype == op.out.dtype:
                continue
            places = _places(tape, hot.inputs[0], z.shape[:-1], hot["n"])
            if op.name == "subtract":
                return tape.emit(Kind.LESSEN, "", (z, places))
            flat, places = tape.reshape(z, (z.size,)), tape.reshape(places, op.out.shape)
            return tape.emit(Kind.TAKE, "", (flat, places), axis=0)
        return None

    return rewrite(program, rule)


def _operands(program: Program, op: Op) -> tuple[tuple[Value, ...], ...]:
    """The operands of a difference; those of a product that ``op`` sums over the last axis, in both orders."""
    if op.name == "subtract":
        return (op.inputs,)
    if op.kind is not Kind.REDUCE or op.name != "sum" or op["axes"] != (len(op.inputs[0].shape) - 1,):
        return ()
    product = factors(program, op.inputs[0])
    return (product, product[::-1]) if product else ()


def _can_pick(program: Program, hot: Op, z: Value) -> bool:
    """Whether ``hot`` makes large one-hot rows of checked ids; ``z`` has their shape, perhaps after more axes."""
    if hot.kind is not Kind.ONE_HOT or prod(hot.out.shape[-2:]) < LARGE or hot.inputs[0].dtype == np.uint64:
        return False
    alike = z.is_contiguous and z.shape[max(len(z.shape) - len(hot.out.shape), 0) :] == hot.out.shape
    return alike and program.leaf_of(hot.inputs[0]) is not None


def _places(tape: Tape, ids: Value, shape: tuple[int, ...], n: int) -> Value:
    """Positions of the columns ``ids`` among the flat elements of rows of length ``n``."""
    starts = tape.constant(np.arange(prod(shape)).reshape(shape) * n)
    loop = (np.dtype(np.intp), np.dtype(np.intp))
    return tape.emit(Kind.ELEMENTWISE, "add", (starts, ids), loop[0], loop=loop)
