"""Elementwise operations as calls of BLAS's library."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mlp_xp_backends.numpy_engine.blas import ONE, Blas, Call
from mlp_xp_backends.numpy_engine.tape import NDArray, Op, Value

BLOCK = 16_384
"""Elements of a block: five of them in float32 fill a third of a megabyte, less than a core's own cache."""


def library_call(blas: Blas | None, op: Op, at: Callable[[Value], NDArray]) -> Call | None:
    """The call that carries out ``op`` on the arrays that ``at`` knows, if there is one."""
    if blas is None:
        return None
    if op.kind == "axpby":
        _, x, alpha, *beta = op.inputs
        return blas.axpby(at(op.out), at(x), at(alpha), at(beta[0]) if beta else ONE[op.out.dtype])
    if op.kind == "quotient":
        return blas.quotient(at(op.out), *map(at, op.inputs))
    if op.kind == "root":
        return blas.root(at(op.out), at(op.inputs[0]))
    if op.kind == "ufunc" and op.out.size >= blas.large:
        return blas.ufunc(op.f, at(op.out), *map(at, op.inputs))
    return None


def block_of(blas: Blas | None, step: Sequence[Op]) -> int:
    """Elements of the blocks in which a chain runs: few for one core's cache, many where all cores take part."""
    if blas is None or not blas.block:
        return BLOCK
    called = sum(library_call(blas, op, lambda v: v.like) is not None for op in step)
    return blas.block if 2 * called > len(step) else BLOCK
