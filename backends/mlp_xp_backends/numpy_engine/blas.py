"""Linear algebra libraries called without NumPy: products that add to what is there, sums of multiples.

NumPy's wheels carry an OpenBLAS of their own, with 64-bit integers and renamed symbols. Any other build of NumPy
(Accelerate, the system's BLAS) has none, and `openblas` returns ``None``. Loading SciPy's BLAS instead would not do:
two thread pools then wait for each other's cores.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

NDArray = np.ndarray[Any, Any]
Call = tuple[Any, tuple[Any, ...]]
"""A function and the arguments that it is called with again and again."""

LETTER: dict[np.dtype[Any], str] = {np.dtype(np.float32): "s", np.dtype(np.float64): "d"}
ONE = {t: np.ones((), t) for t in LETTER}
ZERO = {t: np.zeros((), t) for t in LETTER}


@cache
def openblas() -> Blas | None:
    """NumPy's own OpenBLAS, if it has one."""
    package = Path(np.__file__).parent
    for folder in (package.parent / "numpy.libs", package / ".dylibs"):
        for path in sorted(folder.glob("*openblas*")):
            try:
                library = ctypes.CDLL(str(path))
                return OpenBlas(library, *_naming(library))
            except (OSError, AttributeError):
                continue
    return None


class Blas:
    """gemm, axpy and axpby in single and double precision; every argument is a pointer, as in Fortran."""

    name: str
    least = 2
    """Rows and columns from which on gemm is the right call; NumPy has a better one for vectors."""
    flushes = False
    """Whether its threads take denormals for zero when the calling thread does."""
    large = 0
    """Elements from which on its elementwise functions are faster than NumPy's."""
    block = 0
    """Elements of a block in which all cores take part in those functions; 0 if they stay on one."""
    few = 8_000_000
    """Multiplications in a product up to which one core is faster than several that exchange their results."""

    def __init__(self, library: Any, pattern: str, integer: Any) -> None:
        self._integer = integer
        self._functions = {}
        for dtype, letter in LETTER.items():
            for name in ("gemm", "axpy", "axpby"):
                f = library[pattern.format(letter + name)]
                f.restype = None
                self._functions[name, dtype] = f

    def small(self, products: Iterable[tuple[int, int, int]]) -> bool:
        """Whether these products, (rows, shared, columns) each, are best left to one core."""
        return all(m * k * n < self.few for m, k, n in products)

    def on_one_core(self) -> AbstractContextManager[None]:
        """One thread for what is called inside."""
        raise NotImplementedError

    def begin(self) -> None:
        """Called before a run of steps."""

    def gemm(self, c: NDArray, a: NDArray, b: NDArray, alpha: NDArray, beta: NDArray) -> Call | None:
        """``c <- alpha a b + beta c`` for matrices; ``None`` if one of them lies in memory as BLAS cannot read it.

        ``alpha`` and ``beta`` are 0-d arrays, read at every call.
        """
        f = self._functions.get(("gemm", c.dtype))
        ways = [_way(x) for x in (c, a, b)]
        if f is None or c.ndim != 2 or min(c.shape + a.shape) < self.least or None in ways or ways[0][0] != b"N":
            return None
        (_, ldc), (ta, lda), (tb, ldb) = ways
        i, p = self._int, pointer
        sizes = (i(c.shape[1]), i(c.shape[0]), i(a.shape[1]))  # row-major c = a b is column-major c' = b' a'
        return f, (_char(tb), _char(ta), *sizes, p(alpha), p(b), i(ldb), p(a), i(lda), p(beta), p(c), i(ldc))

    def axpby(self, y: NDArray, x: NDArray, alpha: NDArray, beta: NDArray | None = None) -> Call | None:
        """``y <- alpha x + beta y`` for contiguous arrays of one shape; without ``beta`` it is 1, on all cores."""
        f = self._functions.get(("axpy" if beta is None else "axpby", y.dtype))
        if f is None or not (y.flags.c_contiguous and x.flags.c_contiguous):
            return None
        i, p = self._int, pointer
        return f, (i(y.size), p(alpha), p(x), i(1), *((p(beta),) if beta is not None else ()), p(y), i(1))

    def ufunc(self, f: np.ufunc, out: NDArray, *inputs: NDArray) -> Call | None:
        """``out <- f(*inputs)`` for arrays of one shape and numbers; ``None`` if NumPy does it better."""
        return None

    def quotient(self, out: NDArray, x: NDArray, s: NDArray, y: NDArray, t: NDArray) -> Call | None:
        """``out <- s x / (y + t)`` for arrays ``x`` and ``y``, numbers ``s`` and ``t``, if there is a call for it.

        Where ``y`` is infinite the result may be no number instead of 0.
        """
        return None

    def root(self, out: NDArray, x: NDArray) -> Call | None:
        """``out <- sqrt(x)`` for an ``x`` that is nowhere 0, where there is a call for it."""
        return None

    def _int(self, n: int) -> Any:
        return ctypes.byref(self._integer(n))


class OpenBlas(Blas):
    """OpenBLAS, which has one number of threads for all who call it."""

    name = "OpenBLAS"

    def __init__(self, library: Any, pattern: str, integer: Any) -> None:
        super().__init__(library, pattern, integer)
        names = (pattern.format(f"openblas_{verb}_num_threads") for verb in ("get", "set"))
        self._threads: list[Any] = [getattr(library, name, None) for name in names]
        self._lock, self._alone, self._before = Lock(), 0, 0
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._after_fork)

    @contextmanager
    def on_one_core(self) -> Iterator[None]:
        """See `Blas.on_one_core`; large products of other threads use one core meanwhile, and may round otherwise."""
        get, put = self._threads
        if get is None or put is None:
            yield
            return
        with self._lock:
            self._before = self._before if self._alone else get()
            self._alone += 1
            put(ctypes.byref(ctypes.c_int(1)))
        try:
            yield
        finally:
            with self._lock:
                self._alone -= 1
                if not self._alone:
                    put(ctypes.byref(ctypes.c_int(self._before)))

    def _after_fork(self) -> None:
        """A forked process has none of the runs that were under way."""
        self._lock = Lock()
        if self._alone:
            self._alone = 0
            self._threads[1](ctypes.byref(ctypes.c_int(self._before)))


def _naming(library: ctypes.CDLL) -> tuple[str, Any]:
    """How symbols are spelled and how wide integers are."""
    for pattern, integer in (
        ("scipy_{}_64_", ctypes.c_int64),
        ("{}_64_", ctypes.c_int64),
        ("scipy_{}_", ctypes.c_int32),
        ("{}_", ctypes.c_int32),
    ):
        if hasattr(library, pattern.format("sgemm")):
            return pattern, integer
    raise AttributeError("no sgemm under a known name")


def _way(x: NDArray) -> Any:
    """Whether BLAS reads ``x`` as it is or transposed, and the distance between its rows; ``None`` if neither."""
    if x.ndim != 2 or not x.flags.aligned:
        return None
    (rows, columns), (by_row, by_column), size = x.shape, x.strides, x.itemsize
    if by_column == size and by_row >= columns * size and by_row % size == 0:
        return b"N", by_row // size
    if by_row == size and by_column >= rows * size and by_column % size == 0:
        return b"T", by_column // size
    return None


def _char(c: bytes) -> Any:
    return ctypes.byref(ctypes.c_char(c))


def pointer(x: NDArray) -> Any:
    """The address of the numbers of ``x``, which the caller keeps alive."""
    return ctypes.byref(ctypes.c_char.from_address(x.ctypes.data))
