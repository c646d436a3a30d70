"""Check programs: every operation obeys its rule and reads only values that exist."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from mlp_xp_backends.compiler.program import Kind, Op, Program, Value

Shape = tuple[int, ...]


class InvalidProgram(ValueError):  # noqa: N818  reads as a sentence
    """A program breaks a rule: a defect of the pass that returned it."""


def verify(program: Program) -> Program:
    """Return ``program`` if every operation is well-formed; otherwise raise `InvalidProgram` with the operation.

    Each value is computed once, before it is read; the number of operands is that of `RULES`; shapes and dtypes follow
    from those of the operands; views stay inside the memory of their bases.
    """
    known = {*program.carry, *program.consts, *program.items}
    for k, op in enumerate(program.ops):
        try:
            for v in op.inputs:
                _check(v in known or v.constant is not None, "an operand is read before it is made")
            _check(op.out not in known, "a value is made twice")
            _check_form(op)
            if op.kind in RESULTS:
                shape, dtype = RESULTS[op.kind](op)
                _check(op.out.shape == shape, f"the shape is {op.out.shape}, but should be {shape}")
                _check(dtype is None or op.out.dtype == dtype, f"the dtype is {op.out.dtype}, but should be {dtype}")
        except InvalidProgram as error:
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


def _check_form(op: Op) -> None:
    names, given = op.rule.operands, len(op.inputs)
    any_number = names[0].startswith("*")
    fewest = 3 if op.kind is Kind.GEMM else len(names)
    fits = given >= 1 if any_number else fewest <= given <= len(names)
    _check(fits, f"{given} operands, but the rule names {names}")
    _check(set(op.options) == set(op.rule.options), f"options {sorted(op.options)}, not {sorted(op.rule.options)}")
    _check((op.out.base is None) == (op.kind is not Kind.VIEW), "a view and only a view has a base")
    if op.kind is Kind.VIEW:
        _check(op.out.base is op.inputs[0].root, "the view has another base than its operand")
        _check(op.out.dtype == op.inputs[0].dtype, "a view of another dtype")
        _check(_inside(op.out), "the view reaches beyond the memory of its base")
    else:
        _check(op.out.is_contiguous, "a result has gaps")
        _check(op.out.source is None and op.out.constant is None, "a result is made from nothing")


def _extent(v: Value) -> tuple[int, int]:
    """The first byte of ``v`` and the one after the last, relative to its first element."""
    steps = [(n - 1) * s for n, s in zip(v.shape, v.strides, strict=True)]
    return sum(s for s in steps if s < 0), sum(s for s in steps if s > 0) + v.dtype.itemsize


def _inside(v: Value) -> bool:
    (low, high), (first, last) = _extent(v), _extent(v.root)
    return v.size == 0 or (first <= v.offset + low and v.offset + high <= last)


def _broadcast(*values: Value) -> Shape:
    try:
        return np.broadcast_shapes(*(v.shape for v in values))
    except ValueError:
        raise InvalidProgram(f"shapes {[v.shape for v in values]} do not broadcast") from None


def _elementwise(op: Op) -> tuple[Shape, Any]:
    *loop, out = getattr(np, op.name).resolve_dtypes((*op["loop"], None))
    _check(tuple(loop) == op["loop"] and len(loop) == len(op.inputs), f"{op.name} has no loop for {op['loop']}")
    _check(np.can_cast(out, op.out.dtype, "same_kind"), f"{out} is not cast to {op.out.dtype}")
    return _broadcast(*op.inputs), None


def _same(op: Op) -> tuple[Shape, Any]:
    return op.inputs[0].shape, None if op.kind is Kind.CAST else op.inputs[0].dtype


def _where(op: Op) -> tuple[Shape, Any]:
    return _broadcast(*op.inputs), None


def _product(op: Op) -> tuple[Shape, Any]:
    a, b = op.inputs[:2]
    _check(min(len(a.shape), len(b.shape)) >= 2 and a.shape[-1] == b.shape[-2], f"{a.shape} times {b.shape}")
    _check(a.dtype == b.dtype, f"{a.dtype} times {b.dtype}")
    shape = (*np.broadcast_shapes(a.shape[:-2], b.shape[:-2]), a.shape[-2], b.shape[-1])
    _check_factors(op.inputs[2:4], shape, a.dtype)
    if len(op.inputs) > 4:
        _check(np.broadcast_shapes(shape, op.inputs[4].shape) == shape, "what is added does not fit the product")
    return shape, a.dtype


def _axpby(op: Op) -> tuple[Shape, Any]:
    x, alpha, beta, y = op.inputs
    _check(x.shape == y.shape and x.dtype == y.dtype and x.is_contiguous, "x and y do not fit")
    _check_factors((alpha, beta), x.shape, x.dtype)
    return x.shape, x.dtype


def _check_factors(factors: Sequence[Value], shape: Shape, dtype: Any) -> None:
    for number in factors:
        fits = number.shape == () or number.shape in ((1, 1), (*shape[:-2], 1, 1))
        _check(fits and number.dtype == dtype, "a factor is not a number for each matrix, of the same dtype")


def _reduced(x: Value, axes: Any, keepdims: bool) -> Shape:
    return tuple(1 if k in axes else n for k, n in enumerate(x.shape) if keepdims or k not in axes)


def _reduce(op: Op) -> tuple[Shape, Any]:
    _check(tuple(sorted(set(op["axes"]))) == op["axes"], "axes are not in order")
    return _reduced(op.inputs[0], op["axes"], op["keepdims"]), None


def _arg(op: Op) -> tuple[Shape, Any]:
    x, axis = op.inputs[0], op["axis"]
    return _reduced(x, range(len(x.shape)) if axis is None else (axis,), op["keepdims"]), np.intp


def _take(op: Op) -> tuple[Shape, Any]:
    x, indices = op.inputs
    _check(indices.dtype.kind in "iu", "indices are not integers")
    return (*x.shape[: op["axis"]], *indices.shape, *x.shape[op["axis"] + 1 :]), x.dtype


def _concat(op: Op) -> tuple[Shape, Any]:
    axis, first = op["axis"], op.inputs[0].shape
    rests = {(*x.shape[:axis], *x.shape[axis + 1 :]) for x in op.inputs}
    _check(len(rests) == 1, "shapes that do not fit")
    return (*first[:axis], sum(x.shape[axis] for x in op.inputs), *first[axis + 1 :]), None


def _one_hot(op: Op) -> tuple[Shape, Any]:
    _check(op.inputs[0].dtype.kind in "iu", "ids are not integers")
    return (*op.inputs[0].shape, op["n"]), None


def _segment_sum(op: Op) -> tuple[Shape, Any]:
    values, ids = op.inputs
    _check(ids.dtype.kind in "iu" and ids.shape in (values.shape[-2:-1], values.shape[:-1]), "ids that do not fit")
    return (*values.shape[:-2], op["n"], values.shape[-1]), values.dtype


def _pack(op: Op) -> tuple[Shape, Any]:
    return (sum(x.size for x in op.inputs),), op.inputs[0].dtype


RESULTS: dict[Kind, Callable[[Op], tuple[Shape, Any]]] = {
    Kind.ELEMENTWISE: _elementwise,
    Kind.CAST: _same,
    Kind.COPY: _same,
    Kind.WHERE: _where,
    Kind.MATMUL: _product,
    Kind.REDUCE: _reduce,
    Kind.ARG: _arg,
    Kind.TAKE: _take,
    Kind.CONCAT: _concat,
    Kind.ONE_HOT: _one_hot,
    Kind.SEGMENT_SUM: _segment_sum,
    Kind.PACK: _pack,
    Kind.GEMM: _product,
    Kind.AXPBY: _axpby,
    Kind.LESSEN: _same,
    Kind.ALL_SUM: _same,
}
"""Shape and dtype (``None``: any) of the result, from the operands."""
