"""What is known of a backend on this machine."""

from __future__ import annotations

from typing import NamedTuple

from mlp_xp_backends.protocol import BackendError, Memory


class Device(NamedTuple):
    """A device that a backend can compute on."""

    name: str
    """``cpu`` or ``cuda:N``."""
    model: str = ""
    """The processor, as its maker calls it."""
    memory: Memory | None = None
    """Bytes free and in all; None where nobody asked."""


class Status(NamedTuple):
    """Whether a backend is usable and, where it is not, why and what makes it so."""

    name: str
    """The backend as `get_backend` takes it: ``numpy``, ``cupy``, ``torch:cpu``, ``torch:cuda``, ..."""
    version: str = ""
    """The version of the library; empty where it is not installed."""
    devices: tuple[Device, ...] = ()
    """The devices that it can compute on."""
    reason: str = ""
    """Why it is not usable, in one line; empty where it is."""
    remedy: str = ""
    """What makes it usable, with the exact commands."""
    command: str = ""
    """The command that installs what is missing; empty where no Python package is to blame."""

    @property
    def usable(self) -> bool:
        """Whether `get_backend` gives this backend."""
        return not self.reason

    def error(self) -> BackendError:
        """The error for who asked for this backend although it is not usable."""
        return BackendError(f"{self.name} cannot be used here: {self.reason}.\n{self.remedy}")


class MissingError(Exception):
    """Raised by what looks for a backend: the reason, the remedy, and the command in it, as in `Status`."""

    def __init__(self, reason: str, remedy: str, command: str = "") -> None:
        super().__init__(reason, remedy, command)
