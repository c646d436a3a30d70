"""Flush denormal numbers, which processors handle tens of times more slowly than others, to zero.

A momentum without a gradient decays to a denormal and stays there, since 0.9 times the smallest rounds to itself.
"""

from __future__ import annotations

import ctypes
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

FLUSH = 0x8040
"""The bits of MXCSR that flush denormal results and operands to zero (Intel SDM, vol. 1, sec. 10.2.3)."""
MXCSR = slice(28, 32)
"""The bytes of MXCSR in the ``fenv_t`` of x86-64 Linux, after seven words of the x87 unit."""


@contextmanager
def flushed() -> Iterator[None]:
    """Flush denormals to zero in this thread, on x86-64 Linux with glibc; elsewhere do nothing."""
    library = _library()
    if library is None:
        yield
        return
    before, inside = (ctypes.c_ubyte * 32)(), (ctypes.c_ubyte * 32)()
    library.fegetenv(before)
    ctypes.memmove(inside, before, 32)
    word = int.from_bytes(before[MXCSR], "little") | FLUSH
    inside[MXCSR] = list(word.to_bytes(4, "little"))
    library.fesetenv(inside)
    try:
        yield
    finally:
        library.fesetenv(before)


@cache
def _library() -> Any:
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return None
    try:
        library = ctypes.CDLL("libm.so.6")  # of glibc: musl's layout of ``fenv_t`` may be another one
    except OSError:
        return None
    return library if hasattr(library, "fegetenv") and hasattr(library, "fesetenv") else None
