"""NumPy, CuPy, torch and JAX behind one small interface: arrays, devices and compiled loops.

>>> from mlp_xp_backends import get_backend
>>> backend = get_backend("cpu")
>>> backend.name, backend.device
('numpy', 'cpu')

Importing this package imports NumPy alone; `get_backend` imports the library of the requested backend.
"""

from __future__ import annotations

from mlp_xp_backends.memory import DeviceMemoryError
from mlp_xp_backends.protocol import Backend, BackendError, Device, Memory, Status
from mlp_xp_backends.registry import available_backends, get_backend, get_backend_or_cpu

__all__ = [
    "Backend",
    "BackendError",
    "Device",
    "DeviceMemoryError",
    "Memory",
    "Status",
    "available_backends",
    "get_backend",
    "get_backend_or_cpu",
]
