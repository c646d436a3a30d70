"""Flush denormal numbers, which processors handle tens of times more slowly than others, to zero.

A momentum without a gradient decays to a denormal and stays there, since 0.9 times the smallest rounds to itself.
"""

from __future__ import annotations

import ctypes
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any

Environment = ctypes.c_uint32 * 8
"""The ``fenv_t`` of x86-64 Linux: seven words of the x87 unit, and MXCSR."""
MXCSR = 7
FLUSH = 0x8040
"""The bits of MXCSR that flush denormal results and operands to zero (Intel SDM, vol. 1, sec. 10.2.3)."""


@contextmanager
def flushed() -> Iterator[None]:
    """Flush denormals to zero in this thread, on x86-64 Linux with glibc; elsewhere do nothing."""
    library = _library()
    if library is None:
        yield
        return
    before, inside = Environment(), Environment()
    library.fegetenv(before)
    library.fegetenv(inside)
    inside[MXCSR] |= FLUSH
    library.fesetenv(inside)
    try:
        yield
    finally:
        library.fesetenv(before)


@cache
def _library() -> Any:
    if sys.platform == "linux" and platform.machine() == "x86_64":
        with suppress(OSError):
            return ctypes.CDLL("libm.so.6")  # of glibc: musl's layout of ``fenv_t`` may be another one
    return None
