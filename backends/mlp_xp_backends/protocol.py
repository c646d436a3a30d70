"""What a backend is: an array namespace, a device, the way to and from the host, and a compiled loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np

Array = Any
Tree = Any
Namespace = Any

Body = Callable[[Namespace, Tree, Tree, Tree], tuple[Tree, Tree]]
Loop = Callable[[Tree, Tree, Tree], tuple[Tree, Tree]]


class Memory(NamedTuple):
    """Bytes of the memory that arrays of a device live in."""

    free: int
    total: int


class BackendError(RuntimeError):
    """A backend or device that was asked for cannot be used; the message says why and what makes it usable."""


class Backend(Protocol):
    """An array library on one device, as the trainer sees it."""

    name: str
    """The library: ``numpy``, ``cupy``, ``torch``, ``jax`` or ``array_api_strict``."""
    device: str
    """The device: ``cpu`` or ``cuda:N``."""
    xp: Namespace
    """The Array API namespace; its creation functions default to the device."""

    def asarray(self, x: Array, dtype: str | None = None) -> Array:
        """``x``, an array of any library or of the host, on this device; may share memory with ``x``."""

    def to_numpy(self, x: Array) -> np.ndarray:
        """``x`` on the host; may share memory: copy what has to outlast a step. Waits for the device."""

    def synchronize(self) -> None:
        """Return when all work sent to the device is done."""

    def compile(self, body: Body) -> Loop:
        """The loop over ``body``, in the fastest way this library has.

        ``body(xp, carry, consts, item) -> (carry, out)`` does one step: it may write (by augmented assignment) to
        ``carry`` alone, returns what to go on with, and reads nothing back to the host. The compiled
        ``loop(carry, consts, items) -> (carry, outs)`` runs it over the leading axis of the leaves of ``items``;
        ``outs`` has the ``out`` of all steps, arrays of their own, stacked along a leading axis. ``carry`` is
        consumed: go on with the one that is returned. Shapes are cached, so call it as often as you like.
        """

    def memory(self) -> Memory:
        """Free and total bytes of the device's memory."""

    def __hash__(self) -> int:
        """Backends are keys of caches."""
