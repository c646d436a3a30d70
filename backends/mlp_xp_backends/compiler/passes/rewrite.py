"""Rewriting a program operation by operation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from mlp_xp_backends.compiler.program import Kind, Op, Program, Value
from mlp_xp_backends.compiler.tape import Tape

REAL = (np.float32, np.float64)
"""The dtypes that BLAS supports."""
Rule = Callable[[Tape, Op], Value | None]
"""The value that replaces the result of an operation, computed by operations that the rule adds to the tape.

If it is `None`, the operation stays and nothing is added.
"""


def rewrite(program: Program, rule: Rule) -> Program:
    """Apply ``rule`` to every operation of ``program``, and remove those whose results are no longer used."""
    tape = Tape()
    ops: list[Op] = []
    new: dict[Value, Value] = {}
    for op in program.ops:
        known, value = len(tape.ops), rule(tape, op)
        if value is None:
            ops.append(op)
        else:
            ops += tape.ops[known:]
            new[op.out] = value
    return replace(program, ops=tuple(ops)).substituted(new)


def factors(program: Program, v: Value) -> tuple[Value, ...]:
    """The factors of which ``v`` is the elementwise product, if it has one reader; none otherwise."""
    op = program.makers.get(v)
    return op.inputs if op is not None and op.name == "multiply" and program.only_reader(v) is not None else ()


def is_real(op: Op) -> bool:
    """Whether this is elementwise, and operands and result share one dtype that BLAS supports."""
    return op.kind is Kind.ELEMENTWISE and op.out.dtype in REAL and all(v.dtype == op.out.dtype for v in op.inputs)
