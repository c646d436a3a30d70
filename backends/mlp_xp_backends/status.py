"""The status of a backend on this machine."""

from __future__ import annotations

from typing import NamedTuple

from mlp_xp_backends.protocol import BackendError, Memory


class Device(NamedTuple):
    """A device that a backend can compute on."""

    name: str
    """``cpu`` or ``cuda:N``."""
    model: str = ""
    """The vendor's name of the processor."""
    memory: Memory | None = None
    """Free and total memory; None if it was not queried."""


class Status(NamedTuple):
    """Whether a backend is usable; if not, the reason and the remedy."""

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
