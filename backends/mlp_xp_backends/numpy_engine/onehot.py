"""One-hot rows without comparing: a matrix of zeros in which only the ones are moved from step to step."""

from __future__ import annotations

import numpy as np

from mlp_xp_backends.numpy_engine.tape import NDArray, Program, Value

LARGE = 32_768
"""Elements from which on a comparison with every number costs more than moving the ones."""


def find_one_hots(program: Program) -> None:
    """``astype(ids[..., None] == arange(n), float)`` as one operation that keeps its memory."""
    readers = program.readers()
    kept = {id(v) for v in (*program.carry_out, *program.outs)}
    for op in program.ops:
        equal = op.inputs[0].op if op.kind == "cast" and op.out.dtype.kind == "f" else None
        if equal is None or equal.f is not np.equal or op.out.size < LARGE:
            continue
        if len(readers[id(equal.out)]) > 1 or id(equal.out) in kept:
            continue
        for ids, numbers in (equal.inputs, equal.inputs[::-1]):
            if _counts(numbers, op.out.shape[-1]) and ids.shape == (*op.out.shape[:-1], 1):
                op.kind, op.f, op.inputs = "onehot", None, (ids,)
                break
    program.live()


def _counts(v: Value, n: int) -> bool:
    """Whether ``v`` is 0, 1, ..., n - 1."""
    a = v.constant
    return a is not None and a.dtype.kind in "iu" and a.shape == (n,) and bool(np.array_equal(a, np.arange(n)))


class OneHot:
    """Keeps ``out`` one-hot for ``ids``, an array with a last axis of length 1 whose numbers change."""

    def __init__(self, out: NDArray, ids: NDArray) -> None:
        self.flat, self.n, self.ids = out.reshape(-1), out.shape[-1], ids
        self.starts = np.arange(ids.size) * self.n
        self.ones = np.empty(0, np.intp)

    def __call__(self) -> None:
        """Move the ones. An id that is none of 0, ..., n - 1 has a row of zeros."""
        ids = self.ids.reshape(-1)
        places = self.starts + ids
        if ids.min() < 0 or ids.max() >= self.n:
            places = places[(ids >= 0) & (ids < self.n)]
        self.flat[self.ones] = 0
        self.flat[places] = 1
        self.ones = places
