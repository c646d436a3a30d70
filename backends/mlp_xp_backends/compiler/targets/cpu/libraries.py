"""The linear algebra libraries of this environment.

NumPy's wheels carry an OpenBLAS of their own, with 64-bit integers and renamed symbols. Any other build of NumPy
(Accelerate, the system's BLAS) has none, and `openblas` returns ``None``. SciPy's BLAS is not a substitute: two thread
pools would compete for the cores.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from mlp_xp_backends.compiler.targets.cpu.blas import SPLIT, Blas, Call
from mlp_xp_backends.compiler.targets.cpu.openblas import OpenBlas
from mlp_xp_backends.compiler.targets.cpu.parts import multiplications
from mlp_xp_backends.typing import HostArray


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
        if self._small is not None and multiplications(a, b) < SPLIT:
            return self._small.gemm(c, a, b, alpha, beta)
        return super().gemm(c, a, b, alpha, beta)


@cache
def blas() -> Blas | None:
    """The library for the products of compiled loops: NumPy's OpenBLAS, or what ``MLP_XP_BLAS`` names.

    Steps with large arrays are divided between a `Team` of threads that sleep while they wait; OpenBLAS's own threads
    are faster for products of middle size, and used for them. With ``openblas-parts`` the team computes these, too.
    ``mkl`` is Intel's MKL, never the default: on AMD processors it was 8 to 25 % slower. `None` if NumPy has no
    OpenBLAS: its own products are used then.
    """
    wish = os.environ.get("MLP_XP_BLAS", "openblas").lower()
    if wish not in ("openblas", "openblas-parts", "mkl"):
        raise ValueError(f"MLP_XP_BLAS is {wish!r}: it can be openblas, openblas-parts or mkl")
    library = mkl() if wish == "mkl" else openblas()
    if wish == "mkl" and library is None:
        raise ValueError("MLP_XP_BLAS is mkl, but MKL is not installed: pip install mkl")
    if library is not None:
        library.in_parts = wish == "openblas-parts"
    return library


@cache
def openblas() -> Blas | None:
    """The OpenBLAS in NumPy's wheel, if there is one."""
    package = Path(np.__file__).parent
    paths = [*package.parent.glob("numpy.libs/*openblas*"), *package.glob(".dylibs/*openblas*")]
    return _first(paths, lambda library: OpenBlas(library, *_naming(library)))


@cache
def mkl() -> Blas | None:
    """MKL, if it is installed in this environment.

    Only on Linux: elsewhere other libraries bring another copy of Intel's OpenMP, which aborts the process.
    """
    return _first(Path(sys.prefix, "lib").glob("libmkl_rt.so*"), Mkl)


def _first(paths: Iterable[Path], library: Callable[[ctypes.CDLL], Blas]) -> Blas | None:
    """The first of these libraries that has all functions."""
    for path in sorted(paths):
        with suppress(OSError, AttributeError):
            return library(ctypes.CDLL(str(path)))
    return None


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
