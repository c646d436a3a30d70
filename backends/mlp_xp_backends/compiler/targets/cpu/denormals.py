"""Denormal numbers, which the processor handles tens of times slower than others, taken for zero.

A momentum without a gradient decays into them and, since 0.9 times the smallest of them rounds to itself, stays there.
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
"""The bits of MXCSR that take denormal results and operands for zero (Intel SDM, vol. 1, sec. 10.2.3)."""
MXCSR = slice(28, 32)
"""Where MXCSR lies in the ``fenv_t`` of x86-64 Linux, behind seven words of the x87 unit."""


@contextmanager
def flushed() -> Iterator[None]:
    """Denormals are zero for this thread, where the processor and the system let us say so (x86-64 Linux)."""
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
