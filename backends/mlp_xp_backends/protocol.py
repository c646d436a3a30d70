"""The interface of a backend: an array namespace, a device, transfers to and from the host, and compiled loops.

Its `Status` says whether this machine can use it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

from mlp_xp_backends.typing import Array, HostArray, Namespace, Tree

Body = Callable[[Namespace, Tree, Tree, Tree], tuple[Tree, Tree]]
Loop = Callable[[Tree, Tree, Tree], tuple[Tree, Tree]]


class Memory(NamedTuple):
    """The memory of a device, in bytes.

    >>> memory = get_backend("cpu").memory()
    >>> 0 < memory.free <= memory.total
    True
    """

    free: int
    total: int


class BackendError(RuntimeError):
    """The requested backend or device cannot be used. The message gives the reason and the remedy.

    >>> get_backend("abacus")
    Traceback (most recent call last):
    mlp_xp_backends.protocol.BackendError: ...
    """


class Backend(Protocol):
    """An array library on one device.

    >>> backend = get_backend("cpu")
    >>> x = backend.asarray([[1.0, 2.0], [3.0, 4.0]], "float32")
    >>> backend.to_numpy(backend.xp.sum(x, axis=-1))
    array([3., 7.], dtype=float32)

    A compiled loop runs a step for every item:

    >>> loop = backend.compile(lambda xp, total, consts, x: (total + x, total))
    >>> total, before = loop(np.zeros(()), (), np.asarray([1.0, 2.0, 3.0]))
    >>> float(total), before
    (6.0, array([0., 1., 3.]))
    """

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


class OnDevice:
    """A library on a device: the ``repr`` of backends."""

    device: str

    def __repr__(self) -> str:
        return f"<{type(self).__name__} on {self.device}>"


class Device(NamedTuple):
    """A device that a backend can compute on.

    >>> available_backends()[0].devices[0].name
    'cpu'
    """

    name: str
    """``cpu`` or ``cuda:N``."""
    model: str = ""
    """The vendor's name of the processor."""
    memory: Memory | None = None
    """Free and total memory; None if it was not queried."""


class Status(NamedTuple):
    """Whether a backend is usable; if not, the reason and the remedy.

    >>> status = available_backends()[0]
    >>> status.name, status.usable, status.reason
    ('numpy', True, '')
    """

    name: str
    """The name that `get_backend` accepts: ``numpy``, ``cupy``, ``torch:cpu``, ``torch:cuda``, ..."""
    version: str = ""
    """The version of the library; empty if it is not installed."""
    devices: tuple[Device, ...] = ()
    """The available devices."""
    reason: str = ""
    """One line that says why the backend is not usable; empty if it is."""
    remedy: str = ""
    """How to make it usable, with the exact commands."""
    command: str = ""
    """The command that installs the missing package; empty if no Python package is missing."""

    @property
    def usable(self) -> bool:
        """Whether `get_backend` returns this backend."""
        return not self.reason

    def error(self) -> BackendError:
        """The error that `get_backend` raises if this backend is not usable."""
        return BackendError(f"{self.name} cannot be used here: {self.reason}.\n{self.remedy}")


class MissingError(Exception):
    """Raised while a backend is probed: the reason, the remedy, and the command, as in `Status`."""

    def __init__(self, reason: str, remedy: str, command: str = "") -> None:
        super().__init__(reason, remedy, command)
