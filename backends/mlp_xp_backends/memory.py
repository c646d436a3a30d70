"""The memory of the host and of devices: transfers, sizes, and one error for every library that runs out of it."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from mlp_xp_backends.protocol import Backend, BackendError, Memory
from mlp_xp_backends.trees import leaves, tree_map, unflatten
from mlp_xp_backends.typing import Array, HostArray, Tree


def as_host(x: Array) -> HostArray:
    """Return ``x``, an array of any library, a sequence or a number, as a NumPy array in native byte order.

    The result shares memory with ``x`` if ``x`` is stored on the host, and is read-only if ``x`` is.
    """
    try:
        host = np.asarray(x)
    except TypeError:  # CuPy and torch refuse an implicit copy from the GPU; DLPack makes an explicit one
        host = np.from_dlpack(x, device="cpu")
    return host.astype(host.dtype.newbyteorder("="), copy=False)


def to_host(backend: Backend, tree: Tree) -> Tree:
    """A copy of ``tree`` in NumPy arrays. Waits for the device.

    On a GPU all leaves of one dtype are joined there and sent in one transfer.
    """
    if backend.device == "cpu":
        return tree_map(lambda a: np.array(backend.to_numpy(a)), tree)
    flat: list[Array] = leaves(tree)
    found: dict[int, HostArray] = {}
    for dtype in dict.fromkeys(str(a.dtype) for a in flat):
        chosen = [i for i, a in enumerate(flat) if str(a.dtype) == dtype]
        joined = backend.xp.concat([backend.xp.reshape(flat[i], (-1,)) for i in chosen])
        ends = list(accumulate(_size(flat[i]) for i in chosen))[:-1]
        for i, part in zip(chosen, np.split(backend.to_numpy(joined), ends), strict=True):
            found[i] = part.reshape(flat[i].shape).copy()
    return unflatten(tree, (found[i] for i in range(len(flat))))


def to_device(backend: Backend, tree: Tree) -> Tree:
    """A copy of ``tree``, NumPy arrays, on the device."""
    return tree_map(lambda a: backend.asarray(np.array(a)), tree)


def _size(a: Any) -> int:
    return int(np.prod(a.shape, dtype=np.int64))


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


class DeviceMemoryError(BackendError, MemoryError):
    """A device ran out of memory. The message gives the sizes and what to try.

    >>> issubclass(DeviceMemoryError, BackendError) and issubclass(DeviceMemoryError, MemoryError)
    True
    """


_WORDS = ("out of memory", "allocate memory", "not enough memory", "resource_exhausted")


def is_out_of_memory(error: Exception) -> bool:
    """Whether ``error`` is the out-of-memory error of one of the libraries."""
    return isinstance(error, MemoryError) or any(words in str(error).lower() for words in _WORDS)


def size(n_bytes: int) -> str:
    """Format ``n_bytes`` in binary units: ``1536 -> '1.5 KiB'``."""
    value, unit = float(n_bytes), 0
    while value >= 1024 and unit < 4:
        value, unit = value / 1024, unit + 1
    return f"{value:.1f} {('B', 'KiB', 'MiB', 'GiB', 'TiB')[unit]}" if unit else f"{n_bytes} B"


@contextmanager
def memory_guard(device: str, memory: Callable[[], Memory]) -> Iterator[None]:
    """Convert any library's out-of-memory error into a `DeviceMemoryError` that names ``device``."""
    try:
        yield
    except Exception as error:
        if isinstance(error, BackendError) or not is_out_of_memory(error):
            raise
        raise DeviceMemoryError(_message(device, memory, error)) from error


def _message(device: str, memory: Callable[[], Memory], error: Exception) -> str:
    said = str(error).strip().partition("\n")[0] or type(error).__name__
    try:
        free, total = memory()
        left = f"{size(free)} of {size(total)} are free"
    except Exception as unknown:  # a device in this state may fail to answer
        left = f"its free memory is unknown ({type(unknown).__name__})"
    return (
        f"{device} is out of memory: {left}. The library says: {said}\n"
        "Try a smaller batch, a smaller network, float32 instead of float64, data that stays on the host, "
        'or device="cpu"; on a shared GPU, nvidia-smi lists the other processes.'
    )
