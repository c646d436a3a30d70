"""The calls of a program, with long runs of large elementwise operations divided by rows between threads."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from mlp_xp_backends.compiler.program import Kind, Op, Program, Value
from mlp_xp_backends.compiler.targets.cpu.blas import Call
from mlp_xp_backends.compiler.targets.cpu.calls import Machine, calls
from mlp_xp_backends.compiler.targets.cpu.parts import multiplications
from mlp_xp_backends.compiler.targets.cpu.team import TEAM
from mlp_xp_backends.typing import HostArray

ROWWISE = (Kind.ELEMENTWISE, Kind.AXPBY, Kind.COPY, Kind.WHERE)
LARGE = 200_000
"""Elements of a result from which threads that compute parts of it rarely wait for the interpreter lock."""
ENOUGH = 1_000_000
"""Elements of all results of a run of operations from which dividing it pays."""
MIDDLE, HUGE = 16_000_000, 64_000_000
"""Multiplications of a product from which its parts are as fast as the threads of the BLAS; the first number is for
steps that gain from divided elementwise operations.
"""
SHARES = 2
"""Shares of each thread of such a run of operations."""
FEWEST = 16
"""The smallest number of rows that are divided."""


def pays(program: Program) -> bool:
    """Whether the threads of a `TEAM` are faster than those of the BLAS; decided as for one matrix of each stack."""
    product = largest_product(program)
    matrices = (op.out.shape[-2:] for op in program.ops if op.kind in ROWWISE and len(op.out.shape) > 1)
    sizes = map(prod, matrices)  # without packed arrays, which a stack has where a model alone has others
    chained = sum(size for size in sizes if size >= LARGE)
    return product >= HUGE or (product >= MIDDLE and chained >= ENOUGH)


def largest_product(program: Program) -> int:
    """Multiplications of the largest product of two matrices; 0 if there is none."""
    products = (op for op in program.ops if op.kind in (Kind.MATMUL, Kind.GEMM))
    return max((multiplications(*op.inputs[:2]) for op in products), default=0)


def shared_calls(ops: Sequence[Op], machine: Machine) -> list[Call]:
    """The calls that carry out ``ops``, in order."""
    found: list[Call] = []
    run: list[Op] = []
    for op in ops:
        if op.kind is Kind.VIEW:
            continue
        if not _joins(op, run, machine):
            found += _calls_of(run, machine)
            run = []
            if not _joins(op, run, machine):
                found += calls(op, machine)
                continue
        run.append(op)
    return found + _calls_of(run, machine)


def _calls_of(run: Sequence[Op], m: Machine) -> list[Call]:
    if sum(op.out.size for op in run) < ENOUGH:
        return [call for op in run for call in calls(op, m)]
    rows = run[0].out.shape[0]
    n = SHARES * m.threads
    cuts = [slice(k * rows // n, (k + 1) * rows // n) for k in range(n)]
    return [TEAM.call([[call for op in run for call in _share(op, m, cut)] for cut in cuts])]


def _share(op: Op, m: Machine, cut: slice) -> list[Call]:
    """The calls for some of the rows of the result."""

    def at(v: Value) -> HostArray:
        return m.at(v)[cut] if _has_rows_of(op, v) else m.at(v)

    return calls(op, m._replace(at=at))


def _has_rows_of(op: Op, v: Value) -> bool:
    return len(v.shape) == len(op.out.shape) and v.shape[0] == op.out.shape[0]


def _joins(op: Op, run: Sequence[Op], m: Machine) -> bool:
    """Whether each row of the results of ``run`` and then ``op`` can be computed without the other rows."""
    if m.threads < 2 or op.kind not in ROWWISE or op.out.size < LARGE or op.out.shape[0] < FEWEST:
        return False
    if any(op.out.shape[0] != before.out.shape[0] for before in run):
        return False
    return all(
        _apart(m, op, v, before, before.out)
        and (v is not op.out or all(_apart(m, op, v, before, x) for x in before.inputs))
        for before in run
        for v in (*op.inputs, op.out)
    )


def _apart(m: Machine, op: Op, v: Value, before: Op, w: Value) -> bool:
    """Whether the memory of ``v`` for some rows and that of ``w`` for other rows are different."""
    a, b = m.at(v), m.at(w)
    if not np.may_share_memory(a, b):
        return True
    return _has_rows_of(op, v) and _has_rows_of(before, w) and m.same_place(v, w)
