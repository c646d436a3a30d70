"""Intel's MKL, where it is installed: the products of `Blas`, and elementwise functions on all cores.

It is faster than OpenBLAS on narrow matrices, and what is elementwise shares one pool of threads with the products.
The functions and the modes are in Intel's oneMKL reference, "Vector Mathematical Functions" and "Numerical
Reproducibility".
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import numpy as np

from mlp_xp_backends.numpy_engine.blas import LETTER, ZERO, Blas, Call, NDArray, openblas, pointer

FUNCTIONS = {
    np.add: "Add",
    np.subtract: "Sub",
    np.multiply: "Mul",
    np.true_divide: "Div",
    np.tanh: "Tanh",
}
"""NumPy's functions and their names in MKL; not sqrt and exp, which take ten times as long for 0 and for underflow."""
MODE = 0x280101
"""``VML_LA | VML_FTZDAZ_ON | VML_ERRMODE_IGNORE``: within one unit in the last place, denormals are zero."""
REPEATABLE = 2
"""``MKL_CBWR_AUTO``: the same bits in every run with as many threads."""
SPIN = 5
"""Milliseconds for which its threads wait for more work before they sleep; OpenMP's default is 200."""


@cache
def blas() -> Blas | None:
    """The library that plans call: MKL, else NumPy's OpenBLAS, else none."""
    return mkl() or openblas()


@cache
def mkl() -> Blas | None:
    """MKL, if it is installed in this environment: ``pip install mkl``, or with conda.

    On Linux alone: elsewhere other libraries bring an OpenMP of Intel's of their own, and two of them end the process.
    """
    for path in sorted(Path(sys.prefix, "lib").glob("libmkl_rt.so*")):
        openmp = path.with_name("libiomp5.so")
        try:
            return Mkl(ctypes.CDLL(str(path)), ctypes.CDLL(str(openmp)) if openmp.exists() else None)
        except (OSError, AttributeError):
            continue
    return None


Line = tuple[Any, Any]
"""Slope and intercept, each a number or a 0-d array."""


class Mkl(Blas):
    """BLAS and the vector functions of MKL; ``openmp`` is the library that its threads come from, or ``None``."""

    name = "MKL"
    least = 1
    flushes = True
    large = 16_384
    block = 262_144
    wide = 65_536
    """Elements of a matrix from which on all cores take part in any product with it."""

    def __init__(self, library: Any, openmp: Any) -> None:
        self._openmp, self._set_threads = openmp, library.MKL_Set_Num_Threads_Local
        super().__init__(library, "{}_64", ctypes.c_int64)
        library.MKL_CBWR_Set(REPEATABLE)  # has no effect once the program has used MKL in another way
        self._vector: dict[tuple[str, np.dtype[Any]], Any] = {}
        self._ones: WeakValueDictionary[tuple[int, np.dtype[Any]], NDArray] = WeakValueDictionary()
        for dtype, letter in LETTER.items():
            for name in (*FUNCTIONS.values(), "Powx", "Sqrt", "LinearFrac"):
                f = library[f"vm{letter}{name}_64"]
                f.restype = None
                self._vector[name, dtype] = f

    def small(self, products: Iterable[tuple[int, int, int]]) -> bool:
        """See `Blas.small`."""
        products = list(products)
        return super().small(products) and all(max(m * k, k * n, m * n) < self.wide for m, k, n in products)

    @contextmanager
    def on_one_core(self) -> Iterator[None]:
        """See `Blas.on_one_core`; for the calling thread alone."""
        before = self._set_threads(1)
        try:
            yield
        finally:
            self._set_threads(before)

    def begin(self) -> None:
        """Let the threads sleep soon after the calling thread's last product, so that others find the cores free."""
        if self._openmp is not None:
            self._openmp.kmp_set_blocktime(SPIN)

    def ufunc(self, f: np.ufunc, out: NDArray, *inputs: NDArray) -> Call | None:
        """See `Blas.ufunc`."""
        arrays = [x for x in (out, *inputs) if x.ndim > 0]
        if not _alike(arrays):
            return None
        if len(inputs) == 2 and len(arrays) == 2:
            (x,), (s,) = ([a for a in inputs if (a.ndim > 0) is kind] for kind in (True, False))
            return self._with_number(f, out, x, s, swapped=s is inputs[0])
        if f is np.square or (f is np.multiply and inputs[0] is inputs[1]):
            return self._on("Powx", out, pointer(inputs[0]), _real(out.dtype)(2.0))  # which uses more cores than Sqr
        return self._on(FUNCTIONS[f], out, *map(pointer, inputs)) if f in FUNCTIONS else None

    def _with_number(self, f: np.ufunc, out: NDArray, x: NDArray, s: NDArray, swapped: bool) -> Call | None:
        if s.dtype != out.dtype:
            return None
        i, p = self._int, pointer
        if f is np.add:
            return self._fraction(out, x, (1.0, s))
        if f is np.subtract and swapped:
            return self._fraction(out, x, (-1.0, s))
        if f is not np.multiply:
            return None
        return self._functions["axpby", out.dtype], (i(out.size), p(s), p(x), i(1), p(ZERO[out.dtype]), p(out), i(1))

    def quotient(self, out: NDArray, x: NDArray, s: NDArray, y: NDArray, t: NDArray) -> Call | None:
        """See `Blas.quotient`."""
        if not _alike([out, x, y]) or s.dtype != out.dtype or t.dtype != out.dtype:
            return None
        return self._fraction(out, x, (s, 0.0), y, (1.0, t))

    def root(self, out: NDArray, x: NDArray) -> Call | None:
        """See `Blas.root`."""
        return self._on("Sqrt", out, pointer(x)) if _alike([out, x]) else None

    def _on(self, name: str, out: NDArray, *args: Any) -> Call:
        return self._vector[name, out.dtype], (ctypes.c_int64(out.size), *args, pointer(out), ctypes.c_int64(MODE))

    def _fraction(
        self, out: NDArray, x: NDArray, above: Line, y: NDArray | None = None, below: Line = (0.0, 1.0)
    ) -> Call:
        """``out <- (a x + b) / (c y + d)`` for the pairs ``above = (a, b)`` and ``below = (c, d)``."""
        real = _real(out.dtype)
        numbers = (s if isinstance(s, float) else real.from_address(s.ctypes.data) for s in (*above, *below))
        numbers = (real(s) if isinstance(s, float) else s for s in numbers)  # an array is read at every call
        if y is not None:
            return self._on("LinearFrac", out, pointer(x), pointer(y), *numbers)
        ones = self._ones.setdefault((out.size, out.dtype), np.ones(out.size, out.dtype))  # not x: it may be infinite
        held = ctypes.byref(ctypes.c_char.from_buffer(ones.data))  # which keeps them as long as the call is kept
        return self._on("LinearFrac", out, pointer(x), held, *numbers)


def _real(dtype: np.dtype[Any]) -> Any:
    return ctypes.c_float if dtype == np.float32 else ctypes.c_double


def _alike(arrays: list[NDArray]) -> bool:
    """Whether all are contiguous, of one shape, and of a dtype that MKL has functions for."""
    first = arrays[0]
    return first.dtype in LETTER and all(
        a.shape == first.shape and a.dtype == first.dtype and a.flags.c_contiguous for a in arrays
    )
