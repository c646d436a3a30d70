"""OpenBLAS, with large products in parts on threads of its own."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import Lock
from typing import Any

import numpy as np

from mlp_xp_backends.compiler.targets.cpu.blas import LETTER, Blas, Call, layout, routines
from mlp_xp_backends.compiler.targets.cpu.parts import EXACT, MOST, Product, multiplications, parts
from mlp_xp_backends.typing import HostArray

COLUMN_MAJOR, NORMAL, TRANSPOSED = 102, 111, 112
"""Numbers of cblas.h."""


class OpenBlas(Blas):
    """OpenBLAS, whose number of threads is a setting of the whole process."""

    name = "OpenBLAS"
    QUARTERS = 16_000_000
    """Multiplications of a product from which a batch has `MOST` parts, where their number is fixed, otherwise two."""
    SMALL = 1_000_000
    """Multiplications below which OpenBLAS has code of its own for small matrices on some processors.

    Such a product in a batch ends the process (OpenBLAS #5980).
    """

    def __init__(self, library: Any, pattern: str, integer: Any) -> None:
        super().__init__(library, pattern, integer)
        self._gemm_batch = routines(library, pattern.replace("{}_", "cblas_{}"), "gemm_batch")
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
        """See `Blas.divided`; in `parts` on up to `MOST` threads, and on more if the kernel is `EXACT`."""
        whole, columns = self.gemm(c, a, b, alpha, beta), EXACT.get((self._core, LETTER[c.dtype]))
        exact = columns is not None and c.shape[1] % columns == 0
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
        ways, n = [way for way in map(layout, arrays) if way is not None], len(arrays)
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
            if self._inside == 1:
                self._set(self._before)
                try:
                    f(*args)
                finally:
                    self._set(1)
                return
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
