"""Backends by name."""

from __future__ import annotations

import re
import sys
from functools import cache
from typing import TextIO

from mlp_xp_backends.protocol import Backend, BackendError, Status

SPECS = (
    "auto",
    "cpu",
    "cuda",
    "cuda:N",
    "numpy",
    "numpy:plain",
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
_GRAMMAR = re.compile(r"(?:(cupy|torch|jax):)?(cpu|cuda)(?::(\d+))?|(numpy(?::plain)?|cupy|torch|jax|array_api_strict)")
_ALIASES = {"gpu": "cuda", "np": "numpy", "pytorch": "torch", "strict": "array_api_strict"}


def get_backend(spec: str | None = None) -> Backend:
    """Return the backend that ``spec`` names, and import its library.

    ``None`` and ``auto`` mean CuPy on the first GPU, or NumPy where CuPy cannot be used. ``cpu`` and ``numpy`` mean
    NumPy with compiled loops, ``numpy:plain`` NumPy without the compiler. ``cuda`` and ``cuda:N`` mean CuPy on the
    first GPU and on GPU N, counted from 0. ``torch`` and ``jax`` take the first GPU that they can use, otherwise the
    CPU; ``torch:cpu``, ``torch:cuda``, ``torch:cuda:N`` and their counterparts for ``jax`` select the device.
    ``array_api_strict`` is the reference implementation of the standard, for tests.

    The same name returns the same object: what ``auto``, ``torch`` and ``jax`` mean is decided once in a process.
    Raises `BackendError` if the name is unknown or the backend cannot be used: the first line of the message gives the
    reason, the others give the remedy.

    >>> get_backend("cpu").device
    'cpu'
    """
    name, index = _parsed(spec)
    return _built(name, index)


def get_backend_or_cpu(spec: str | None = None, *, strict: bool = False, stream: TextIO | None = None) -> Backend:
    """`get_backend` for programs: fall back to NumPy on the CPU if the requested GPU cannot be used.

    Reports the fallback in one line on ``stream`` (default: standard error); with ``strict``, raises the
    `BackendError` of `get_backend` instead. Other errors are never replaced. ``auto`` raises no error, and reports the
    fallback only on a machine with an NVIDIA driver.

    >>> get_backend_or_cpu("cpu").name
    'numpy'
    """
    if spec is None or spec == "auto":
        from mlp_xp_backends.cuda import driver_version

        spec, strict = ("cuda" if driver_version() else "cpu"), False
    name, index = _parsed(spec)
    try:
        return _built(name, index)
    except BackendError as error:
        if strict or not (name == "cupy" or name.endswith("cuda")):
            raise
        reason = str(error).partition("\n")[0].rstrip(".")
        print(f"{reason}; running on the CPU instead (see: python -m mlp_xp_backends)", file=stream or sys.stderr)
        return get_backend("cpu")


def available_backends() -> tuple[Status, ...]:
    """Return the status of every backend, usable or not, with its devices and their memory.

    Never raises. Imports all installed libraries, which takes seconds, and creates a CUDA context on each GPU.

    >>> "numpy" in [status.name for status in available_backends() if status.usable]
    True
    """
    from mlp_xp_backends.probe import BACKENDS, probe

    return tuple(_with_memory(probe(name)) for name in BACKENDS)


def _with_memory(status: Status) -> Status:
    devices = []
    for i, device in enumerate(status.devices):
        try:
            devices.append(device._replace(memory=_built(status.name, i).memory()))
        except Exception:  # a device may refuse to report its memory
            devices.append(device)
    return status._replace(devices=tuple(devices))


def _parsed(spec: str | None) -> tuple[str, int]:
    """The key of ``spec`` in `probe.BACKENDS` and the index of the device."""
    if spec is None or spec == "auto":
        return ("cupy" if _usable("cupy") else "numpy"), 0
    match = _GRAMMAR.fullmatch(spec) if isinstance(spec, str) else None
    if match is None or (match[2] == "cpu" and (match[3] or match[1] == "cupy")):
        raise BackendError(_unknown(spec))
    library, kind, index, bare = match.groups()
    if bare in ("torch", "jax"):
        return f"{bare}:{'cuda' if _usable(f'{bare}:cuda') else 'cpu'}", 0
    if library in ("torch", "jax"):
        return f"{library}:{kind}", int(index or 0)
    return bare or {"cpu": "numpy", "cuda": "cupy"}[kind], int(index or 0)


def _unknown(spec: object) -> str:
    from difflib import get_close_matches

    word = str(spec).lower()
    near = _ALIASES.get(word) or next(iter(get_close_matches(word, SPECS, 1)), None)
    meant = f" Did you mean {near!r}?" if near else ""
    return f"unknown backend or device {spec!r}.{meant}\nKnown names: {', '.join(SPECS)}."


@cache
def _usable(name: str) -> bool:
    from mlp_xp_backends.probe import probe

    return probe(name).usable


@cache
def _built(name: str, index: int) -> Backend:
    from mlp_xp_backends.probe import probe

    status = probe(name, index)
    if not status.usable:
        raise status.error()
    if index >= len(status.devices):
        there = ", ".join(f"{d.name} ({d.model})" for d in status.devices)
        raise BackendError(f"{name} has no device cuda:{index}: found {there}.\nChoose one of these.")
    return _make(name, index)


def _make(name: str, index: int) -> Backend:
    if name == "numpy":
        from mlp_xp_backends.numpy_backend import NumpyBackend

        return NumpyBackend()
    if name == "numpy:plain":
        from mlp_xp_backends.numpy_plain import PlainNumpyBackend

        return PlainNumpyBackend()
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
