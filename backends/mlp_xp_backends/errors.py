"""One error for every library that runs out of memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mlp_xp_backends.protocol import BackendError, Memory


class DeviceMemoryError(BackendError, MemoryError):
    """A device ran out of memory. The message gives the sizes and what to try."""


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
