"""OpenBLAS, with large products on threads of its own."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from threading import Lock
from typing import Any

import numpy as np

from mlp_xp_backends.compiler.targets.cpu.blas import LETTER, Blas, Call
from mlp_xp_backends.compiler.targets.cpu.parts import multiplications
from mlp_xp_backends.typing import HostArray

TERMS = {np.dtype(np.float32): 448, np.dtype(np.float64): 384}
"""Terms of a sum that OpenBLAS's kernels for AVX-512 add up in one go: GEMM_Q in its ``param.h``."""
ONE = {dtype: np.ones((), dtype) for dtype in LETTER}


class OpenBlas(Blas):
    """OpenBLAS, whose number of threads is a setting of the whole process."""

    name = "OpenBLAS"
    SMALL = 1_000_000
    """Multiplications below which OpenBLAS has code of its own for small matrices on processors with AVX-512."""
    ROWS = 32
    """Rows of a product from which copying its second factor takes less time than it saves."""

    def __init__(self, library: Any, pattern: str, integer: Any) -> None:
        super().__init__(library, pattern, integer)
        core = library[pattern.replace("{}_", "{}").format("openblas_get_corename")]
        core.restype = ctypes.c_char_p
        self._has_avx512 = core() == b"SkylakeX"
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
        """See `Blas.divided`; with AVX-512 most products have the same bits on any number of threads.

        Kernels in single precision round each element alike wherever threads divide ``c``, those in double precision
        where threads divide its columns at multiples of eight. But one thread would cut sums longer than `TERMS` at
        other places than several threads do: it computes a product for each of their parts.
        """
        whole, length = self.gemm(c, a, b, alpha, beta), a.shape[1]
        if whole is None:
            return None
        cuts = _cuts(length, TERMS[c.dtype] if self._has_avx512 else length)
        sums = [(a[:, cut], b[cut], ONE[c.dtype] if cut.start else beta) for cut in cuts]
        each = [call for x, y, scale in sums if (call := self.gemm(c, x, y, alpha, scale)) is not None]
        small = min(multiplications(x, y) for x, y, _ in sums) <= self.SMALL  # for which there are other kernels
        return self._on_threads, (each if small else [whole], each)

    def _on_threads(self, calls: Sequence[Call], on_one: Sequence[Call]) -> None:
        with self._lock:  # no other run begins as long as there are several threads
            alone = self._inside == 1
            if alone:
                self._set(self._before)
                try:
                    _run(calls if self._before > 1 else on_one)
                finally:
                    self._set(1)
        if not alone:  # two runs do not wait for each other
            _run(on_one)

    def _set(self, threads: int) -> None:
        self._put(ctypes.byref(ctypes.c_int(threads)))

    def prefers_rows(self, a: HostArray, b: HostArray) -> bool:
        """See `Blas.prefers_rows`: so it is in OpenBLAS's code for small matrices."""
        pays, small = a.shape[-2] >= self.ROWS, multiplications(a, b) < self.SMALL
        transposed = b.dtype in LETTER and b.strides[-2] == b.itemsize < b.strides[-1]
        return self._has_avx512 and transposed and pays and small

    def _after_fork(self) -> None:
        """Reset the state: no run is in progress in a forked process."""
        self._lock = Lock()
        if self._inside:
            self._inside = 0
            self._set(self._before)


def _cuts(length: int, most: int) -> list[slice]:
    """Where several threads of OpenBLAS cut sums of so many terms: into parts of at most ``most``."""
    cuts = [slice(0, 0)]
    while (rest := length - cuts[-1].stop) > 0:
        size = rest if rest <= most else min(most, -(-rest // 2))
        cuts.append(slice(length - rest, length - rest + size))
    return cuts[1:] or cuts


def _run(calls: Iterable[Call]) -> None:
    for f, args in calls:
        f(*args)
