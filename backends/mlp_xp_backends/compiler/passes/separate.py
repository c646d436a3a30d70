"""Copies that make carried arrays safe to overwrite."""

from __future__ import annotations

from dataclasses import replace

from mlp_xp_backends.compiler.program import Kind, Op, Program, new_value


def separate(program: Program) -> Program:
    """Copy each carried array that is returned as another one, before it is overwritten."""
    ops, after_all = list(program.ops), list(program.carry_out)
    for k, (before, after) in enumerate(zip(program.carry, program.carry_out, strict=True)):
        if after is not before and after.root in program.carry:
            after_all[k] = new_value(after.shape, after.dtype)
            ops.append(Op(Kind.COPY, "", (after,), after_all[k]))
    return replace(program, ops=tuple(ops), carry_out=tuple(after_all))
