"""The interface of a backend: an array namespace, a device, transfers to and from the host, and compiled loops."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

from mlp_xp_backends.typing import Array, HostArray, Namespace, Tree

Body = Callable[[Namespace, Tree, Tree, Tree], tuple[Tree, Tree]]
Loop = Callable[[Tree, Tree, Tree], tuple[Tree, Tree]]


class Memory(NamedTuple):
    """The memory of a device, in bytes."""

    free: int
    total: int


class BackendError(RuntimeError):
    """The requested backend or device cannot be used. The message gives the reason and the remedy.

    >>> get_backend("abacus")
    Traceback (most recent call last):
    mlp_xp_backends.protocol.BackendError: ...
    """


class Backend(Protocol):
    """An array library on one device."""

    name: str
    """The library: ``numpy``, ``cupy``, ``torch``, ``jax`` or ``array_api_strict``."""
    device: str
    """The device: ``cpu`` or ``cuda:N``."""
    xp: Namespace
    """The Array API namespace, with ``one_hot`` and ``segment_sum``. Its creation functions default to the device."""

    def asarray(self, x: Array, dtype: str | None = None) -> Array:
        """``x``, an array of any library, on this device. May share memory with ``x``."""

    def to_numpy(self, x: Array) -> HostArray:
        """``x`` on the host. Waits for the device. May share memory with ``x``: copy it to keep it beyond a step."""

    def synchronize(self) -> None:
        """Wait until the device has finished all work."""

    def compile(self, body: Body) -> Loop:
        """Compile a loop over ``body``, in the fastest way that the library offers.

        ``body(xp, carry, consts, item) -> (carry, out)`` does one step. It may write only to ``carry``, by augmented
        assignment; it returns the carry of the next step; and it transfers nothing to the host. The compiled
        ``loop(carry, consts, items) -> (carry, outs)`` runs it over the leading axis of the leaves of ``items``. The
        leaves of ``outs`` are new arrays: the ``out`` of all steps, stacked along a leading axis. The loop consumes
        ``carry``: continue with the returned one. It is compiled once for each set of shapes.

        Arrays that change between calls belong in ``carry``, ``consts`` or ``items``. What ``body`` computes from other
        arrays of the host, such as ``np.sin(a)`` of an ``a`` in its closure, is computed once, when it is compiled:
        later changes of ``a`` are not detected.
        """

    def memory(self) -> Memory:
        """Free and total memory of the device."""

    def __hash__(self) -> int:
        """Backends serve as keys of caches."""
