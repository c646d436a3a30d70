"""A report on this machine: the backends it can use, what the others lack, and how to install it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import textwrap
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from mlp_xp_backends import cuda
from mlp_xp_backends.memory import size
from mlp_xp_backends.protocol import Device, Status
from mlp_xp_backends.registry import available_backends

WIDTH = 100


class Report(NamedTuple):
    """The result of `gather`."""

    machine: dict[str, str]
    """Versions of Python and the packages, the system, the BLAS of NumPy and of compiled loops, the NVIDIA driver."""
    backends: tuple[Status, ...]
    """Every backend, usable or not."""


def gather() -> Report:
    """Inspect the machine and every backend. Never raises; imports all libraries, which takes seconds."""
    driver = cuda.driver_version()
    machine = {
        "mlp-xp": _version("mlp-xp"),
        "Python": f"{platform.python_version()} ({platform.python_implementation()})",
        "system": f"{platform.system()} {platform.release()} {platform.machine()}, {os.cpu_count()} CPUs",
        "NumPy": f"{np.__version__}, {_blas()}",
        "NumPy engine": _engine(),
        "array-api-compat": _version("array-api-compat"),
        "NVIDIA driver": f"runs CUDA {driver[0]}.{driver[1]}" if driver else "not found",
    }
    return Report(machine, available_backends())


def report() -> str:
    """Return the report as text, at most 100 columns wide except for commands, which are never wrapped."""
    return render(gather())


def render(found: Report) -> str:
    """Format ``found`` as text."""
    return "\n".join(_lines(found))


def _lines(found: Report) -> Iterator[str]:
    for name, value in found.machine.items():
        yield f"{name:<18}{value}"
    yield "\nBackends that can be used"
    for status in found.backends:
        if status.usable:
            yield f"  {status.name:<18}{status.version}"
            yield from (f"    {_device(device)}" for device in status.devices)
    if missing := [status for status in found.backends if not status.usable]:
        yield "\nBackends that cannot be used"
        for status in missing:
            yield from _why(status)


def _why(status: Status) -> Iterator[str]:
    yield from _wrapped(f"{status.name:<18}{status.reason}", 2)
    for line in status.remedy.splitlines():
        yield from [f"    {line}"] if line.startswith("Run: ") else _wrapped(line, 4)  # commands are not wrapped


def _wrapped(text: str, indent: int) -> Iterable[str]:
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=" " * indent,
        subsequent_indent=" " * (indent if indent > 2 else 20),
        break_long_words=False,
        break_on_hyphens=False,
    )


def _device(device: Device) -> str:
    memory = f"{size(device.memory.free)} of {size(device.memory.total)} free" if device.memory else ""
    return ", ".join(filter(None, (device.name, device.model, memory)))


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _engine() -> str:
    """The BLAS library that compiled loops of NumPy call."""
    from mlp_xp_backends.compiler.targets.cpu.libraries import blas

    library = blas()
    return f"calls {library.name}" if library is not None else "no BLAS of its own: calls NumPy for products"


def _blas() -> str:
    """NumPy's BLAS, and its number of threads if threadpoolctl is installed."""
    try:
        blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
        name = f"{blas['name']} {blas['version']}"
    except (KeyError, TypeError):
        name = "an unknown BLAS"
    try:
        from threadpoolctl import threadpool_info
    except ImportError:
        return name
    threads = [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]
    return f"{name}, {threads[0]} threads" if threads else name
