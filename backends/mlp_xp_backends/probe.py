"""Find out which backends this machine can use. Every failure becomes a `Status`, never an exception."""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from mlp_xp_backends import cuda
from mlp_xp_backends.protocol import Device, MissingError, Status

Found = tuple[str, tuple[Device, ...]]


def probe(name: str, index: int = 0) -> Status:
    """Return the status of one of `BACKENDS`, as seen by device ``index``.

    Imports its library unless it is known to be unusable. Uses no other device than ``index``.
    """
    library = name.partition(":")[0]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the status says it better
            version, devices = BACKENDS[name](index)
    except MissingError as missing:
        return Status(name, _installed_version(library), (), *missing.args)
    except Exception as error:
        reason = f"{library} fails to start: {type(error).__name__}: {cuda.first_line(error)}"
        return Status(name, _installed_version(library), (), reason, f'See: python -c "import {library}"')
    return Status(name, version, devices)


def _numpy(index: int) -> Found:
    return np.__version__, _cpu()


def _strict(index: int) -> Found:
    return _imported("array_api_strict", "pip install array-api-strict").__version__, _cpu()


def _cupy(index: int) -> Found:
    driver = cuda.driver_version()
    command = cuda.cupy_command(driver)
    above = "" if driver else "no NVIDIA driver was found, and "
    _need_installed("cupy", command, cuda.run(command, driver), above)
    cuda.need_one_wheel(wheels := cuda.installed_wheels(), driver)
    driver = cuda.need_driver("CuPy", 0, driver, command)
    cupy = _imported("cupy", f"pip install --force-reinstall {' '.join(wheels) or 'cupy'}")
    uninstall = f"pip uninstall -y {' '.join(wheels) or 'cupy'} && "
    built_for = cupy.cuda.runtime.runtimeGetVersion() // 1000
    cuda.need_driver("CuPy", built_for, driver, uninstall + command)
    devices = _cupy_devices(cupy.cuda.runtime)
    if index < len(devices):
        properties = cupy.cuda.runtime.getDeviceProperties(index)
        capability = properties["major"], properties["minor"]
        oldest = cuda.OLDEST.get(built_for, cuda.OLDEST[13])
        cuda.need_capability("CuPy", devices[index], capability, oldest, uninstall + cuda.cupy_command((12, 0)))
        cuda.need_toolkit(cupy, built_for, index)
    return cupy.__version__, devices


def _cupy_devices(runtime: Any) -> tuple[Device, ...]:
    try:
        count = runtime.getDeviceCount()
    except RuntimeError as error:
        if getattr(error, "status", None) == 100:  # cudaErrorNoDevice
            raise cuda.no_device("CuPy") from error
        raise
    if not count:
        raise cuda.no_device("CuPy")
    names = (runtime.getDeviceProperties(i)["name"].decode() for i in range(count))
    return tuple(Device(f"cuda:{i}", name) for i, name in enumerate(names))


def _torch_cpu(index: int) -> Found:
    return _imported("torch", 'pip install "mlp-xp[torch]"').__version__, _cpu()


def _torch_cuda(index: int) -> Found:
    driver = cuda.driver_version()
    url = f"https://download.pytorch.org/whl/{'cu126' if cuda.major(driver) == 12 else 'cu130'}"
    command = f"pip install --force-reinstall torch --index-url {url}"
    torch = _imported("torch", command)
    if torch.version.cuda is None:
        raise MissingError(f"torch {torch.__version__} is a build without CUDA", cuda.run(command, driver), command)
    cuda.need_driver("torch", int(torch.version.cuda.partition(".")[0]), driver, command)
    if not torch.cuda.is_available():
        raise cuda.no_device("torch")
    names = (torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
    devices = tuple(Device(f"cuda:{i}", name) for i, name in enumerate(names))
    if index < len(devices):
        capability, oldest = torch.cuda.get_device_capability(index), cuda.oldest_of(torch.cuda.get_arch_list())
        cuda.need_capability("torch", devices[index], capability, oldest, command.replace("cu130", "cu126"))
    return torch.__version__, devices


def _jax_cpu(index: int) -> Found:
    jax = _imported("jax", 'pip install "mlp-xp[jax]"')
    jax.devices("cpu")  # raises if JAX_PLATFORMS excludes the CPU
    return jax.__version__, _cpu()


def _jax_cuda(index: int) -> Found:
    driver = cuda.driver_version()
    command = f'pip install "jax[cuda{cuda.major(driver)}]"'
    jax = _imported("jax", command)
    cuda.need_driver("jax", 0, driver, command)
    try:
        devices = jax.devices("cuda")
    except RuntimeError as error:
        raise MissingError(f"jax finds no CUDA device: {cuda.first_line(error)}", f"Run: {command}", command) from error
    return jax.__version__, tuple(Device(f"cuda:{i}", d.device_kind) for i, d in enumerate(devices))


BACKENDS: dict[str, Callable[[int], Found]] = {
    "numpy": _numpy,
    "numpy:plain": _numpy,
    "cupy": _cupy,
    "torch:cpu": _torch_cpu,
    "torch:cuda": _torch_cuda,
    "jax:cpu": _jax_cpu,
    "jax:cuda": _jax_cuda,
    "array_api_strict": _strict,
}


def _cpu() -> tuple[Device, ...]:
    return (Device("cpu"),)


def _need_installed(library: str, command: str, remedy: str, above: str = "") -> None:
    if importlib.util.find_spec(library) is None:
        raise MissingError(f"{above}{library} is not installed", remedy, command)


def _imported(library: str, command: str) -> Any:
    """Import ``library``; raise `MissingError` if it is missing or broken, with ``command`` as the remedy."""
    _need_installed(library, command, f"Run: {command}")
    try:
        return importlib.import_module(library)
    except ImportError as error:
        raise MissingError(
            f"the installed {library} is broken: {cuda.first_line(error)}", f"Run: {command}", command
        ) from error


def _installed_version(library: str) -> str:
    import importlib.metadata

    for name in cuda.WHEELS if library == "cupy" else (library,):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return ""
