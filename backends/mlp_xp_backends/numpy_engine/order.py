"""Order: when each operation of a program runs, and which run block by block together."""

from __future__ import annotations

from math import inf

from mlp_xp_backends.numpy_engine.calls import BLOCK
from mlp_xp_backends.numpy_engine.fuse import elementwise
from mlp_xp_backends.numpy_engine.tape import Op, Program

CHAINED = 4 * BLOCK
"""Elements from which on arrays are too large to stay in a core's own cache from one operation to the next."""


def fixed_results(program: Program) -> set[int]:
    """The results that depend on constants alone."""
    known = {id(v) for v in program.consts}
    for op in program.ops:
        if all(v.constant is not None or id(v) in known for v in op.inputs):
            known.add(id(op.out))
    return known


def ordered(program: Program, ops: list[Op]) -> list[Op]:
    """Elementwise operations as soon as what they need is there: that frees the memory of gradients early."""
    rank = {id(op.out): float(k) for k, op in enumerate(ops)}
    readers: dict[int, list[int]] = {}
    for k, op in enumerate(ops):
        for v in op.inputs:
            readers.setdefault(id(v.root), []).append(k)
    overwritten = {id(after): before for before, after in zip(program.carry, program.carry_out, strict=True)}
    early: dict[int, float] = {}
    for k, op in enumerate(ops):
        if not elementwise(op):
            early[id(op.out)] = k
            continue
        earlier = [early[id(v)] for v in op.inputs if id(v) in early]
        if id(op.out) in overwritten:
            earlier += [early[id(ops[r].out)] for r in readers.get(id(overwritten[id(op.out)]), ()) if r < k]
        early[id(op.out)] = max(earlier, default=-inf)
    for op in reversed(ops):
        if early[id(op.out)] == -inf:
            later = [early[id(ops[r].out)] for r in readers.get(id(op.out), ())]
            early[id(op.out)] = min(later, default=rank[id(op.out)])
    return sorted(ops, key=lambda op: (early[id(op.out)], rank[id(op.out)]))


def in_chains(ops: list[Op]) -> list[list[Op]]:
    """Neighbouring elementwise operations on large arrays of one size together, every other one alone."""
    steps: list[list[Op]] = []
    for op in ops:
        if op.kind == "view":
            continue
        last = steps[-1][-1] if steps else None
        if (
            last is not None
            and op.out.size > CHAINED
            and _by_blocks(op)
            and _by_blocks(last)
            and last.out.size == op.out.size
        ):
            steps[-1].append(op)
        else:
            steps.append([op])
    return steps


def _by_blocks(op: Op) -> bool:
    """Whether a block of the result depends on that block of the operands and on single numbers alone."""
    if op.kind not in ("ufunc", "axpby", "quotient", "root", "cast") or op.out.size == 1:
        return False
    return all(v.size == 1 or (v.shape == op.out.shape and v.root is v) for v in op.inputs)
