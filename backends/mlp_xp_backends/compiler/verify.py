"""Check programs: every operation has the form of its kind and reads only values that exist."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from mlp_xp_backends.compiler.forms import require
from mlp_xp_backends.compiler.program import Kind, Op, Program, Value


class InvalidProgram(ValueError):  # noqa: N818  reads as a sentence
    """A program breaks a rule: a defect of the pass that returned it."""


def verify(program: Program) -> Program:
    """Return ``program`` if every operation is well-formed; otherwise raise `InvalidProgram` with the operation.

    Each value is computed once, before it is read; operands, options, shape and dtype are those of its `Kind`; views
    stay inside the memory of their bases.
    """
    known = {*program.carry, *program.consts, *program.items}
    for k, op in enumerate(program.ops):
        try:
            for v in op.inputs:
                require(v in known or v.constant is not None, "an operand is read before it is made")
            require(op.out not in known, "a value is made twice")
            _check_result(op)
        except (ValueError, TypeError) as error:
            raise InvalidProgram(f"operation {k} ({op.kind.name} {op.name}): {error}") from None
        known.add(op.out)
    for v in (*program.carry_out, *program.outs):
        _check(v in known or v.constant is not None, "the result of a step is not made")
    for before, after in zip(program.carry, program.carry_out, strict=True):
        _check((before.shape, before.dtype) == (after.shape, after.dtype), "the carry changes shape or dtype")
    _check(len(program.members) == len(program.carry), "the carry is not as long as its members")
    return program


def verify_memory(program: Program, plan: Any) -> None:
    """Raise `InvalidProgram` if an operation overwrites a value that is still read.

    ``plan.places`` has ``kind``, ``number`` and ``offset`` of all results, ``plan.copies`` the positions of the carried
    arrays that are copied to at the end.
    """
    where = {v: ("carry", k, 0, v.nbytes) for k, v in enumerate(program.carry)}
    for v, place in plan.places.items():
        where[v] = (place.kind, place.number, place.offset, place.offset + v.nbytes)
        inside = place.kind == "carry" or where[v][3] <= plan.buffers[place.number]
        _check(inside, "a result reaches beyond its buffer")
    spoiled: set[Value] = set()

    def overwrite(v: Value, span: tuple[Any, ...], also: Iterable[Value] = ()) -> None:
        kind, number, start, stop = span
        for other, (k, n, first, last) in where.items():
            if other is not v and other not in also and (k, n) == (kind, number) and first < stop and start < last:
                spoiled.add(other)
        spoiled.discard(v)

    for op in (op for op in program.ops if op.kind is not Kind.VIEW):
        _check(not spoiled & {x.root for x in op.inputs}, f"{op.kind.name} {op.name} reads what was overwritten")
        _check(op.out in where, f"{op.kind.name} {op.name} has no place")
        over = {x for x in op.inputs if where.get(x.root, ())[:2] == where[op.out][:2]}
        overlap = {x for x in over if where[x.root][2] < where[op.out][3] and where[op.out][2] < where[x.root][3]}
        if op.kind is not Kind.PACK:
            allowed = {x for x in op.overwritable() if where.get(x) == where[op.out]}
            _check(overlap <= allowed, f"{op.kind.name} {op.name} writes over an operand")
        overwrite(op.out, where[op.out], op.inputs if op.kind is Kind.PACK else ())
    _check(not spoiled & {v.root for v in (*program.outs, *program.carry_out)}, "what outlasts the step is overwritten")
    for k, (before, after) in enumerate(zip(program.carry, program.carry_out, strict=True)):
        if k in plan.copies:
            overwrite(before, where[before], (after,))
        else:
            _check(after is before or where.get(after) == where[before], "a carried array is not where it should be")
            _check(after.root not in spoiled, "a carried array is overwritten by another")
    for k in plan.copies:
        _check(program.carry_out[k].root not in spoiled, "a carried array is overwritten before it is copied")


def _check(right: bool, message: str) -> None:
    if not right:
        raise InvalidProgram(message)


def _check_result(op: Op) -> None:
    shape, dtype = op.kind.form(*op.inputs, **op.options)
    require(shape is None or op.out.shape == shape, f"the shape is {op.out.shape}, but should be {shape}")
    require(dtype is None or op.out.dtype == dtype, f"the dtype is {op.out.dtype}, but should be {dtype}")
    require((op.out.base is None) == (op.kind is not Kind.VIEW), "a view and only a view has a base")
    if op.kind is Kind.VIEW:
        require(op.out.base is op.inputs[0].root, "the view has another base than its operand")
        require(_inside(op.out), "the view reaches beyond the memory of its base")
        return
    require(op.out.is_contiguous, "a result has gaps")
    require(op.out.source is None and op.out.constant is None, "a result is made from nothing")
    if op.kind is Kind.ELEMENTWISE:
        *loop, out = getattr(np, op.name).resolve_dtypes((*op["loop"], None))
        fits = tuple(loop) == op["loop"] and len(loop) == len(op.inputs)
        require(fits, f"{op.name} has no loop for {op['loop']}")
        require(np.can_cast(out, op.out.dtype, "same_kind"), f"{out} is not cast to {op.out.dtype}")


def _extent(v: Value) -> tuple[int, int]:
    """The first byte of ``v`` and the one after the last, relative to its first element."""
    steps = [(n - 1) * s for n, s in zip(v.shape, v.strides, strict=True)]
    return sum(s for s in steps if s < 0), sum(s for s in steps if s > 0) + v.dtype.itemsize


def _inside(v: Value) -> bool:
    (low, high), (first, last) = _extent(v), _extent(v.root)
    return v.size == 0 or (first <= v.offset + low and v.offset + high <= last)
