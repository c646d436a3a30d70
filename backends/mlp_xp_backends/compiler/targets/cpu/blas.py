"""Linear algebra libraries called directly: products that add to their result, and sums of multiples.

NumPy's wheels carry an OpenBLAS of their own, with 64-bit integers and renamed symbols. Any other build of NumPy
(Accelerate, the system's BLAS) has none, and `openblas` returns ``None``. SciPy's BLAS is not a substitute: two thread
pools would compete for the cores.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from mlp_xp_backends.compiler.targets.cpu.parts import EXACT, MOST, Product, multiplications, parts
from mlp_xp_backends.typing import HostArray

Call = tuple[Callable[..., Any], tuple[Any, ...]]
"""A function and the arguments of every call."""

SPLIT = 8_000_000
"""Multiplications of the largest product of a program from which several cores are faster than one."""
COLUMN_MAJOR, NORMAL, TRANSPOSED = 102, 111, 112
"""Numbers of cblas.h."""
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
        f, ways = self._gemm.get(c.dtype), [way for way in map(_way, (c, a, b)) if way is not None]
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


class OpenBlas(Blas):
    """OpenBLAS, whose number of threads is a setting of the whole process."""

    name = "OpenBLAS"
    QUARTERS = 16_000_000
    """Multiplications of a product from which a batch has `MOST` parts, where their number is fixed, otherwise two."""
    SMALL = 1_000_000
    """Multiplications below which OpenBLAS has code of its own for small matrices on some processors.

    Such a product in a batch ends the process (OpenBLAS #5980).
    """

    def __init__(self, library: Any, pattern: str, integer: Any, in_parts: bool = False) -> None:
        super().__init__(library, pattern, integer)
        self.in_parts = in_parts
        self._gemm_batch = _routines(library, pattern.replace("{}_", "cblas_{}"), "gemm_batch")
        core = library[pattern.replace("{}_", "{}").format("openblas_get_corename")]
        core.restype = ctypes.c_char_p
        self._core = core().decode()
        self._get, self._put = (library[pattern.format(f"openblas_{verb}_num_threads")] for verb in ("get", "set"))
        self._lock, self._inside, self._before = Lock(), 0, 0
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._after_fork)

    @property
    def threads(self) -> int:
        """OpenBLAS's own number: ``OPENBLAS_NUM_THREADS``, or by default the number of cores."""
        return self._before if self._inside else int(self._get())

    @contextmanager
    def on_one_core(self) -> Iterator[None]:
        """See `Blas.on_one_core`. Products that other threads of the process call meanwhile use one core, too."""
        with self._lock:
            self._before = self._before if self._inside else self._get()
            self._inside += 1
            self._set(1)
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1
                if not self._inside:
                    self._set(self._before)

    def divided(self, c: HostArray, a: HostArray, b: HostArray, alpha: HostArray, beta: HostArray) -> Call | None:
        """See `Blas.divided`; in `parts` on up to `MOST` threads, and on more if the kernels are `EXACT`."""
        whole, exact = self.gemm(c, a, b, alpha, beta), LETTER[c.dtype] in EXACT.get(self._core, "")
        pieces = parts(c, a, b, self.threads if exact else MOST if multiplications(c, a) >= self.QUARTERS else 2)
        if whole is None or len(pieces) == 1 or min(multiplications(z, x) for z, x, _ in pieces) <= self.SMALL:
            return whole
        scales = np.empty((2, len(pieces), 1), c.dtype)
        return self._run_divided, (whole, self._batch(pieces, scales), scales, alpha, beta, exact)

    def _batch(self, products: Sequence[Product], scales: HostArray) -> Call:
        """One call for all products, scaled by alphas and betas; each is computed by one thread."""
        (_, c, ldc), (ta, a, lda), (tb, b, ldb) = map(self._columns, zip(*products, strict=True))
        sizes = zip(*((*c.shape, a.shape[1]) for c, a, _ in products), strict=True)
        rows, columns, terms = map(self._ints, sizes)
        alphas, betas = (scale.ctypes.data_as(ctypes.c_void_p) for scale in scales)
        count, ones, order = self._integer(len(products)), self._ints([1] * len(products)), ctypes.c_int(COLUMN_MAJOR)
        args = (order, tb, ta, columns, rows, terms, alphas, b, ldb, a, lda, betas, c, ldc, count, ones)
        return self._gemm_batch[scales.dtype], args

    def _columns(self, arrays: Sequence[HostArray]) -> tuple[Any, Any, Any]:
        """How BLAS reads each of these arrays, their addresses and their leading dimensions."""
        ways, n = [way for way in map(_way, arrays) if way is not None], len(arrays)
        flags = (ctypes.c_int * n)(*(NORMAL if letter == b"N" else TRANSPOSED for letter, _ in ways))
        return flags, (ctypes.c_void_p * n)(*(x.ctypes.data for x in arrays)), self._ints([ld for _, ld in ways])

    def _ints(self, numbers: Sequence[int]) -> Any:
        return (self._integer * len(numbers))(*numbers)

    def _run_divided(
        self, whole: Call, batch: Call, scales: HostArray, alpha: HostArray, beta: HostArray, exact: bool
    ) -> None:
        f, args = batch if exact or self.threads <= MOST else whole
        scales[0], scales[1] = alpha, beta
        with self._lock:  # no other run begins as long as there are several threads
            alone = self._inside == 1
            if alone:
                self._set(self._before)
                try:
                    f(*args)
                finally:
                    self._set(1)
        if not alone:
            f(*args)

    def _set(self, threads: int) -> None:
        self._put(ctypes.byref(ctypes.c_int(threads)))

    def prefers_rows(self, a: HostArray, b: HostArray) -> bool:
        """See `Blas.prefers_rows`: so it is in OpenBLAS's code for small matrices, which it has for AVX-512."""
        small = a.shape[-2] * a.shape[-1] * b.shape[-1] < self.SMALL and b.dtype in LETTER
        avx512 = self._core in ("SkylakeX", "Cooperlake", "SapphireRapids")
        return avx512 and small and b.strides[-2] == b.itemsize < b.strides[-1]

    def _after_fork(self) -> None:
        """Reset the state: no run is in progress in a forked process."""
        self._lock = Lock()
        if self._inside:
            self._inside = 0
            self._set(self._before)


class Mkl(Blas):
    """Intel's MKL for large products, which it runs on threads of its own.

    NumPy's OpenBLAS computes the small ones, on one core: its threads would compete with those of MKL.
    """

    name = "MKL"
    REPEATABLE = 2
    """``MKL_CBWR_AUTO``: the same bits in every run with as many threads (see "Numerical Reproducibility")."""

    def __init__(self, library: Any) -> None:
        super().__init__(library, "{}_64", ctypes.c_int64)
        library.MKL_CBWR_Set(self.REPEATABLE)  # has no effect after the first call of MKL in the process
        self._small = openblas()

    def on_one_core(self) -> AbstractContextManager[None]:
        """See `Blas.on_one_core`; of products of NumPy."""
        return nullcontext() if self._small is None else self._small.on_one_core()

    def gemm(self, c: HostArray, a: HostArray, b: HostArray, alpha: HostArray, beta: HostArray) -> Call | None:
        """See `Blas.gemm`."""
        if self._small is not None and c.size * a.shape[1] < SPLIT:
            return self._small.gemm(c, a, b, alpha, beta)
        return super().gemm(c, a, b, alpha, beta)


@cache
def blas() -> Blas | None:
    """The library for the products of compiled loops: NumPy's OpenBLAS, or what ``MLP_XP_BLAS`` names.

    Steps with large arrays are divided between a `Team` of threads that sleep while they wait; OpenBLAS's own threads
    are faster for products of middle size, and used for them. With ``openblas-parts`` the team computes these, too: the
    same bits on any number of cores. ``mkl`` is Intel's MKL, never the default: on AMD processors it was 8 to 25 %
    slower. `None` if NumPy has no OpenBLAS: its own products are used then.
    """
    wish = os.environ.get("MLP_XP_BLAS", "openblas").lower()
    if wish not in ("openblas", "openblas-parts", "mkl"):
        raise ValueError(f"MLP_XP_BLAS is {wish!r}: it can be openblas, openblas-parts or mkl")
    library = mkl() if wish == "mkl" else openblas(in_parts=True) if wish == "openblas-parts" else openblas()
    if wish == "mkl" and library is None:
        raise ValueError("MLP_XP_BLAS is mkl, but MKL is not installed: pip install mkl")
    return library


@cache
def openblas(in_parts: bool = False) -> Blas | None:
    """The OpenBLAS in NumPy's wheel, if there is one; see `blas` for ``in_parts``."""
    package = Path(np.__file__).parent
    for folder in (package.parent / "numpy.libs", package / ".dylibs"):
        for path in sorted(folder.glob("*openblas*")):
            try:
                library = ctypes.CDLL(str(path))
                return OpenBlas(library, *_naming(library), in_parts)
            except (OSError, AttributeError):
                continue
    return None


@cache
def mkl() -> Blas | None:
    """MKL, if it is installed in this environment.

    Only on Linux: elsewhere other libraries bring another copy of Intel's OpenMP, which aborts the process.
    """
    for path in sorted(Path(sys.prefix, "lib").glob("libmkl_rt.so*")):
        try:
            return Mkl(ctypes.CDLL(str(path)))
        except (OSError, AttributeError):
            continue
    return None


def _routines(library: Any, pattern: str, name: str) -> dict[np.dtype[Any], Any]:
    """The routine of each precision."""
    found = {dtype: library[pattern.format(letter + name)] for dtype, letter in LETTER.items()}
    for f in found.values():
        f.restype = None
    return found


def _naming(library: ctypes.CDLL) -> tuple[str, Any]:
    """The pattern of the symbols' names, and the type of integers."""
    for pattern, integer in (
        ("scipy_{}_64_", ctypes.c_int64),
        ("{}_64_", ctypes.c_int64),
        ("scipy_{}_", ctypes.c_int32),
        ("{}_", ctypes.c_int32),
    ):
        if hasattr(library, pattern.format("sgemm")):
            return pattern, integer
    raise AttributeError("no sgemm under a known name")


def _way(x: HostArray) -> tuple[bytes, int] | None:
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
