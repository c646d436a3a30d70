"""One-hot rows without their matrix: what it is multiplied with is picked, added up or lessened by the ids.

Where the matrix itself is needed it is one of zeros in which only the ones are moved from step to step.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from mlp_xp_backends.numpy_engine.proxy import matrix_transpose
from mlp_xp_backends.numpy_engine.tape import NDArray, Op, Program, Tape, Value

LARGE = 32_768
"""Elements from which on a comparison with every number costs more than moving the ones."""
MEDIUM = 4_096
"""Elements from which on it costs more than picking by id."""


def find_one_hots(program: Program) -> None:
    """``astype(ids[..., None] == arange(n), float)`` and what is done with it."""
    for op, ids in list(_one_hots(program)):
        source = _source(ids)
        if op.out.size >= MEDIUM and len(op.out.shape) == 2 and source is not None:
            _pick(program, op.out, ids, source)
    for op, ids in list(_one_hots(program)):
        if op.out.size >= LARGE:
            op.kind, op.f, op.inputs = "onehot", None, (ids,)
    for op in program.ops:
        turned = op.inputs[0].op if op.kind == "matmul" else None
        if turned is None or turned.kind != "view" or turned.f is not matrix_transpose:
            continue
        hot, rows = turned.inputs[0].op, op.inputs[1]
        if hot is not None and hot.kind == "onehot" and len(rows.shape) == len(hot.out.shape) == 2 and _flat(rows):
            source = _source(hot.inputs[0])
            if source is not None:
                op.kind, op.f, op.inputs = "scatter", None, (hot.inputs[0], rows)
                program.bounds.add((*source, hot.out.shape[1]))
    program.live()


def _one_hots(program: Program) -> Iterator[tuple[Op, Value]]:
    """The operations that make one-hot rows, and the ids with a last axis of length 1."""
    readers = program.readers()
    kept = {id(v) for v in (*program.carry_out, *program.outs)}
    for op in program.ops:
        equal = op.inputs[0].op if op.kind == "cast" and op.out.dtype.kind == "f" else None
        if equal is None or equal.f is not np.equal or len(readers[id(equal.out)]) > 1 or id(equal.out) in kept:
            continue
        for ids, numbers in (equal.inputs, equal.inputs[::-1]):
            if _counts(numbers, op.out.shape[-1]) and ids.shape == (*op.out.shape[:-1], 1):
                yield op, ids
                break


def _source(ids: Value) -> tuple[str, int] | None:
    """The item or the constant leaf that holds all these ids, so that they can be checked once for all steps."""
    root = ids.root
    if root.op is not None and root.op.kind == "take":
        root = root.op.inputs[0].root
    return root.source if root.source is not None and root.source[0] in ("item", "const") else None


def _pick(program: Program, hot: Value, ids: Value, source: tuple[str, int]) -> None:
    """``sum(hot * z)`` by row as ``z[row, id]``, and ``p - hot`` as 1 less at ``[row, id]``, if there is no more."""
    readers = program.readers()
    kept = {id(v) for v in (*program.carry_out, *program.outs)}
    sums: list[tuple[Op, Value]] = []
    differences: list[Op] = []
    for op in readers.get(id(hot), ()):
        others = [v for v in op.inputs if v is not hot]
        if op.kind != "ufunc" or len(others) != 1 or others[0].shape != hot.shape or not _flat(others[0]):
            return
        if op.f is np.subtract and op.inputs[1] is hot:
            differences.append(op)
            continue
        after = readers.get(id(op.out), [])
        if op.f is not np.multiply or id(op.out) in kept or len(after) != 1:
            return
        if after[0].kind != "reduce" or after[0].f is not np.add or after[0].options != ((1,), False):
            return
        sums.append((after[0], others[0]))
    if id(hot) in kept or any(total.out.dtype != z.dtype for total, z in sums) or ids.dtype == np.uint64:
        return
    tape, rows = Tape(), hot.shape[0]
    flat = tape.view(np.reshape, ids, (rows,))
    first = tape.constant(np.arange(rows) * hot.shape[1])
    places = tape.emit("ufunc", np.add, (first, flat), np.empty(rows, np.intp))
    for total, z in sums:
        total.kind, total.f, total.options = "take", np.take, (0,)
        total.inputs = (tape.view(np.reshape, z, (hot.size,)), places)
    for difference in differences:
        difference.kind, difference.f, difference.inputs = "lessen", None, (difference.inputs[0], places)
    _insert(program, tape.ops)
    program.bounds.add((*source, hot.shape[1]))


def _insert(program: Program, new: list[Op]) -> None:
    """Put operations where their operands are there already."""
    for op in new:
        made = [k for k, other in enumerate(program.ops) if other.out in op.inputs]
        program.ops.insert(max(made, default=-1) + 1, op)


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
        ids = self.ids.reshape(-1).astype(np.intp, copy=False)
        places = self.starts + ids
        if ids.min() < 0 or ids.max() >= self.n:
            places = places[(ids >= 0) & (ids < self.n)]
        self.flat[self.ones] = 0
        self.ones = places  # first: what an interrupt leaves undone, the next call does
        self.flat[places] = 1


class SumById:
    """Makes ``out[i]`` the sum of those ``rows`` whose id is i, one after the other; all ids are below ``len(out)``."""

    def __init__(self, out: NDArray, ids: NDArray, rows: NDArray) -> None:
        self.out, self.ids, self.rows = out.reshape(-1), ids, rows.reshape(-1)
        self.columns = np.arange(rows.shape[1])
        self.first = np.empty(ids.shape, np.intp)
        self.places = np.empty(rows.shape, np.intp)

    def __call__(self) -> None:
        """Add up."""
        np.multiply(self.ids, len(self.columns), out=self.first, dtype=np.intp, casting="unsafe")
        np.add(self.first, self.columns, out=self.places)
        self.out[...] = 0
        np.add.at(self.out, self.places.reshape(-1), self.rows)
