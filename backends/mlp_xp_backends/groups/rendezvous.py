"""The rendezvous of the ranks of a job: rank 0 sends the same bytes to all others over TCP."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping

from mlp_xp_backends.protocol import BackendError

PATIENCE = 300.0
"""Seconds to wait for ranks that start later."""
GREETING = b"I am rank %10d\n"


def address(environment: Mapping[str, str] = os.environ) -> tuple[str, int]:
    """The host and port of rank 0: ``MASTER_ADDR`` and the port after ``MASTER_PORT``, which torchrun itself uses.

    >>> address({"MASTER_ADDR": "node1", "MASTER_PORT": "29500"})
    ('node1', 29501)
    """
    return environment.get("MASTER_ADDR", "127.0.0.1"), int(environment.get("MASTER_PORT", "29500")) + 1


def from_first(message: bytes, rank: int, size: int, at: tuple[str, int], patience: float = PATIENCE) -> bytes:
    """Return the ``message`` of rank 0. Raises `BackendError` if a rank does not appear within ``patience`` seconds."""
    host, port = at
    try:
        if rank:
            return _received(host, port, rank, time.monotonic() + patience)
        _send(message, host, port, set(range(1, size)), time.monotonic() + patience)
    except OSError as error:
        raise BackendError(
            f"rank {rank} cannot meet the other {size - 1} at {host}:{port}: {error}.\n"
            "Set MASTER_ADDR to the machine of rank 0, and MASTER_PORT to a port that is free there, on all ranks."
        ) from error
    return message


def _send(message: bytes, host: str, port: int, missing: set[int], until: float) -> None:
    """Send ``message`` to the ranks ``missing``; ignore anything else that connects to the port."""
    here = host if host in ("127.0.0.1", "localhost") else ""
    with socket.create_server((here, port), backlog=128) as server:
        while missing:
            left = until - time.monotonic()
            if left <= 0.0:
                raise TimeoutError(f"rank {min(missing)} has not connected")
            server.settimeout(left)
            connection, _ = server.accept()
            with connection:
                connection.settimeout(1.0)
                missing.discard(_greeted(connection, message, missing))


def _greeted(connection: socket.socket, message: bytes, missing: set[int]) -> int:
    """The rank to which ``message`` was sent, or -1 if it is not one of those ``missing``."""
    try:
        greeting = connection.recv(len(GREETING % 0), socket.MSG_WAITALL)
        rank = next((rank for rank in missing if greeting == GREETING % rank), -1)
        if rank > 0:
            connection.sendall(message)
        return rank
    except OSError:
        return -1


def _received(host: str, port: int, rank: int, until: float) -> bytes:
    """Receive what rank 0 sends; retry until the time is up."""
    while True:
        try:
            with socket.create_connection((host, port), timeout=5.0) as connection:
                connection.sendall(GREETING % rank)
                with connection.makefile("rb") as file:
                    if message := file.read():
                        return message
                raise ConnectionError("rank 0 closed the connection")
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)
