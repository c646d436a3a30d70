"""From the words of a user to a backend."""

from __future__ import annotations

import re
import sys
from functools import cache
from typing import TextIO

from mlp_xp_backends.protocol import Backend, BackendError
from mlp_xp_backends.status import Status

SPECS = (
    "auto",
    "cpu",
    "cuda",
    "cuda:N",
    "numpy",
    "cupy",
    "torch",
    "torch:cpu",
    "torch:cuda",
    "torch:cuda:N",
    "jax",
    "jax:cpu",
    "jax:cuda",
    "jax:cuda:N",
    "array_api_strict",
)
_GRAMMAR = re.compile(r"(?:(cupy|torch|jax):)?(cpu|cuda)(?::(\d+))?|(numpy|cupy|torch|jax|array_api_strict)")
_ALIASES = {"gpu": "cuda", "np": "numpy", "pytorch": "torch", "strict": "array_api_strict"}


def get_backend(spec: str = "auto") -> Backend:
    """The backend that ``spec`` names; its library is imported now.

    ``auto`` is CuPy on the first GPU where that works, else NumPy; ``cpu`` is NumPy; ``cuda`` and ``cuda:N``
    are CuPy on the first and on the N-th GPU, counted from 0. ``torch`` and ``jax`` alone take their first GPU
    if they can use it, else the CPU; ``torch:cpu``, ``torch:cuda``, ``torch:cuda:N`` and the same of ``jax``
    say which. ``array_api_strict`` is the standard's reference library, for tests.

    The same words give the same object. Raises `BackendError` if ``spec`` is unknown or what it asks for is
    not there: its first line says what was found and what is missing, the others what to do.
    """
    name, index = _parsed(spec)
    return _built(name, index)


def get_backend_or_cpu(spec: str = "auto", *, strict: bool = False, stream: TextIO | None = None) -> Backend:
    """`get_backend` for programs: where a GPU was asked for that cannot be used, NumPy on the CPU instead.

    The fall is told in one line on ``stream`` (standard error by default), unless ``strict`` makes it the
    `BackendError` that it is for `get_backend`. Every other error stays one. ``auto`` never is an error, but says
    the same line on a machine with an NVIDIA driver.
    """
    if spec == "auto":
        from mlp_xp_backends.cuda import driver_version

        spec, strict = ("cuda" if driver_version() else "cpu"), False
    name, index = _parsed(spec)
    try:
        return _built(name, index)
    except BackendError as error:
        if strict or not (name == "cupy" or name.endswith("cuda")):
            raise
        reason = str(error).partition("\n")[0].rstrip(".")
        print(f"{reason}; running on the CPU instead (see: python -m mlp_xp info)", file=stream or sys.stderr)
        return get_backend("cpu")


def available_backends() -> tuple[Status, ...]:
    """The status of every backend, usable or not, with the devices and their memory.

    Never raises. Imports all libraries that are installed, which takes seconds, and makes a CUDA context on
    each GPU.
    """
    from mlp_xp_backends.probe import BACKENDS, probe

    return tuple(_with_memory(probe(name)) for name in BACKENDS)


def _with_memory(status: Status) -> Status:
    devices = []
    for i, device in enumerate(status.devices):
        try:
            devices.append(device._replace(memory=_built(status.name, i).memory()))
        except Exception:  # the report goes on without a figure that the device refuses
            devices.append(device)
    return status._replace(devices=tuple(devices))


def _parsed(spec: str) -> tuple[str, int]:
    """The key of ``spec`` in `probe.BACKENDS` and the number of the device."""
    if spec == "auto":
        return ("cupy" if _usable("cupy") else "numpy"), 0
    match = _GRAMMAR.fullmatch(spec) if isinstance(spec, str) else None
    if match is None or (match[2] == "cpu" and (match[3] or match[1] == "cupy")):
        raise BackendError(_unknown(spec))
    library, kind, index, alone = match.groups()
    if alone in ("torch", "jax"):
        return f"{alone}:{'cuda' if _usable(f'{alone}:cuda') else 'cpu'}", 0
    if library in ("torch", "jax"):
        return f"{library}:{kind}", int(index or 0)
    return alone or {"cpu": "numpy", "cuda": "cupy"}[kind], int(index or 0)


def _unknown(spec: object) -> str:
    from difflib import get_close_matches

    word = str(spec).lower()
    near = _ALIASES.get(word) or next(iter(get_close_matches(word, SPECS, 1)), None)
    meant = f" Did you mean {near!r}?" if near else ""
    return f"unknown backend or device {spec!r}.{meant}\nKnown are: {', '.join(SPECS)}."


def _usable(name: str) -> bool:
    from mlp_xp_backends.probe import probe

    return probe(name).usable


@cache
def _built(name: str, index: int) -> Backend:
    from mlp_xp_backends.probe import probe

    status = probe(name)
    if not status.usable:
        raise status.error()
    if index >= len(status.devices):
        there = ", ".join(f"{d.name} ({d.model})" for d in status.devices)
        raise BackendError(f"{name} has no device cuda:{index}: found {there}.\nAsk for one of these.")
    return _make(name, index)


def _make(name: str, index: int) -> Backend:
    if name == "numpy":
        from mlp_xp_backends.numpy_backend import NumpyBackend

        return NumpyBackend()
    if name == "cupy":
        from mlp_xp_backends.cupy_backend import CupyBackend

        return CupyBackend(index)
    if name == "array_api_strict":
        from mlp_xp_backends.strict_backend import StrictBackend

        return StrictBackend()
    library, kind = name.split(":")
    device = kind if kind == "cpu" else f"{kind}:{index}"
    if library == "torch":
        from mlp_xp_backends.torch_backend import TorchBackend

        return TorchBackend(device)
    from mlp_xp_backends.jax_backend import JaxBackend

    return JaxBackend(device)
