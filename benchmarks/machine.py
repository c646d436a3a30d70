"""The conditions on which the figures depend: processor, threads, versions."""

from __future__ import annotations

import os
import platform
import re
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

PACKAGES = ("numpy", "mkl", "torch", "jax", "jaxlib", "scikit-learn", "cupy-cuda12x", "cupy-cuda13x")
POOLS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def pin(threads: int | None) -> int:
    """Limit every library to ``threads`` threads (``None``: all allowed cores). Call it before any is imported.

    OpenBLAS and OpenMP read the environment; XLA uses as many threads as the process has cores.
    """
    allowed = sorted(os.sched_getaffinity(0))
    threads = threads or len(allowed)
    if not 1 <= threads <= len(allowed):
        raise SystemExit(f"--threads {threads}: this process may run on {len(allowed)} cores")
    os.sched_setaffinity(0, allowed[:threads])
    os.environ |= dict.fromkeys(POOLS, str(threads))
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # otherwise, JAX allocates most of a GPU's memory
    return threads


def need_torch() -> None:
    """Exit with one line if PyTorch, with which this benchmark compares, is not installed."""
    if find_spec("torch") is None:
        raise SystemExit('this benchmark compares with PyTorch: pip install "mlp-xp[torch]"')


def describe(device: str, threads: int) -> dict[str, Any]:
    """A description of the machine, which is stored beside the figures."""
    import mlp_xp

    return {
        "device": device,
        "model": cpu_model() if device == "cpu" else gpu_model(),
        "threads": threads,
        "system": platform.platform(),
        "versions": {"mlp-xp": mlp_xp.__version__, "Python": platform.python_version()} | versions(),
    }


def pools() -> list[str]:
    """The thread pools that are loaded, with their numbers of threads: the effect of `pin`."""
    from threadpoolctl import threadpool_info

    return sorted(
        {f"{pool['internal_api']} {pool['version'] or ''}: {pool['num_threads']}" for pool in threadpool_info()}
    )


def versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def cpu_model() -> str:
    """The processor's name with its family, model and stepping, because many processors share a name."""
    lines = dict(
        line.split(":", 1)
        for line in Path("/proc/cpuinfo").read_text().partition("\n\n")[0].splitlines()
        if ":" in line
    )
    fields = {name.strip(): value.strip() for name, value in lines.items()}
    name = re.sub(r"\((R|TM)\)", "", fields.get("model name", platform.machine()))
    numbers = [fields[k] for k in ("cpu family", "model", "stepping") if k in fields]
    return f"{name} ({'-'.join(numbers)})" if numbers else name


def gpu_model() -> str:
    import cupy

    return str(cupy.cuda.runtime.getDeviceProperties(0)["name"], "utf-8")


def slug(machine: dict[str, Any]) -> str:
    """The name of the machine's files, such as ``cpu-intel-xeon-processor-6-143-8-2-threads``."""
    model = re.sub(r"[^a-z0-9]+", "-", machine["model"].lower()).strip("-")
    return f"{machine['device']}-{model}-{machine['threads']}-threads"
