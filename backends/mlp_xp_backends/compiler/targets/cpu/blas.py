"""Linear algebra libraries called directly: products that add to their result, and sums of multiples."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np

from mlp_xp_backends.typing import HostArray

Call = tuple[Callable[..., Any], tuple[Any, ...]]
"""A function and the arguments of every call."""

SPLIT = 8_000_000
"""Multiplications of the largest product of a program from which several cores are faster than one."""
LETTER: dict[np.dtype[Any], str] = {np.dtype(np.float32): "s", np.dtype(np.float64): "d"}


class Blas:
    """gemm and axpby in single and double precision; every argument is a pointer, as in Fortran."""

    name: str
    in_parts = False
    """Whether all large products are divided between our own threads."""

    def __init__(self, library: Any, pattern: str, integer: Any) -> None:
        self._integer = integer
        self._gemm, self._axpby = (_routines(library, pattern, name) for name in ("gemm", "axpby"))

    @property
    def threads(self) -> int:
        """The threads that work may be divided between; 0 if the library runs its products on threads of its own."""
        return 0

    def on_one_core(self) -> AbstractContextManager[None]:
        """Run each product inside on one thread, except those of `divided`."""
        return nullcontext()

    def gemm(self, c: HostArray, a: HostArray, b: HostArray, alpha: HostArray, beta: HostArray) -> Call | None:
        """``c <- alpha a b + beta c`` for matrices; `None` if BLAS does not support one of the layouts.

        ``alpha`` and ``beta`` are arrays of one element, read at every call. The caller keeps all arrays alive.
        """
        f, ways = self._gemm.get(c.dtype), [way for way in map(_layout, (c, a, b)) if way is not None]
        if f is None or len(ways) < 3 or ways[0][0] != b"N":
            return None
        (_, ldc), (ta, lda), (tb, ldb) = ways
        i, p = self._int, _pointer
        sizes = (i(c.shape[1]), i(c.shape[0]), i(a.shape[1]))  # row-major c = a b is column-major c' = b' a'
        return f, (_char(tb), _char(ta), *sizes, p(alpha), p(b), i(ldb), p(a), i(lda), p(beta), p(c), i(ldc))

    def divided(self, c: HostArray, a: HostArray, b: HostArray, alpha: HostArray, beta: HostArray) -> Call | None:
        """See `gemm`; on the threads of the library, also inside `on_one_core`."""
        return self.gemm(c, a, b, alpha, beta)

    def axpby(self, y: HostArray, x: HostArray, alpha: HostArray, beta: HostArray) -> Call | None:
        """``y <- alpha x + beta y`` for contiguous arrays; `None` if the library has no such function."""
        f = self._axpby.get(y.dtype)
        if f is None:
            return None
        i, p = self._int, _pointer
        return f, (i(y.size), p(alpha), p(x), i(1), p(beta), p(y), i(1))

    def prefers_rows(self, a: HostArray, b: HostArray) -> bool:
        """Whether NumPy computes ``a b`` faster with a copy of ``b``, a transposed matrix, in row-major order."""
        return False

    def _int(self, n: int) -> Any:
        return ctypes.byref(self._integer(n))


def _routines(library: Any, pattern: str, name: str) -> dict[np.dtype[Any], Any]:
    """The routine of each precision."""
    found = {dtype: library[pattern.format(letter + name)] for dtype, letter in LETTER.items()}
    for f in found.values():
        f.restype = None
    return found


def _layout(x: HostArray) -> tuple[bytes, int] | None:
    """``N`` or ``T`` (transposed) and the leading dimension with which BLAS reads ``x``; ``None`` if it cannot."""
    (rows, columns), (by_row, by_column), size = x.shape, x.strides, x.itemsize
    by_row = max(columns, 1) * size if rows == 1 else by_row  # the stride of a single row is arbitrary
    by_column = size if columns == 1 and by_row != size else by_column
    if by_column == size and by_row >= columns * size and by_row % size == 0:
        return b"N", by_row // size
    if by_row == size and by_column >= rows * size and by_column % size == 0:
        return b"T", by_column // size
    return None


def _char(c: bytes) -> Any:
    return ctypes.byref(ctypes.c_char(c))


def _pointer(x: HostArray) -> Any:
    return ctypes.byref(ctypes.c_char.from_address(x.ctypes.data))
