"""Running out of memory, told the same way by every library."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mlp_xp_backends.protocol import BackendError, Memory


class DeviceMemoryError(BackendError, MemoryError):
    """A device has too little memory left; the message has the sizes and what to try."""


_WORDS = ("out of memory", "allocate memory", "not enough memory", "resource_exhausted")


def is_out_of_memory(error: Exception) -> bool:
    """Whether ``error`` is how one of the libraries says that memory ran out."""
    return isinstance(error, MemoryError) or any(words in str(error).lower() for words in _WORDS)


def size(n_bytes: int) -> str:
    """``n_bytes`` for a reader, in binary units: ``1536 -> '1.5 KiB'``."""
    value, unit = float(n_bytes), 0
    while value >= 1024 and unit < 4:
        value, unit = value / 1024, unit + 1
    return f"{value:.1f} {('B', 'KiB', 'MiB', 'GiB', 'TiB')[unit]}" if unit else f"{n_bytes} B"


@contextmanager
def memory_guard(device: str, memory: Callable[[], Memory]) -> Iterator[None]:
    """Turn whatever a library raises when ``device`` is out of memory into a `DeviceMemoryError`."""
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
    except Exception as unknown:  # a device in this state may refuse to answer at all
        left = f"its free memory is unknown ({type(unknown).__name__})"
    return (
        f"{device} is out of memory: {left}. The library says: {said}\n"
        "Try a smaller batch, a smaller network, float32 instead of float64, data that stays on the host, "
        'or device="cpu"; on a shared GPU, nvidia-smi shows who else uses it.'
    )
