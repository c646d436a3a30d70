"""One-hot rows without comparing: in a matrix of zeros only the ones are moved from step to step.

A product with such a matrix, turned, needs no matrix at all: it adds up rows by their ids.
"""

from __future__ import annotations

import numpy as np

from mlp_xp_backends.numpy_engine.proxy import matrix_transpose
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
    for op in program.ops:
        turned = op.inputs[0].op if op.kind == "matmul" else None
        if turned is None or turned.kind != "view" or turned.f is not matrix_transpose:
            continue
        hot, rows = turned.inputs[0].op, op.inputs[1]
        if hot is not None and hot.kind == "onehot" and len(rows.shape) == len(hot.out.shape) == 2 and _flat(rows):
            op.kind, op.f, op.inputs = "scatter", None, (hot.inputs[0], rows)
    program.live()


def _flat(v: Value) -> bool:
    return bool(v.like.flags.c_contiguous)


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


class SumById:
    """Makes ``out[i]`` the sum of those ``rows`` whose id is i, one after the other."""

    def __init__(self, out: NDArray, ids: NDArray, rows: NDArray) -> None:
        self.out, self.ids, self.rows, self.n = out.reshape(-1), ids, rows.reshape(-1), len(out)
        self.columns = np.arange(rows.shape[1])
        self.first = np.empty(ids.shape, np.intp)
        self.places = np.empty(rows.shape, np.intp)

    def __call__(self) -> None:
        """Add up. A row with an id that is none of 0, ..., n - 1 is left out."""
        np.multiply(self.ids, len(self.columns), out=self.first, dtype=np.intp, casting="unsafe")
        np.add(self.first, self.columns, out=self.places)
        places, rows = self.places.reshape(-1), self.rows
        if self.ids.min() < 0 or self.ids.max() >= self.n:
            there = (places >= 0) & (places < self.out.size)
            places, rows = places[there], rows[there]
        self.out[...] = 0
        np.add.at(self.out, places, rows)
