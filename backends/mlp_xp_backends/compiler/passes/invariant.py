"""Loop-invariant code motion: what is the same in every step runs once, numbers of all steps are computed at once."""

from __future__ import annotations

from dataclasses import replace

from mlp_xp_backends.compiler.program import Kind, Program

STACKABLE = {"add", "subtract", "multiply", "divide", "negative", "sqrt", "square"}
"""Functions that give the same bits for one number as for many."""


def loop_invariant_code_motion(program: Program) -> Program:
    """Move operations out of the loop; no result changes by a bit.

    To ``once`` go those that depend on constants alone, to ``stacked`` those on 0-d items and constants.
    """
    fixed, numbers = set(program.consts), {v for v in program.items if v.shape == ()}
    once, stacked, ops = list(program.once), list(program.stacked), []
    for op in program.ops:
        if all(v in fixed or v.constant is not None for v in op.inputs):
            fixed.add(op.out)
            once.append(op)
            continue
        known = all(v in numbers or (v.shape == () and v.constant is not None) for v in op.inputs)
        same_dtypes = op.kind is Kind.ELEMENTWISE and set(op["loop"]) == {op.out.dtype}
        if known and same_dtypes and op.name in STACKABLE:
            numbers.add(op.out)
            stacked.append(op)
        else:
            ops.append(op)
    return replace(program, once=tuple(once), stacked=tuple(stacked), ops=tuple(ops))
