"""CUDA on this machine: the driver, the CuPy wheels, and the commands that make them fit together."""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

from mlp_xp_backends.protocol import Device, MissingError

Version = tuple[int, int]

WHEELS = ("cupy", "cupy-cuda11x", "cupy-cuda12x", "cupy-cuda13x")
GET_DRIVER = (
    "With one, install NVIDIA's driver (https://www.nvidia.com/drivers; on Ubuntu: sudo ubuntu-drivers "
    "install) and check it with nvidia-smi; start containers with docker run --gpus all."
)
OLDEST = {12: (5, 0), 13: (7, 5)}
"""The lowest compute capability that each major version of the CUDA toolkit compiles for."""
ELSE_CPU = 'A machine without an NVIDIA GPU computes with device="cpu".'


def driver_version() -> Version | None:
    """Return the newest CUDA version that the installed driver supports, such as ``(13, 0)``; None without a driver.

    Creates no CUDA context, so that forked processes can still use CUDA.
    """
    for name in ("libcuda.so.1", "nvcuda.dll"):
        try:
            library = ctypes.CDLL(name)
        except OSError:
            continue
        version = ctypes.c_int()
        if library.cuDriverGetVersion(ctypes.byref(version)) == 0 and version.value:
            return version.value // 1000, version.value % 1000 // 10
    return None


def major(driver: Version | None) -> int:
    """The CUDA major version to install for ``driver``: 13, the newest, unless the driver supports CUDA 12 only."""
    return 12 if driver is not None and driver[0] <= 12 else 13


def cupy_command(driver: Version | None) -> str:
    """The command that installs the CuPy for ``driver``."""
    return f'pip install "mlp-xp[cuda{major(driver)}]"'


def run(command: str, driver: Version | None) -> str:
    """The advice to run ``command``, preceded by how to install a driver if there is none."""
    return f"Run: {command}" if driver else f"{ELSE_CPU} {GET_DRIVER} Then:\nRun: {command}"


def need_driver(library: str, built_for: int, driver: Version | None, command: str) -> Version:
    """Return ``driver``; raise `MissingError` unless it supports CUDA ``built_for`` (a major version)."""
    if driver is None:
        raise MissingError(f"{library} is installed, but no NVIDIA driver was found", f"{ELSE_CPU} {GET_DRIVER}")
    if built_for > driver[0]:
        raise MissingError(
            f"the installed {library} needs CUDA {built_for}; the driver runs CUDA {driver[0]}.{driver[1]}",
            f"Run: {command}\nOr update NVIDIA's driver to one for CUDA {built_for} (nvidia-smi prints the version).",
            command,
        )
    return driver


def no_device(library: str) -> MissingError:
    """The error for a machine that has a driver but no device."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    hidden = f" (CUDA_VISIBLE_DEVICES is {visible!r})" if visible is not None else ""
    return MissingError(
        f"{library} finds the NVIDIA driver but no CUDA device{hidden}",
        f"Check the devices with nvidia-smi and, if it is set, CUDA_VISIBLE_DEVICES. {ELSE_CPU}",
    )


def installed_wheels() -> dict[str, str]:
    """The installed CuPy distributions and their versions. More than one is an error."""
    import importlib.metadata  # imported here because "auto" without CuPy does not need it

    wheels = {}
    for name in WHEELS:
        try:
            wheels[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return wheels


def need_one_wheel(wheels: Mapping[str, str], driver: Version | None) -> None:
    """Raise `MissingError` if several CuPy distributions overwrite each other's files."""
    if len(wheels) > 1:
        command = f"pip uninstall -y {' '.join(wheels)} && {cupy_command(driver)}"
        found = " and ".join(f"{name} {version}" for name, version in wheels.items())
        raise MissingError(f"two CuPy wheels overwrite each other: {found}", f"Run: {command}", command)


def need_capability(library: str, device: Device, capability: Version, oldest: Version, command: str) -> None:
    """Raise `MissingError` unless ``device`` has the compute capability ``oldest`` or a higher one.

    ``command`` installs the ``library`` for CUDA 12, which supports older GPUs than CUDA 13.
    """
    if capability >= oldest:
        return
    reason = (
        f"the installed {library} needs a GPU of compute capability {oldest[0]}.{oldest[1]} or higher; "
        f"{device.name} ({device.model}) has {capability[0]}.{capability[1]}"
    )
    if OLDEST[12] <= capability < OLDEST[13] and oldest > OLDEST[12]:
        raise MissingError(reason, f"Run: {command}", command)
    raise MissingError(reason, 'Use device="cpu", or a newer GPU.')


def oldest_of(architectures: Iterable[str]) -> Version:
    """The lowest compute capability among ``architectures`` such as ``sm_75`` and ``sm_90a``; 0.0 if there is none.

    >>> oldest_of(["sm_100", "sm_75", "compute_120"])
    (7, 5)
    """
    numbers = [int(found[1]) for name in architectures if (found := re.fullmatch(r"sm_(\d+)[a-z]?", name))]
    return divmod(min(numbers, default=0), 10)


def need_toolkit(cupy: Any, built_for: int, index: int) -> None:
    """Raise `MissingError` unless CuPy finds the compiler and the cuBLAS of CUDA ``built_for``, on device ``index``."""
    try:
        cupy.cuda.nvrtc.getVersion()
        with cupy.cuda.Device(index):
            cupy.cuda.device.get_cublas_handle()  # CuPy keeps the handle, which the first product needs anyway
    except Exception as error:
        if hasattr(error, "status"):  # raised by CUDA itself, for instance because the device is out of memory
            raise
        command = f'pip install "cupy-cuda{built_for}x[ctk]"'
        reason = f"CuPy does not find the CUDA {built_for} libraries: {first_line(error)}"
        raise MissingError(reason, f"Run: {command}", command) from error


def first_line(error: BaseException) -> str:
    """The first line of the message of ``error``."""
    return str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__
