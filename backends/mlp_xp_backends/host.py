"""The host: arrays of any library as NumPy arrays, and the memory of the machine."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import numpy as np

from mlp_xp_backends.protocol import Memory
from mlp_xp_backends.typing import Array, HostArray


def as_host(x: Array) -> HostArray:
    """Return ``x``, an array of any library, a sequence or a number, as a NumPy array in native byte order.

    The result shares memory with ``x`` if ``x`` is stored on the host, and is read-only if ``x`` is.
    """
    try:
        host = np.asarray(x)
    except TypeError:  # CuPy and torch refuse an implicit copy from the GPU; DLPack makes an explicit one
        host = np.from_dlpack(x, device="cpu")
    return host.astype(host.dtype.newbyteorder("="), copy=False)


def host_memory() -> Memory:
    """Return the machine's memory; ``free`` is what is available without swapping, where the system reports it."""
    if (system := platform.system()) == "Linux":
        lines = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
        kib = {words[0]: int(words[1]) for words in lines}
        return Memory(1024 * kib["MemAvailable:"], 1024 * kib["MemTotal:"])
    if system == "Windows":
        return _windows_memory()
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Memory(total, total)  # macOS reports free memory only through command-line tools


def _windows_memory() -> Memory:
    import ctypes

    words = (ctypes.c_ulonglong * 8)()  # MEMORYSTATUSEX: two 32-bit fields, then seven of 64 bits
    ctypes.cast(words, ctypes.POINTER(ctypes.c_uint32))[0] = ctypes.sizeof(words)
    vars(ctypes)["windll"].kernel32.GlobalMemoryStatusEx(ctypes.byref(words))
    return Memory(int(words[2]), int(words[1]))
