"""OpenBLAS, with large products on threads of its own."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

import numpy as np

from mlp_xp_backends.compiler.targets.cpu.blas import LETTER, Blas, Call
from mlp_xp_backends.compiler.targets.cpu.parts import multiplications
from mlp_xp_backends.typing import HostArray

TERMS = 448
"""Terms of a sum that OpenBLAS's kernels for AVX-512 add up in one go, in single precision."""
ONE = np.ones((), np.float32)


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
        """See `Blas.divided`; single precision with AVX-512 has the same bits on any number of threads.

        Such kernels round each element alike wherever threads divide ``c``. Sums longer than `TERMS` are computed in
        several products, because one thread would divide them at other places than several do.
        """
        exact, length = self._has_avx512 and c.dtype == np.float32, a.shape[1]
        cuts = [slice(k, k + TERMS) for k in range(0, max(length, 1), TERMS)] if exact else [slice(length)]
        calls = [self.gemm(c, a[:, cut], b[cut], alpha, ONE if k else beta) for k, cut in enumerate(cuts)]
        ready = [call for call in calls if call is not None]
        return (self._on_threads, tuple(ready)) if len(ready) == len(cuts) else None

    def _on_threads(self, *calls: Call) -> None:
        with self._lock:  # no other run begins as long as there are several threads
            alone = self._inside == 1
            if alone:
                self._set(self._before)
                try:
                    _run(calls)
                finally:
                    self._set(1)
        if not alone:  # two runs do not wait for each other
            _run(calls)

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


def _run(calls: Iterable[Call]) -> None:
    for f, args in calls:
        f(*args)
